"""The experiments by name."""

from __future__ import annotations

import difflib
import importlib

from polo_ros.experiments.base import Experiment

# Where each experiment lives; loaded when asked for, since one may need what another does not.
_PLACES = {
    "polo.exploration": "polo_exploration:Exploration",
    "polo.horizon": "polo_horizon:Horizon",
    "polo.value_only": "polo_value_only:ValueOnly",
    "polo.hand": "polo_hand:Hand",
    "polo.n_step": "polo_n_step:NStep",
    "polo.head_size": "polo_head_size:HeadSize",
    "polo.walk": "polo_walk:Walk",
    "polo.box": "polo_box:Box",
    "polo.realtime": "polo_realtime:Realtime",
    "loop.online": "loop_online:Online",
    "loop.actor_divergence": "loop_actor_divergence:ActorDivergence",
    "loop.tradeoff": "loop_tradeoff:Tradeoff",
    "loop.preset": "loop_preset:Preset",
    "loop.safe": "loop_safe:Safe",
    "loop.offline": "loop_offline:Offline",
}


def names() -> list[str]:
    """All experiments, those of a paper in its order."""
    return list(_PLACES)


def get(name: str) -> Experiment:
    """The experiment of that name; raises ValueError for an unknown one."""
    if name not in _PLACES:
        near = difflib.get_close_matches(name, _PLACES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"unknown experiment '{name}'; experiments: {', '.join(_PLACES)}{hint}")
    module, _, factory = _PLACES[name].partition(":")
    experiment: Experiment = getattr(importlib.import_module(f"polo_ros.experiments.{module}"), factory)()
    return experiment
