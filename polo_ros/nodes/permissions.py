"""What each node of a session may do, for SROS 2 and for DDS Security: made from the tables of interfaces.

A policy is what `ros2 security create_permission` reads. Permissions are what it makes of one: the document of DDS
Security 1.1, 9.4.1.3, that a middleware reads once it is signed. All nodes of one process share an enclave, and every
process of ours is one node, so that an enclave is called as its node is, with the namespace before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any
from xml.etree import ElementTree

from polo_ros import drivers
from polo_ros.nodes.interfaces import NODES, OF_ROBOT, OPERATOR, SERVICES, TOPICS, Extra, Topic, of_driver, resolve

POLICY_VERSION = "0.2.0"
RIGHTS = (("topic", "publish"), ("topic", "subscribe"), ("service", "reply"), ("service", "request"))
LAST_DOMAIN = 232  # the highest whose ports are valid
# By which participants of one graph tell each other what nodes they hold: each needs it.
DISCOVERY = "ros_discovery_info"
# The nodes that the `ros2` program makes, named by process, and what each of them has.
CLI_NODE = "_ros2cli_*"
CLI_PUBLISHES = ("/rosout", "/parameter_events")
CLI_SERVES = (f"/{CLI_NODE}/get_type_description",)


@dataclass(frozen=True)
class Profile:
    """What one node may do; absolute names, in which * stands for anything."""

    namespace: str  # "/" or "/a/b"
    node: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    reply: tuple[str, ...] = ()
    request: tuple[str, ...] = ()

    def allows(self, word: str, name: str) -> bool:
        """Whether the node may `publish`, `subscribe` to, `reply` to or `request` a name."""
        allowed: tuple[str, ...] = getattr(self, word)
        return any(fnmatchcase(name, expression) for expression in allowed)


@dataclass(frozen=True)
class Enclave:
    """A security enclave: an identity, and the nodes that have it."""

    path: str
    profiles: tuple[Profile, ...]


def enclaves(
    namespace: str = "", robots: Sequence[str] = (), driver: str = drivers.SIMULATION, settings: Any = None
) -> tuple[Enclave, ...]:
    """One enclave for each node of a session, and one for who operates it.

    Args:
        namespace: Of the session's nodes; empty: none.
        robots: Of a fleet, the namespaces of its robots below that one; empty: it is one robot.
        driver: Of the robots, as a session's parameter names it.
        settings: The driver's own, where it has nodes of its own.

    Raises:
        ValueError: A namespace is not valid.
    """
    prefix = _prefix(namespace)
    below = [f"{prefix}{_prefix(robot)}" for robot in robots]
    made = []
    for node in NODES:
        for place in _places(node, prefix, below):
            profiles = [_profile(node, place, prefix, below)]
            if node == "bridge":
                profiles += [_extra(place, extra) for extra in of_driver(driver, settings)]
            made.append(Enclave(f"{place}/{node}", tuple(profiles)))
    return (*made, Enclave(f"{prefix}/{OPERATOR}", (_operator(prefix, below),)))


def policy(of: Sequence[Enclave]) -> str:
    """A SROS 2 policy, version 0.2.0, as XML."""
    root = ElementTree.Element("policy", version=POLICY_VERSION)
    found = ElementTree.SubElement(root, "enclaves")
    for enclave in of:
        profiles = ElementTree.SubElement(ElementTree.SubElement(found, "enclave", path=enclave.path), "profiles")
        for one in enclave.profiles:
            profile = ElementTree.SubElement(profiles, "profile", ns=one.namespace, node=one.node)
            for kind, word in (
                ("topic", "publish"),
                ("topic", "subscribe"),
                ("service", "reply"),
                ("service", "request"),
            ):
                names: tuple[str, ...] = getattr(one, word)
                if names:
                    group = ElementTree.SubElement(profile, f"{kind}s", {word: "ALLOW"})
                    _add(group, kind, names)
    return _text(root)


def permissions(of: Sequence[Enclave], domain: int, begin: datetime, end: datetime) -> str:
    """DDS permissions as XML, one grant each enclave; what is not allowed is denied.

    Args:
        of: Enclaves; each one's certificate is for the common name that its path is.
        domain: ROS_DOMAIN_ID that they are for.
        begin: From when on they are valid, UTC.
        end: Until when, UTC.

    Raises:
        ValueError: There is no such domain, or they would never be valid.
    """
    if not 0 <= domain <= LAST_DOMAIN:
        raise ValueError(f"domain {domain} is not within 0 .. {LAST_DOMAIN}")
    if not begin < end:
        raise ValueError(f"permissions from {begin} until {end} are never valid")
    root = ElementTree.Element("dds")
    document = ElementTree.SubElement(root, "permissions")
    for enclave in of:
        grant = ElementTree.SubElement(document, "grant", name=enclave.path)
        _leaf(grant, "subject_name", f"CN={enclave.path}")
        validity = ElementTree.SubElement(grant, "validity")
        _leaf(validity, "not_before", begin.strftime("%Y-%m-%dT%H:%M:%S"))
        _leaf(validity, "not_after", end.strftime("%Y-%m-%dT%H:%M:%S"))
        rule = ElementTree.SubElement(grant, "allow_rule")
        _leaf(ElementTree.SubElement(rule, "domains"), "id", str(domain))
        written, read = _dds_topics(enclave)
        for word, names in (("publish", written), ("subscribe", read)):
            _add(ElementTree.SubElement(ElementTree.SubElement(rule, word), "topics"), "topic", names)
        _leaf(grant, "default", "DENY")
    return _text(root)


def _prefix(namespace: str) -> str:
    """A namespace as it stands before names: "" or "/a/b"."""
    bare = namespace.strip("/")
    if bare and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*", bare):
        raise ValueError(f"namespace '{namespace}' is not valid; write names of letters, digits and _ with / between")
    return bare and f"/{bare}"


def _places(node: str, prefix: str, robots: Sequence[str]) -> Sequence[str]:
    """The namespaces that have a node of this name."""
    return robots if robots and node in OF_ROBOT else (prefix,)


def _topic(topic: Topic, place: str, node: str, fleet: bool) -> str:
    """A topic's absolute name as `node` in `place` publishes it."""
    name = topic.name
    if fleet and name == "/clock":  # each robot has its own time
        name = "clock"
    return resolve(name, place, node)


