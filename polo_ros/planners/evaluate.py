"""Scores as many candidates as there is time for: what all samplers share."""

from __future__ import annotations

from collections.abc import Callable

from polo_ros.dynamics.base import Dynamics
from polo_ros.planners.objective import Objective, Returns, Scores
from polo_ros.planners.pace import Pace
from polo_ros.tasks.base import FloatArray


def evaluate(
    dynamics: Dynamics,
    objective: Objective,
    start: FloatArray,
    candidates: FloatArray,
    pace: Pace,
    clock: Callable[[], float],
) -> Scores:
    """Scores of the first candidates, as many as `pace` allows.

    Args:
        dynamics: Rolls candidates out.
        objective: Scores them, all of them at once: what it asks of a value is to be the same for all.
        start: Physics state or observation, as `dynamics` asks for it.
        candidates: (N, H, nu).
        pace: Deals candidates out; of one plan.
        clock: What `pace` reads, s.

    Raises:
        ValueError: There is no time for any: ask `pace` first.
    """
    parts: list[Returns] = []
    done = 0
    while chunk := pace.chunk(len(candidates) - done):
        began = clock()
        part = candidates[done : done + chunk]
        parts.append(objective.returns(dynamics.rollout(start, part), part))
        pace.count(chunk, clock() - began)
        done += chunk
    if not parts:
        raise ValueError("no time to evaluate anything")
    return objective.score(parts)
