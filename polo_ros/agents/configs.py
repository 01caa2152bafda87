"""Settings of all agents at their defaults: what an agent's name means, without torch."""

from __future__ import annotations

from typing import Any

from polo_ros.agents.loop_config import LoopConfig, OfflineAgentConfig
from polo_ros.agents.polo import PoloConfig
from polo_ros.agents.sac import SacAgentConfig
from polo_ros.config import replace
from polo_ros.learning.offline_config import ALGORITHMS

# All candidates are the actor's, and their mean is played (section 5.2); config/offline.yaml has the rest.
OFFLINE = replace(OfflineAgentConfig(), {"arc.beta": 1.0, "arc.iterations": 1, "arc.executed": "mean"})
CEM_ALONE = {"lookahead.search": "cem", "lookahead.value": False}

CONFIGS: dict[str, Any] = {
    "polo": PoloConfig(),
    "loop": LoopConfig(),
    "sac": SacAgentConfig(),
    # LOOP's baselines, of the same parts (Sikchi et al. 2021, section 6.1).
    "pets_restricted": replace(LoopConfig(), CEM_ALONE),
    "loop_sarsa": replace(LoopConfig(), {"sac.next_action": "played"}),
    "loop_no_arc": replace(LoopConfig(), {"lookahead.search": "cem"}),
    "pets": replace(LoopConfig(), {**CEM_ALONE, "cem.horizon": 30}),
    # Within a limit on costs (section 5.2, eq. 10); config/safe.yaml has what both share.
    "safe_pets": replace(LoopConfig(), {**CEM_ALONE, "constraint.active": True}),
    "safe_loop": replace(LoopConfig(), {"constraint.active": True, "arc.executed": "mean"}),
    # By what `polo train` learned offline.
    **dict.fromkeys(ALGORITHMS, OFFLINE),
}
