"""Planning within a limit on costs (LOOP's eq. 10), against direct computation, brute force and a tabular MDP."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learning_fakes import CartTask, FencedCartTask, LinearDynamics

from polo_ros.dynamics.base import Rollouts
from polo_ros.planners.arc import Arc, ArcConfig
from polo_ros.planners.cem import Cem, CemConfig
from polo_ros.planners.constraint import ConstraintConfig, rank, worst_cost
from polo_ros.planners.lookahead import PublishedLookahead
from polo_ros.planners.mppi import Mppi, MppiConfig
from polo_ros.planners.objective import Objective
from polo_ros.tasks.base import FloatArray

ACTIVE = ConstraintConfig(active=True, limit=0.5, minimal=3, kappa=2.0)


# ---- what candidates cost ----------------------------------------------------------------------


class SpeedingCart(CartTask):
    """Costs what its speed is above 0.3, and what its action takes."""

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        speed = abs(next_obs[..., 1]) - 0.3
        return speed * (speed > 0.0) + 0.1 * action[..., 0] ** 2


class FencedSpeedingCart(SpeedingCart, FencedCartTask):
    pass


def predicted(particles: int = 0, seed: int = 0) -> tuple[Rollouts, FloatArray]:
    """Random futures of 7 candidates; each particle goes its own way."""
    rng = np.random.default_rng(seed)
    shape = (7, particles, 5, 2) if particles else (7, 5, 2)
    return Rollouts(rng.normal(0.0, 1.0, shape), np.ones(7, bool)), rng.uniform(-1.0, 1.0, (7, 4, 1))


@pytest.mark.parametrize("particles", [0, 4])
@pytest.mark.parametrize("task", [SpeedingCart(), FencedSpeedingCart()], ids=["endless", "terminating"])
@pytest.mark.parametrize("measure", ["sum", "step"])
@pytest.mark.parametrize("discounted", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [Objective, PublishedLookahead])
def test_a_candidate_costs_what_its_worst_future_does_until_its_end(
    particles: int, task: CartTask, measure: str, discounted: bool, first: bool, kind: type[Objective]
) -> None:
    rollouts, actions = predicted(particles)
    expected = []
    for candidate, played in zip(rollouts.observations, actions, strict=True):
        of_futures = []
        for future in candidate if particles else [candidate]:
            costs, ended = [], bool(task.terminated(future[0]))
            for t in range(4):
                cost = 0.0 if ended else float(task.cost(future[t], played[t], future[t + 1]))
                costs.append(cost * (task.discount**t if discounted else 1.0))
                ended = ended or bool(task.terminated(future[t + 1]))
            counted = costs if first else costs[1:]
            of_futures.append(sum(counted) if measure == "sum" else max(counted))
        expected.append(max(of_futures))
    objective = kind(task)
    objective.constraint = ConstraintConfig(active=True, measure=measure, discounted=discounted, first=first)
    scores = objective(rollouts, actions)
    np.testing.assert_allclose(scores.cost, expected, rtol=1e-12)
    parts = [
        objective.returns(Rollouts(rollouts.observations[part], rollouts.valid[part]), actions[part])
        for part in (slice(0, 3), slice(3, 7))
    ]
    np.testing.assert_array_equal(objective.score(parts).cost, scores.cost)


def test_costs_are_not_asked_for_unless_they_are_limited() -> None:
    class Dear(CartTask):
        def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
            raise AssertionError("asked")

    assert Objective(Dear())(*predicted()).cost is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_candidate_whose_cost_is_no_number_is_invalid(bad: float) -> None:
    class Odd(CartTask):
        def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
            return np.where(obs[..., 0] == 9.0, bad, 0.0)

    rollouts, actions = predicted()
    rollouts.observations[4, 2, 0] = 9.0
    objective = Objective(Odd())
    objective.constraint = ACTIVE
    scores = objective(rollouts, actions)
    assert np.flatnonzero(np.isneginf(scores.score)).tolist() == [4] and scores.invalid == 1


def test_a_horizon_of_one_period_that_does_not_count_costs_nothing() -> None:
    for measure in ("sum", "step"):
        config = ConstraintConfig(active=True, measure=measure, first=False)
        np.testing.assert_array_equal(worst_cost(np.ones((3, 1)), config, 0.9), 0.0)


# ---- the rule ----------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 30),
    minimal=st.integers(1, 12),
    dear=st.floats(0.0, 1.0),
    broken=st.floats(0.0, 1.0),
    kappas=st.tuples(st.floats(0.1, 5.0), st.floats(0.1, 5.0)),
)
def test_weights_are_those_of_reward_within_the_limit_or_of_cost_where_too_few_are(
    seed: int, n: int, minimal: int, dear: float, broken: float, kappas: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    score, cost = rng.normal(0.0, 3.0, n), np.where(rng.random(n) < dear, 1.0, 0.0) * rng.uniform(0.0, 3.0, n)
    score[rng.random(n) < broken] = -math.inf
    cost[rng.random(n) < 0.2] = 0.5  # the limit itself is allowed
    kappa, kappa_cost = kappas
    found = rank(score, cost, ConstraintConfig(active=True, limit=0.5, minimal=minimal, kappa=kappa_cost))
    valid = [i for i in range(n) if math.isfinite(score[i])]
    feasible = [i for i in valid if cost[i] <= 0.5]
    assert found.feasible == pytest.approx(len(feasible) / n)
    if not valid:
        assert found.infeasible and np.isneginf(found.score).all()
        return
    enough = len(feasible) >= min(minimal, len(valid))
    assert found.infeasible == (not enough)
    expected = np.zeros(n)
    for i in feasible if enough else valid:
        expected[i] = math.exp(kappa * (score[i] - max(score[feasible]))) if enough else 0.0
        if not enough:
            # Equally dear ones share by reward what they would have got each.
            same = [j for j in valid if cost[j] == cost[i]]
            share = math.exp(kappa * (score[i] - max(score[same])))
            share /= sum(math.exp(kappa * (score[j] - max(score[same]))) for j in same)
            expected[i] = len(same) * share * math.exp(kappa_cost * (-cost[i] + min(cost[valid])))
    np.testing.assert_allclose(found.weights(kappa), expected / expected.sum(), rtol=1e-9, atol=1e-300)
    among = feasible if enough else valid
    assert found.top == min(among, key=lambda i: (0.0 if enough else cost[i], -score[i]))


def test_without_a_constraint_scores_are_left_as_they_are() -> None:
    score = np.array([1.0, -math.inf, 2.0])
    found = rank(score, None, ConstraintConfig())
    assert found.score is score and found.kappa is None and not found.infeasible and found.feasible == 1.0


# ---- searches ----------------------------------------------------------------------------------


class Corridor(CartTask):
    """Push right for reward: a velocity above 0.35 costs what is above it."""

    discount = 1.0

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return next_obs[..., 1]

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        over = next_obs[..., 1] - 0.35
        return over * (over > 0.0)


START = np.array([0.0, 0.0, 0.2])
H = 4
SEARCHES = ("arc", "arc draw", "cem", "mppi")


def search(kind: str, task: CartTask, constraint: ConstraintConfig, dynamics: Any = None, **changes: Any) -> Any:
    objective = Objective(task)
    objective.constraint = constraint
    dynamics = LinearDynamics() if dynamics is None else dynamics
    common = {"rollouts": 300, "horizon": H, "iterations": 8} | changes
    if kind.startswith("arc"):
        executed = "draw" if kind.endswith("draw") else "mean"
        config = ArcConfig(beta=0.0, sigma=1.0, kappa=60.0, executed=executed, **common)
        return Arc(task, dynamics, objective, config)
    if kind == "cem":
        return Cem(task, dynamics, objective, CemConfig(sigma=1.0, **common))
    return Mppi(task, dynamics, objective, MppiConfig(sigma=0.6, kappa=60.0, **common))


def outcome(task: CartTask, actions: FloatArray, start: FloatArray = START) -> tuple[float, float]:
    """Return and summed cost of a sequence (H, nu), step by step."""
    x, v = start[1:]
    total = cost = 0.0
    for t, u in enumerate(actions[:, 0]):
        obs, after = np.array([x, v]), np.array([x + 0.1 * v, v + 0.1 * u])
        total += task.discount**t * float(task.reward(obs, np.array([u]), after))
        cost += float(task.cost(obs, np.array([u]), after))
        x, v = after
    return total, cost


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("limit", [0.0, 0.05, 0.2])
def test_a_plan_keeps_to_the_limit_and_earns_what_the_best_of_a_grid_does(kind: str, limit: float) -> None:
    task = Corridor()
    grid = [np.array(one)[:, None] for one in itertools.product(np.linspace(-1.0, 1.0, 9), repeat=H)]
    outcomes = [outcome(task, one) for one in grid]
    best = max(value for value, cost in outcomes if cost <= limit)
    assert max(value for value, _ in outcomes) > best + 0.1, "the limit binds"
    constraint = ConstraintConfig(active=True, limit=limit, minimal=5)
    planner = search(kind, task, constraint)
    for seed in range(3):
        planner.reset()
        found = planner.plan(START, np.random.default_rng(seed))
        value, cost = outcome(task, found.actions)
        assert cost <= limit + 1e-12 and not found.infeasible
        assert found.predicted_cost == pytest.approx(cost, abs=1e-12)
        assert value > best - 0.08
    free = search(kind, task, ConstraintConfig()).plan(START, np.random.default_rng(0))
    assert outcome(task, free.actions)[1] > limit + 0.05, "without the limit the plan is another"
    assert not free.constraint_active and free.predicted_cost == 0.0 and free.feasible_fraction == 1.0


@pytest.mark.parametrize("kind", SEARCHES)
def test_where_nothing_is_feasible_the_plan_is_the_one_of_least_cost(kind: str) -> None:
    task = Corridor()
    fast = np.array([0.0, 0.0, 2.0])
    least = outcome(task, np.full((H, 1), -1.0), fast)[1]
    found = search(kind, task, ConstraintConfig(active=True, limit=0.1, kappa=50.0)).plan(
        fast, np.random.default_rng(0)
    )
    assert found.infeasible and found.feasible_fraction == 0.0
    assert outcome(task, found.actions, fast)[1] == pytest.approx(found.predicted_cost)
    assert least <= found.predicted_cost < least + 0.15 < outcome(task, np.zeros((H, 1)), fast)[1] - 0.5


class TwoWays(CartTask):
    """The velocity must not be within 0.03 of zero; either way is as good."""

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 0.0 * obs[..., 0]

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 1.0 * (abs(next_obs[..., 1]) < 0.03)


@pytest.mark.parametrize("kind", ["arc", "cem", "mppi"])
def test_a_mean_that_runs_into_what_its_candidates_pass_on_either_side_is_not_played(kind: str) -> None:
    task, start = TwoWays(), np.zeros(3)
    changes = {"horizon": 2, "iterations": 1}
    mean = search(kind, task, ConstraintConfig(), **changes).plan(start, np.random.default_rng(0)).actions
    assert abs(0.1 * mean.sum()) < 0.03
    planner = search(kind, task, ConstraintConfig(active=True, limit=0.0, minimal=1, first=False), **changes)
    for seed in range(5):
        planner.reset()
        found = planner.plan(start, np.random.default_rng(seed))
        assert 0.0 < found.feasible_fraction < 1.0 and not found.infeasible
        assert found.predicted_cost == 0.0 and abs(0.1 * found.actions.sum()) >= 0.03
        np.testing.assert_array_equal(found.actions, planner.nominal if kind == "mppi" else planner.mean)


def test_a_candidate_beyond_the_limit_is_never_drawn() -> None:
    task = Corridor()
    start = np.array([0.0, 0.0, 0.33])
    constraint = ConstraintConfig(active=True, limit=0.05, minimal=24)
    planner = search("arc draw", task, constraint, rollouts=40, iterations=1)
    seen = set()
    for seed in range(300):
        planner.reset()
        found = planner.plan(start, np.random.default_rng(seed))
        cost = outcome(task, found.actions, start)[1]
        assert found.predicted_cost == pytest.approx(cost, abs=1e-12)
        # While fewer than `minimal` are feasible nothing is drawn, but what is played is within the limit as well.
        assert found.feasible_fraction > 0.0 and cost <= 0.05 + 1e-12
        seen.add(found.infeasible)
    assert seen == {True, False}


class Gusts:
    """A cart that wind pushes, two particles each; keeps what it was asked and what came of it."""

    def __init__(self, drawn: bool = True) -> None:
        self.rng = np.random.default_rng(11)
        self.drawn = drawn
        self.asked: list[FloatArray] = []
        self.found: list[FloatArray] = []

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        gusts = self.rng.normal(0.0, 0.3, (len(actions), 2, *actions.shape[1:]))
        if not self.drawn:
            gusts[:] = np.array([-0.1, 0.3])[:, None, None]
        each = [LinearDynamics().rollout(starts, actions + gusts[:, index]).observations for index in range(2)]
        self.asked.append(actions.copy())
        self.found.append(np.stack(each, axis=1))
        return Rollouts(self.found[-1], np.ones(len(actions), bool), drawn=self.drawn)

    def costs(self, call: int) -> FloatArray:
        """Of each candidate of a call, in the worse of its particles."""
        velocities = self.found[call][..., 1:, 1]
        return np.asarray((velocities - 0.35).clip(min=0.0).sum(axis=-1).max(axis=-1))


class Toll(Corridor):
    """Whatever is done costs something."""

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 1.0 + abs(next_obs[..., 1])


class SlowGusts(Gusts):
    """A millisecond a rollout."""

    now = 0.0

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        self.now += 0.001 * len(actions)
        return super().rollout(starts, actions)


@pytest.mark.parametrize("kind", SEARCHES)
def test_before_a_deadline_there_is_time_to_predict_the_plan_once_more(kind: str) -> None:
    constraint, dynamics = ConstraintConfig(active=True, limit=0.1, minimal=5, rolls=20), SlowGusts()
    planner = search(kind, Corridor(), constraint, dynamics, rollouts=80, iterations=4)
    planner._clock = lambda: dynamics.now
    found = planner.plan(START, np.random.default_rng(0), deadline=0.2)
    assert len(dynamics.asked[-1]) == 40 and dynamics.now <= 0.2
    assert 80 <= found.rollouts <= 160


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_deadline_does_not_cut_off_the_candidates_that_begin_anew(kind: str) -> None:
    constraint, dynamics = ConstraintConfig(active=True, limit=0.0, minimal=5, rolls=1), SlowGusts()
    planner = search(kind, Toll(), constraint, dynamics, rollouts=80, iterations=2)
    planner._clock = lambda: dynamics.now
    planner.plan(START, np.random.default_rng(0), deadline=math.inf)
    dynamics.asked.clear()
    found = planner.plan(START, np.random.default_rng(0), deadline=dynamics.now + 0.05)
    asked = np.concatenate(dynamics.asked[:-1])
    constant = (asked == asked[:, :1]).all(axis=(1, 2))
    assert found.rollouts == len(asked) < 80 and np.count_nonzero(constant) >= 0.8 * len(asked)


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("limit", [0.0, 0.01, 0.1])
def test_a_plan_is_judged_by_futures_that_it_was_not_chosen_for(kind: str, limit: float) -> None:
    constraint = ConstraintConfig(active=True, limit=limit, minimal=5, rolls=7)
    task, judged = Corridor(), []
    for seed in range(12):
        dynamics = Gusts()
        found = search(kind, task, constraint, dynamics, rollouts=60, iterations=3).plan(
            START, np.random.default_rng(seed)
        )
        assert [len(batch) for batch in dynamics.asked] == [60, 60, 60, 14], "the mean and the best, seven times each"
        costs = dynamics.costs(-1).reshape(2, 7).max(axis=1)
        plans = dynamics.asked[-1].reshape(2, 7, H, 1)
        assert (plans == plans[:, :1]).all()
        chosen = 0 if costs[0] <= limit or costs[0] <= costs[1] else 1
        np.testing.assert_array_equal(found.actions, plans[chosen, 0])
        assert found.predicted_cost == costs[chosen] and found.within_limit == (costs[chosen] <= limit)
        # The best by the rule: of all candidates within the limit the one that pays most; if none is, the cheapest.
        lucky = np.concatenate([dynamics.costs(call) for call in range(3)])
        everyone = np.concatenate(dynamics.asked[:3])
        of_best = lucky[(everyone == plans[1, 0]).all(axis=(1, 2))].min()
        assert of_best <= limit or of_best == lucky.min()
        judged.append((of_best, costs[1]))
    assert any(before <= limit < after for before, after in judged), "luck that does not last"


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_model_without_chance_is_asked_once(kind: str) -> None:
    dynamics = Gusts(drawn=False)
    constraint = ConstraintConfig(active=True, limit=0.05, minimal=5)
    found = search(kind, Corridor(), constraint, dynamics, rollouts=60, iterations=3).plan(
        START, np.random.default_rng(0)
    )
    assert [len(batch) for batch in dynamics.asked] == [60, 60, 60, 2]
    assert found.within_limit and found.predicted_cost <= 0.05


class Loaded:
    """Three carts that differ in mass: one particle each."""

    MASSES = (1.0, 0.8, 0.5)

    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        each = [LinearDynamics().rollout(starts, actions / mass).observations for mass in self.MASSES]
        return Rollouts(np.stack(each, axis=1), np.ones(len(actions), bool), members=3)


@pytest.mark.parametrize("kind", SEARCHES)
def test_the_limit_holds_for_the_worst_model_and_not_for_the_mean(kind: str) -> None:
    task = Corridor()
    constraint = ConstraintConfig(active=True, limit=0.05, minimal=5)
    found = search(kind, task, constraint, Loaded()).plan(START, np.random.default_rng(1))
    costs = [outcome(task, found.actions / mass)[1] for mass in Loaded.MASSES]
    assert max(costs) == pytest.approx(found.predicted_cost, abs=1e-12) and max(costs) <= 0.05 + 1e-12
    careless = search(kind, task, constraint).plan(START, np.random.default_rng(1))
    assert outcome(task, careless.actions)[1] <= 0.05 + 1e-12 < outcome(task, careless.actions / 0.5)[1]


@pytest.mark.parametrize("kind", SEARCHES)
def test_candidates_that_all_diverge_are_no_feasible_plan(kind: str) -> None:
    planner = search(kind, Corridor(), ACTIVE, LinearDynamics(cliff=-1.0))
    found = planner.plan(START, np.random.default_rng(0))
    assert found.infeasible and found.predicted_cost == math.inf and found.feasible_fraction == 0.0
    assert (found.actions == 0.0).all()


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_constraint_that_nothing_breaks_changes_no_plan(kind: str) -> None:
    plans = [
        search(kind, Corridor(), ConstraintConfig(active=active, limit=1e6)).plan(START, np.random.default_rng(2))
        for active in (False, True)
    ]
    np.testing.assert_array_equal(plans[0].actions, plans[1].actions)
    assert plans[0].best_score == plans[1].best_score and plans[0].rollouts == plans[1].rollouts


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_limit_may_be_drawn_closer_although_the_search_stands_at_an_end_of_the_range(kind: str) -> None:
    task = Corridor()
    planner = search(kind, task, ConstraintConfig(active=True, limit=0.4, minimal=5))
    costs = []
    for limit in (0.4, 0.0, 0.4):
        planner._objective.constraint = ConstraintConfig(active=True, limit=limit, minimal=5)
        costs.append(outcome(task, planner.plan(START, np.random.default_rng(0)).actions)[1])
    assert costs[1] <= 1e-12 and 0.05 < min(costs[0], costs[2]) <= max(costs) <= 0.4 + 1e-12


# ---- a tabular MDP -----------------------------------------------------------------------------

# Two ways through a grid of states: the short one pays 10 behind a trap, the long one pays 4.
# States: 0 start, 1 trap, 2 rich, 3 path, 4 poor. An action is a number; below zero it is "left", else "right".
NEXT = np.array([[1, 3], [2, 2], [2, 2], [4, 4], [4, 4]])
PAYS = np.array([0.0, 0.0, 10.0, 0.0, 4.0])  # on arrival
TRAP = 1


class Maze(CartTask):
    """Observed are the state's number and nothing."""

    discount = 1.0

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return PAYS[np.rint(next_obs[..., 0]).astype(int)]

    def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 1.0 * (np.rint(next_obs[..., 0]) == TRAP)


