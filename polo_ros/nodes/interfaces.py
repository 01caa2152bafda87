"""Every topic and service of a session, and who may use it.

docs/interfaces.md shows these tables, `polo permissions` makes security policies of them, and tests hold them against
running nodes. A new node is a name in `NODES`, a new topic or service a line below. No ROS is needed to read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NODES = ("bridge", "planner", "learner", "recorder", "monitor", "shadow")
# Of which a fleet has one for each robot, in the robot's namespace; of the others it has one for all.
OF_ROBOT = ("bridge", "planner", "shadow")
# Who looks and intervenes: the `ros2` program, RViz, Foxglove. Hears every topic, calls every service.
OPERATOR = "operator"


@dataclass(frozen=True)
class Topic:
    """A topic. Its name is relative to its publisher's namespace, absolute, or of each publisher by itself: ~/name."""

    name: str
    type: str
    publishers: tuple[str, ...]
    subscribers: tuple[str, ...]
    qos: str
    sent: str = ""  # when it is published
    heard: str = ""  # who else hears it, and when
    alone: tuple[str, ...] = ()  # subscribers besides, in a session of one robot


@dataclass(frozen=True)
class Service:
    """A service of nodes. Its name is as a topic's; only the operator calls it."""

    name: str
    type: str
    servers: tuple[str, ...]
    effect: str = ""


LAST = "reliable, volatile, depth 1"
KEPT = "reliable, transient local, depth 1"

TOPICS = (
    Topic(
        "state",
        "polo_ros/msg/State",
        ("bridge",),
        ("planner", "recorder", "shadow"),
        f"{LAST}; a realtime planner subscribes best effort",
        heard="monitor while it draws",
        alone=("monitor",),
    ),
    Topic(
        "plan",
        "polo_ros/msg/Plan",
        ("planner",),
        ("bridge", "recorder"),
        f"{LAST}; never latched",
        heard="monitor while it draws",
        alone=("monitor",),
    ),
    Topic(
        "transition",
        "polo_ros/msg/Transition",
        ("bridge",),
        ("learner", "recorder", "shadow"),
        "reliable, volatile, depth 2000",
    ),
    Topic("weights", "polo_ros/msg/Weights", ("learner",), ("planner", "recorder"), KEPT),
    Topic(
        "planner/status",
        "polo_ros/msg/PlannerStatus",
        ("planner",),
        ("recorder", "bridge"),
        KEPT,
        heard="bridge only until control starts",
    ),
    Topic("learner/status", "polo_ros/msg/LearnerStatus", ("learner",), ("recorder",), KEPT),
    Topic("joint_states", "sensor_msgs/msg/JointState", ("bridge",), ("recorder",), LAST, heard="any tool"),
    Topic("shadow/state", "polo_ros/msg/State", ("shadow",), ("recorder",), LAST, heard="any tool"),
    Topic("shadow/joint_states", "sensor_msgs/msg/JointState", ("shadow",), ("recorder",), LAST, heard="any tool"),
    Topic(
        "shadow/difference",
        "polo_ros/msg/Difference",
        ("shadow",),
        ("recorder",),
        "reliable, volatile, depth 2000",
        heard="any tool",
    ),
    Topic(
        "plan_markers",
        "visualization_msgs/msg/MarkerArray",
        ("monitor",),
        (),
        LAST,
        sent="five times a second while somebody listens",
        heard="RViz, Foxglove",
    ),
    Topic(
        "/diagnostics",
        "diagnostic_msgs/msg/DiagnosticArray",
        NODES,
        ("recorder", "monitor"),
        "reliable, depth 1",
        sent="once a second",
        heard="any tool",
    ),
    Topic(
        "/clock",
        "rosgraph_msgs/msg/Clock",
        ("bridge",),
        (),
        "reliable, depth 1",
        sent="with a simulated driver; a fleet's as `clock`",
        heard="nodes with use_sim_time",
        alone=tuple(node for node in NODES if node != "bridge"),
    ),
    Topic("/parameter_events", "rcl_interfaces/msg/ParameterEvent", NODES, ("recorder",), "rclpy's"),
    Topic("/rosout", "rcl_interfaces/msg/Log", NODES, (), "rclpy's", heard="any tool"),
    Topic("~/transition_event", "lifecycle_msgs/msg/TransitionEvent", NODES, (), "rclpy's", heard="any tool"),
)

