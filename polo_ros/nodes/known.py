"""Every setting that a session's parameter file may hold, whichever node it is for."""

from __future__ import annotations

from polo_ros.agents.polo import PoloConfig
from polo_ros.session.config import BridgeConfig, LearnerNodeConfig, PlannerConfig, RecorderConfig, ShadowNodeConfig

OTHERS = (PoloConfig(), BridgeConfig(), PlannerConfig(), LearnerNodeConfig(), RecorderConfig(), ShadowNodeConfig())