class MazeDynamics:
    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        n, horizon, _ = actions.shape
        states = np.zeros((n, horizon + 1, 2))
        for t in range(horizon):
            now = states[:, t, 0].astype(int)
            states[:, t + 1, 0] = NEXT[now, (actions[:, t, 0] >= 0.0).astype(int)]
        return Rollouts(states, np.ones(n, bool))


@pytest.mark.parametrize("kind", ["arc", "arc draw", "cem"])
def test_of_two_ways_the_safe_one_is_taken_within_a_limit_and_the_rich_one_without(kind: str) -> None:
    for limited, first, worth in ((False, TRAP, 20.0), (True, 3, 8.0)):
        constraint = ConstraintConfig(active=limited, limit=0.0, minimal=3)
        planner = search(kind, Maze(), constraint, MazeDynamics(), rollouts=60, iterations=3, horizon=3)
        found = planner.plan(np.zeros(3), np.random.default_rng(0))
        states = MazeDynamics().rollout(np.zeros(3), found.actions[None]).observations[0, :, 0].astype(int)
        assert states[1] == first and PAYS[states[1:]].sum() == worth
        assert found.predicted_cost == 0.0


@pytest.mark.parametrize("kind", ["arc", "cem"])
def test_among_equally_dear_candidates_the_better_is_taken(kind: str) -> None:
    """Costs of 0 and 1 are often equal, and say nothing of the way back within the limit."""

    class Outside(CartTask):
        def cost(self, obs: Any, action: Any, next_obs: Any) -> Any:
            return 1.0 + 0.0 * next_obs[..., 0]

    task = Outside()
    objective = Objective(task)
    objective.constraint = ConstraintConfig(active=True)
    planner: Arc | Cem
    if kind == "arc":
        config = ArcConfig(rollouts=100, horizon=6, iterations=6, kappa=30.0, executed="mean")
        planner = Arc(task, LinearDynamics(), objective, config)
    else:
        planner = Cem(task, LinearDynamics(), objective, CemConfig(rollouts=100, horizon=6, iterations=6))
    found = planner.plan(np.array([0.0, 2.0, 0.0]), np.random.default_rng(0))
    assert found.infeasible
    assert (found.actions[:3] < -0.5).all(), "back to the middle"