def _profile(node: str, place: str, prefix: str, robots: Sequence[str]) -> Profile:
    fleet = bool(robots)
    publish, subscribe = set(), set()
    for topic in TOPICS:
        if node in topic.publishers:
            publish.add(_topic(topic, place, node, fleet))
        if node in topic.subscribers or (node in topic.alone and not fleet):
            for other in topic.publishers:
                # A robot's nodes hear those of the same robot, the others those of all.
                same = node in OF_ROBOT and other in OF_ROBOT
                heard = (place,) if same else _places(other, prefix, robots)
                subscribe |= {_topic(topic, there, other, fleet) for there in heard}
    reply = {resolve(service.name, place, node) for service in SERVICES if node in service.servers}
    return Profile(place or "/", node, _sorted(publish), _sorted(subscribe), _sorted(reply))


def _extra(place: str, extra: Extra) -> Profile:
    parts = (extra.publishes, extra.subscribes, extra.serves, extra.calls)
    return Profile(
        place or "/", extra.node, *(_sorted(resolve(name, place, extra.node) for name in part) for part in parts)
    )


def _operator(prefix: str, robots: Sequence[str]) -> Profile:
    heard = {
        _topic(topic, place, node, bool(robots))
        for topic in TOPICS
        for node in topic.publishers
        for place in _places(node, prefix, robots)
    }
    called = {
        resolve(service.name, place, node)
        for service in SERVICES
        for node in service.servers
        for place in _places(node, prefix, robots)
    }
    return Profile("/", CLI_NODE, CLI_PUBLISHES, _sorted(heard), CLI_SERVES, _sorted(called))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def _dds_topics(enclave: Enclave) -> tuple[list[str], list[str]]:
    """Topics of DDS that an enclave writes and reads: ROS puts rt before a topic, rq and rr before a service's two."""
    written, read = {DISCOVERY}, {DISCOVERY}
    for one in enclave.profiles:
        written |= {f"rt{name}" for name in one.publish}
        read |= {f"rt{name}" for name in one.subscribe}
        written |= {f"rq{name}Request" for name in one.request} | {f"rr{name}Reply" for name in one.reply}
        read |= {f"rq{name}Request" for name in one.reply} | {f"rr{name}Reply" for name in one.request}
    return sorted(written), sorted(read)


def _add(parent: ElementTree.Element, tag: str, texts: Sequence[str]) -> None:
    for text in texts:
        _leaf(parent, tag, text)


def _leaf(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"
