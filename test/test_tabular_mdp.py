"""The papers' lemmas on random tabular MDPs: what planning with an approximate value and model may cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Tabular:
    """Rewards (S, A), transition probabilities (S, A, S), discount."""

    rewards: np.ndarray
    transitions: np.ndarray
    discount: float

    def bellman(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One application of B to `value` (S,), and the greedy policy (S,)."""
        q = self.rewards + self.discount * self.transitions @ value
        return q.max(axis=1), q.argmax(axis=1)

    def plan(self, value: np.ndarray, horizon: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """B^H V (S,), and the optimal policies of its H steps, first step first."""
        policies = []
        for _ in range(horizon):
            value, policy = self.bellman(value)
            policies.insert(0, policy)
        return value, policies

    def optimum(self) -> np.ndarray:
        """V* by policy iteration."""
        policy = np.zeros(len(self.rewards), int)
        while True:
            value = self.evaluate([policy])
            q = self.rewards + self.discount * self.transitions @ value
            rows = np.arange(len(policy))
            better = q.max(axis=1) > q[rows, policy] + 1e-10
            if not better.any():
                return value
            policy = np.where(better, q.argmax(axis=1), policy)

    def evaluate(self, policies: list[np.ndarray]) -> np.ndarray:
        """Value (S,) of playing these policies in turn, over and over."""
        size = len(self.rewards)
        rows = np.arange(size)
        gain, kernel = np.zeros(size), np.eye(size)
        for policy in policies:
            gain = gain + kernel @ self.rewards[rows, policy]
            kernel = self.discount * kernel @ self.transitions[rows, policy]
        return np.linalg.solve(np.eye(size) - kernel, gain)


@st.composite
def mdps(draw: st.DrawFn) -> tuple[Tabular, np.random.Generator, int]:
    """A random MDP, deterministic or not, randomness for values, and a horizon."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    states, actions = draw(st.integers(2, 7)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        transitions = np.eye(states)[rng.integers(states, size=(states, actions))]
    else:
        transitions = rng.dirichlet(np.full(states, 0.5), size=(states, actions))
    discount = draw(st.sampled_from([0.3, 0.8, 0.95, 0.99]))
    return Tabular(rng.normal(size=(states, actions)), transitions, discount), rng, draw(st.integers(1, 6))


def perturbed(optimum: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """An approximate value and its error."""
    error = rng.choice([-1.0, 1.0], size=len(optimum)) * 10.0 ** rng.uniform(-2, 1)
    return optimum + error, float(np.abs(error).max())


@given(mdps())
@settings(deadline=None)
def test_h_step_bellman_operator_contracts_by_the_discount_to_the_h(case: tuple) -> None:
    mdp, rng, horizon = case
    one, other = rng.normal(size=(2, len(mdp.rewards))) * 10.0
    distance = np.abs(mdp.plan(one, horizon)[0] - mdp.plan(other, horizon)[0]).max()
    assert distance <= mdp.discount**horizon * np.abs(one - other).max() + 1e-9


@given(mdps())
@settings(deadline=None)
def test_optimum_is_the_fixed_point_of_every_h_step_operator(case: tuple) -> None:
    mdp, _, horizon = case
    optimum = mdp.optimum()
    np.testing.assert_allclose(mdp.plan(optimum, horizon)[0], optimum, atol=1e-7)


@given(mdps())
@settings(deadline=None)
def test_greedy_policy_loses_no_more_than_lemma_1_allows(case: tuple) -> None:
    mdp, rng, _ = case
    optimum = mdp.optimum()
    value, error = perturbed(optimum, rng)
    loss = optimum - mdp.evaluate(mdp.plan(value, 1)[1])
    assert loss.max() <= 2.0 * mdp.discount * error / (1.0 - mdp.discount) + 1e-7


@given(mdps())
@settings(deadline=None)
def test_plan_played_to_its_end_loses_no_more_than_lemma_2_allows(case: tuple) -> None:
    mdp, rng, horizon = case
    optimum = mdp.optimum()
    value, error = perturbed(optimum, rng)
    loss = optimum - mdp.evaluate(mdp.plan(value, horizon)[1])
    shrink = mdp.discount**horizon
    assert loss.max() <= 2.0 * shrink * error / (1.0 - shrink) + 1e-7


@given(mdps())
@settings(deadline=None)
def test_replanning_every_step_loses_no_more_than_h_step_greedy_bound(case: tuple) -> None:
    mdp, rng, horizon = case
    optimum = mdp.optimum()
    value, error = perturbed(optimum, rng)
    loss = optimum - mdp.evaluate(mdp.plan(value, horizon)[1][:1])
    assert loss.max() <= 2.0 * mdp.discount**horizon * error / (1.0 - mdp.discount) + 1e-7


@given(mdps(), st.floats(0.0, 1.0))
@settings(deadline=None)
def test_plan_in_a_learned_model_loses_no_more_than_loops_theorem_1_allows(case: tuple, mixed: float) -> None:
    """LOOP (Sikchi et al. 2021), eq. 5, with an exact search and the plan played to its end."""
    mdp, rng, horizon = case
    mdp.rewards = mdp.rewards - mdp.rewards.min()
    highest_reward = mdp.rewards.max()
    highest_value = highest_reward / (1.0 - mdp.discount)
    optimum = mdp.optimum()
    value = np.clip(perturbed(optimum, rng)[0], 0.0, highest_value)
    value_error = np.abs(value - optimum).max()
    size, actions = mdp.rewards.shape
    other = rng.dirichlet(np.full(size, 0.5), size=(size, actions))
    model = Tabular(mdp.rewards, (1.0 - mixed) * mdp.transitions + mixed * other, mdp.discount)
    model_error = 0.5 * np.abs(model.transitions - mdp.transitions).sum(axis=2).max()
    loss = optimum - mdp.evaluate(model.plan(value, horizon)[1])
    shrink = mdp.discount**horizon
    behind = sum(mdp.discount**t * t for t in range(horizon))
    of_model = highest_reward * behind * model_error + shrink * horizon * model_error * highest_value
    assert loss.max() <= 2.0 / (1.0 - shrink) * (of_model + shrink * value_error) + 1e-7


def test_lemma_2_as_printed_does_not_cover_replanning_every_step() -> None:
    """Its proof plays the plan to its end. A plan renewed every step can put its gain off for ever.

    Leaving state 0 pays `gain` once. Staying first and leaving then looks better by the value's error,
    every time anew; the loss is all of the gain.
    """
    discount, error = 0.9, 1.0
    gain = 0.999 * 2.0 * discount**2 * error / (1.0 - discount)
    # 0 stays in 0 or leaves to 1; 1 goes on to 2; 2 stays.
    transitions = np.zeros((3, 2, 3))
    for state, action, after in [(0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2), (2, 0, 2), (2, 1, 2)]:
        transitions[state, action, after] = 1.0
    mdp = Tabular(np.array([[0.0, gain], [0.0, 0.0], [0.0, 0.0]]), transitions, discount)
    optimum = mdp.optimum()
    value = optimum + np.array([-error, error, -error])
    first, second = mdp.plan(value, 2)[1]
    loss_replanned = (optimum - mdp.evaluate([first])).max()
    loss_played = (optimum - mdp.evaluate([first, second])).max()
    printed = 2.0 * discount**2 * error / (1.0 - discount**2)
    assert loss_played <= printed
    assert loss_replanned > printed
    assert loss_replanned <= 2.0 * discount**2 * error / (1.0 - discount)
