"""The table of all parameters, made from the dataclasses that declare them."""

from __future__ import annotations

from typing import Any

from polo_ros import drivers
from polo_ros.agents.loop_config import LoopConfig, OfflineAgentConfig
from polo_ros.agents.polo import PoloConfig
from polo_ros.config import fields, flatten, type_name
from polo_ros.session.config import (
    BridgeConfig,
    LearnerNodeConfig,
    OfflineNodeConfig,
    PlannerConfig,
    RecorderConfig,
    SessionConfig,
    ShadowNodeConfig,
)

# Settings and the nodes that declare them; the recorder declares all, to keep them with the bag.
OWNERS: tuple[tuple[str, Any], ...] = (
    ("every node", SessionConfig()),
    ("bridge, monitor", BridgeConfig()),
    ("planner", PlannerConfig()),
    ("learner", LearnerNodeConfig()),
    ("learner of `polo launch offline`", OfflineNodeConfig()),
    ("recorder", RecorderConfig()),
    ("shadow", ShadowNodeConfig()),
    ("planner, learner, agent `polo`", PoloConfig()),
    ("planner, learner, agents `loop`, `sac` and LOOP's baselines", LoopConfig()),
    ("planner, learner, agents `crr`, `plas` and `mbop`, beside those above", OfflineAgentConfig()),
)


def parameter_table() -> str:
    """Markdown: name, type, default, range, whether it changes live, meaning; one table an owner.

    Drivers of other packages are no part of it.
    """
    lines: list[str] = []
    of_drivers = [
        (f"bridge, driver `{name}`", drivers.settings(name)) for name in drivers.names() if drivers.built_in(name)
    ]
    for owner, config in (*OWNERS, *of_drivers):
        if not flatten(config):
            continue
        lines += [
            f"### Of {owner}",
            "",
            "| parameter | type | default | range | live | meaning |",
            "|---|---|---|---|---|---|",
        ]
        above = flatten(LoopConfig()) if isinstance(config, OfflineAgentConfig) else {}
        for name, default, kind, info in fields(config):
            if name in above:
                continue
            low = "" if info.low is None else f"{info.low:g}"
            high = "" if info.high is None else f"{info.high:g}"
            allowed = ", ".join(info.choices) or (f"{low} .. {high}" if low or high else "")
            unit = f" [{info.unit}]" if info.unit else ""
            shown = "empty" if default in ("", ()) else f"`{list(default) if isinstance(default, tuple) else default}`"
            live = "yes" if info.live else ""
            lines.append(f"| `{name}` | {type_name(kind)} | {shown} | {allowed} | {live} | {info.doc}{unit} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
