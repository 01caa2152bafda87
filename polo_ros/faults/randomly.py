"""Random cases: one to three faults at once, with numbers that hypothesis draws from a seed."""

from __future__ import annotations

import warnings

from polo_ros.faults import messages
from polo_ros.faults.cases import Case
from polo_ros.faults.kinds import Fault, Relay, Rival, Signal, Spoil

# Nodes that may stand still without a bound on what is lost.
PATIENT = ("planner", "learner", "recorder", "monitor")


def drawn(number: int, seed: int) -> list[Case]:
    """`number` cases; the same for the same seed and version of hypothesis.

    Raises:
        ValueError: hypothesis is not installed.
    """
    try:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import seed as seeded
        from hypothesis import strategies as st
        from hypothesis.errors import HypothesisWarning
    except ImportError:
        raise ValueError(
            "random cases need hypothesis: pip install hypothesis, or give --cases a lower number"
        ) from None

    numbers = st.floats(width=64) | st.floats(-1e3, 1e3)
    integers = st.integers(0, 2**64 - 1) | st.integers(0, 10**6)

    def edit(message: str) -> st.SearchStrategy[tuple[object, ...]]:
        known = st.sampled_from(messages.edits(message))
        own: list[st.SearchStrategy[tuple[object, ...]]] = [known]
        for name, type_ in messages.fields(message).items():
            if type_ == "float64":
                own.append(st.tuples(st.just(name), st.just("value"), numbers))
            elif type_ == "float64[]":
                own.append(st.tuples(st.just(name), st.just("values"), st.lists(numbers, max_size=60)))
            elif type_ in ("uint64", "uint32"):
                own.append(st.tuples(st.just(name), st.just("value"), integers))
        return st.one_of(own)

    @st.composite
    def spoil(draw: st.DrawFn) -> Fault:
        message = draw(st.sampled_from(messages.RECEIVED))
        edits = draw(st.lists(edit(message), min_size=1, max_size=3))
        instead = message in ("Plan", "State") and draw(st.booleans())
        return Spoil(message, edits, instead)

    relay = st.builds(
        Relay,
        st.sampled_from(("plan", "state")),
        loss=st.floats(0.0, 1.0),
        delay=st.floats(0.0, 0.3),
        copies=st.integers(0, 5),
        shuffle=st.floats(0.0, 0.3),
    )
    stand = st.builds(Signal, st.sampled_from(PATIENT), st.just("SIGSTOP"))
    rival = st.just(Rival(ours=False))
    # The injector does one of its tricks at a time; processes stand still beside it.
    several = st.tuples(st.one_of(spoil(), relay, rival), st.lists(stand, max_size=2, unique_by=lambda s: s.node))
    found: list[Case] = []

    @seeded(seed)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(several, st.floats(0.2, 1.0))
    def collect(faults: tuple[Fault, list[Signal]], hold: float) -> None:
        first, rest = faults
        text = " + ".join(str(fault) for fault in (first, *rest))
        name = f"random {len(found)}: {text}"
        found.append(Case(name[:160], "random", (first, *rest), ("message", "transport", "node stands"), hold))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)
        collect()
    return found[:number]