TRIGGER = "std_srvs/srv/Trigger"

SERVICES = (
    Service("~/reset", TRIGGER, ("bridge",), "next episode at the end of this control period; simulation only"),
    Service("~/pause", TRIGGER, ("bridge",), "stop; simulation only"),
    Service("~/resume", TRIGGER, ("bridge",), "go on after a pause"),
    Service("~/step", TRIGGER, ("bridge",), "one control period while paused"),
    Service(
        "~/stop",
        TRIGGER,
        ("bridge",),
        "safe stop in every period, until armed; a bridge that is restarted goes on with it",
    ),
    Service(
        "~/arm",
        TRIGGER,
        ("bridge",),
        "let plans pass again after a stop or a fault; refused while the fault's cause is still there "
        "([safety](safety.md))",
    ),
    # What rclpy brings with every node.
    Service("~/describe_parameters", "rcl_interfaces/srv/DescribeParameters", NODES),
    Service("~/get_parameter_types", "rcl_interfaces/srv/GetParameterTypes", NODES),
    Service("~/get_parameters", "rcl_interfaces/srv/GetParameters", NODES),
    Service("~/list_parameters", "rcl_interfaces/srv/ListParameters", NODES),
    Service("~/set_parameters", "rcl_interfaces/srv/SetParameters", NODES),
    Service("~/set_parameters_atomically", "rcl_interfaces/srv/SetParametersAtomically", NODES),
    Service("~/get_type_description", "type_description_interfaces/srv/GetTypeDescription", NODES),
    Service("~/change_state", "lifecycle_msgs/srv/ChangeState", NODES),
    Service("~/get_state", "lifecycle_msgs/srv/GetState", NODES),
    Service("~/get_available_states", "lifecycle_msgs/srv/GetAvailableStates", NODES),
    Service("~/get_available_transitions", "lifecycle_msgs/srv/GetAvailableTransitions", NODES),
    Service("~/get_transition_graph", "lifecycle_msgs/srv/GetAvailableTransitions", NODES),
)


@dataclass(frozen=True)
class Extra:
    """A node that a driver brings into the bridge's process, and what it uses; names as a topic's."""

    node: str
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


def of_driver(driver: str, settings: Any) -> tuple[Extra, ...]:
    """The nodes that a driver of this package brings, with `settings`, its own; most bring none."""
    if driver != "ros2_control":
        return ()
    heard = (settings.joint_states, settings.odometry, settings.imu)
    controller = settings.command_topic.rpartition("/")[0]
    return (
        Extra(
            "ros2_control_driver",
            publishes=(settings.command_topic, "/parameter_events"),
            subscribes=tuple(name for name in heard if name),
            serves=("~/get_type_description",),
            calls=(f"{controller}/get_parameters",) if controller else (),
        ),
    )


def resolve(name: str, namespace: str, node: str) -> str:
    """The absolute name of a topic or service of `node` in `namespace`, "" or "/a/b"."""
    if name.startswith("/"):
        return name
    if name.startswith("~/"):
        return f"{namespace}/{node}/{name[2:]}"
    return f"{namespace}/{name}"


def interface_tables() -> str:
    """The Markdown tables of docs/interfaces.md: topics, services, and what every node serves."""
    lines = ["| topic | type | from | to | QoS |", "|---|---|---|---|---|"]
    for topic in TOPICS:
        cells = (_who(topic.publishers, topic.sent), _who(topic.subscribers, topic.heard), topic.qos)
        lines.append(f"| `{topic.name}` | {topic.type} | {' | '.join(cells)} |")
    lines += ["", "| service | type | effect |", "|---|---|---|"]
    for service in SERVICES:
        if service.servers != NODES:
            names = " ".join(f"`{server}/{service.name[2:]}`" for server in service.servers)
            lines.append(f"| {names} | {service.type} | {service.effect} |")
    lines += [
        f"| `{service.name}` | {service.type} | of every node |" for service in SERVICES if service.servers == NODES
    ]
    return "\n".join(lines) + "\n"


def _who(nodes: Sequence[str], remark: str) -> str:
    names = "all nodes" if set(nodes) == set(NODES) else ", ".join(nodes)
    return f"{names}{'; ' if names and remark else ''}{remark}"
