"""Every setting that a session's parameter file may hold, whichever node it is for."""

from __future__ import annotations

from polo_ros.agents.configs import CONFIGS
from polo_ros.session.config import (
    BridgeConfig,
    LearnerNodeConfig,
    OfflineNodeConfig,
    PlannerConfig,
    RecorderConfig,
    ShadowNodeConfig,
)

OTHERS = (
    *CONFIGS.values(),
    BridgeConfig(),
    PlannerConfig(),
    LearnerNodeConfig(),
    OfflineNodeConfig(),
    RecorderConfig(),
    ShadowNodeConfig(),
)
