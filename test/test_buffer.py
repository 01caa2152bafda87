"""The replay buffer."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polo_ros.replay.buffer import ReplayBuffer
from polo_ros.replay.transition import Transition


def transition(step: int, episode: int = 0, action: float | None = None) -> Transition:
    """One whose numbers all follow from its step."""
    return Transition(
        step=step,
        episode=episode,
        episode_step=step,
        state=np.full(3, step + 0.1),
        observation=np.full(2, step + 0.2),
        action=np.full(1, step + 1.0 if action is None else action),
        reward=step + 0.3,
        next_observation=np.full(2, step + 0.4),
        terminated=step % 2 == 0,
        truncated=step % 3 == 0,
    )


def filled(capacity: int, steps: list[int], episodes: list[int] | None = None) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, 3, 2, 1)
    for step, episode in zip(steps, episodes or [0] * len(steps), strict=True):
        buffer.add(transition(step, episode))
    return buffer


@given(st.integers(1, 9), st.integers(0, 30))
def test_oldest_transitions_make_room_and_the_others_stay_in_order(capacity: int, count: int) -> None:
    buffer = filled(capacity, list(range(count)))
    expected = deque(range(count), maxlen=capacity)
    assert len(buffer) == len(expected)
    assert buffer.added == count
    everything = np.arange(len(buffer))
    np.testing.assert_array_equal(buffer.take("step", everything), list(expected))
    np.testing.assert_array_equal(buffer.serials(everything), list(expected))
    np.testing.assert_array_equal(buffer.take("reward", everything), np.array(expected) + 0.3)
    np.testing.assert_array_equal(buffer.take("terminated", everything), np.array(expected) % 2 == 0)


def test_samples_are_uniform_over_what_is_kept_and_follow_from_the_generator() -> None:
    buffer = filled(5, list(range(12)))
    drawn = buffer.sample(np.random.default_rng(0), 50_000)
    np.testing.assert_array_equal(drawn, buffer.sample(np.random.default_rng(0), 50_000))
    counts = np.bincount(drawn, minlength=5)
    assert len(counts) == 5
    np.testing.assert_allclose(counts / 50_000, 0.2, atol=0.01)


def test_an_empty_buffer_says_so_when_asked_for_samples() -> None:
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(4, 3, 2, 1).sample(np.random.default_rng(0), 1)


def test_following_actions_are_those_played_next() -> None:
    buffer = filled(10, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(buffer.following_actions(np.array([1]), 3)[0, :, 0], [2.0, 3.0, 4.0])


def test_following_actions_end_with_the_record() -> None:
    buffer = filled(10, [0, 1, 2])
    np.testing.assert_array_equal(buffer.following_actions(np.array([1, 2]), 4)[..., 0], [[2, 3, 0, 0], [3, 0, 0, 0]])


def test_following_actions_do_not_cross_an_episode() -> None:
    buffer = filled(10, [0, 1, 2, 3], [0, 0, 1, 1])
    np.testing.assert_array_equal(buffer.following_actions(np.array([0]), 4)[0, :, 0], [1, 2, 0, 0])


def test_following_actions_do_not_cross_a_gap() -> None:
    buffer = filled(10, [0, 1, 5, 3, 4])
    np.testing.assert_array_equal(buffer.following_actions(np.array([0]), 5)[0, :, 0], [1, 2, 0, 0, 0])


def test_following_actions_do_not_run_from_the_newest_into_the_oldest() -> None:
    # Slot order is 3 4 2: after the newest, 4, the ring goes on with 2; numbered so that it would fit.
    buffer = ReplayBuffer(3, 3, 2, 1)
    for step in (3, 4, 5, 1, 2):
        buffer.add(transition(step))
    np.testing.assert_array_equal(buffer.take("step", np.arange(3)), [5, 1, 2])
    np.testing.assert_array_equal(buffer.following_actions(np.array([2, 1]), 3)[..., 0], [[3, 0, 0], [2, 3, 0]])


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 15))
def test_a_saved_and_loaded_buffer_goes_on_as_the_one_that_was_saved(capacity: int, before: int, after: int) -> None:
    one = filled(capacity, list(range(before)))
    other = ReplayBuffer(capacity, 3, 2, 1)
    other.load(one.arrays())
    for step in range(before, before + after):
        one.add(transition(step))
        other.add(transition(step))
    everything = np.arange(len(one))
    assert len(one) == len(other)
    np.testing.assert_array_equal(one.serials(everything), other.serials(everything))
    for name in ("state", "action", "episode", "truncated"):
        np.testing.assert_array_equal(one.take(name, everything), other.take(name, everything))
    np.testing.assert_array_equal(one.following_actions(everything, 3), other.following_actions(everything, 3))


@pytest.mark.parametrize("capacity", [2, 4, 9])
def test_a_buffer_of_another_size_takes_over_the_newest(capacity: int) -> None:
    saved = filled(4, list(range(7)))
    buffer = ReplayBuffer(capacity, 3, 2, 1)
    buffer.load(saved.arrays())
    buffer.add(transition(7))
    expected = [3, 4, 5, 6, 7][-capacity:]
    np.testing.assert_array_equal(buffer.take("step", np.arange(len(buffer))), expected)


def test_columns_that_do_not_fit_together_are_refused() -> None:
    buffer, content = filled(4, [0, 1, 2]), filled(4, [0, 1, 2]).arrays()
    content["reward"] = content["reward"][:-1]
    with pytest.raises(ValueError, match="column 'reward' has 2 transitions, expected 3"):
        buffer.load(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros(4)}, r"transition 5: state has shape \(4,\), expected \(3,\)"),
        ({"action": np.array([np.nan])}, "transition 5: action contains values that are not finite"),
        ({"reward": float("inf")}, "transition 5: reward contains values that are not finite"),
        ({"next_observation": np.zeros((1, 2))}, r"next_observation has shape \(1, 2\), expected \(2,\)"),
    ],
)
def test_bad_transitions_are_refused_by_name_and_leave_no_trace(change: dict, message: str) -> None:
    buffer = filled(4, [0, 1])
    with pytest.raises(ValueError, match=message):
        buffer.add(replace(transition(5), **change))
    np.testing.assert_array_equal(buffer.take("step", np.arange(len(buffer))), [0, 1])
