"""MujocoDynamics against physics stepped by hand."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from polo_ros import tasks
from polo_ros.dynamics.mujoco import MujocoDynamics
from polo_ros.tasks.base import FULLPHYSICS, FloatArray, ObservationSpec, Task

# A pole with an integrated-activation motor and a thrown ball: na = 1, and quaternions in qpos.
ACTIVE = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="2 2 0.1"/>
    <body pos="0 0 1"><joint name="hinge" type="hinge" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.4" mass="1"/></body>
    <body name="ball" pos="1 0 0.3"><freejoint/><geom size="0.1" mass="0.5"/></body>
  </worldbody>
  <actuator>
    <general name="lag" joint="hinge" dyntype="filter" dynprm="0.1" gainprm="2" ctrllimited="true" ctrlrange="-1 1"/>
    <motor joint="hinge" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
  <sensor>
    <jointpos joint="hinge"/><jointvel joint="hinge"/><actuatorfrc actuator="lag"/>
    <framepos objtype="body" objname="ball"/><framequat objtype="body" objname="ball"/>
    <framelinvel objtype="body" objname="ball"/>
  </sensor>
</mujoco>
"""


# A force that a light slide cannot take, unless the control is small.
FRAGILE = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody><body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="0.001"/></body></worldbody>
  <actuator><motor joint="x" gear="1e12"/></actuator>
  <sensor><jointpos joint="x"/><jointvel joint="x"/></sensor>
</mujoco>
"""


class ModelTask(Task):
    """Any model, all of its sensors, several physics steps a control period."""

    name = "model"
    description = "a model"
    discount = 0.9

    def __init__(self, xml: str, physics_steps: int) -> None:
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.control_dt = physics_steps * self.model.opt.timestep
        self.observation_spec = ObservationSpec((("sensors", self.model.nsensordata),))

    def reset(self, rng: np.random.Generator) -> FloatArray:
        data = mujoco.MjData(self.model)
        mujoco.mj_integratePos(self.model, data.qpos, rng.normal(0.0, 0.1, self.model.nv), 1.0)
        return self.pack(
            0.0, data.qpos, rng.normal(0.0, 0.5, self.model.nv), np.asarray(rng.uniform(-1.0, 1.0, self.model.na))
        )

    def observe(self, sensordata: FloatArray) -> FloatArray:
        return np.array(sensordata)

    def reward(self, obs, action, next_obs):
        return 0.0 * obs[..., 0]


def make(kind: str, physics_steps: int) -> Task:
    return ModelTask(ACTIVE, physics_steps) if kind == "active" else tasks.make(kind)


def by_hand(task: Task, start: FloatArray, actions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Observations (H + 1, nobs) and states (H + 1, nstate) of actions (H, nu), one call at a time."""
    model, data = task.model, mujoco.MjData(task.model)
    mujoco.mj_setState(model, data, start, FULLPHYSICS)
    observations, states = [], []
    for action in [*actions, actions[-1]]:
        data.ctrl[:] = action
        states.append(np.empty(task.nstate))
        mujoco.mj_getState(model, data, states[-1], FULLPHYSICS)
        warmstart = data.qacc_warmstart.copy()
        mujoco.mj_forward(model, data)
        observations.append(task.observe(np.array(data.sensordata)))
        data.qacc_warmstart[:] = warmstart
        mujoco.mj_step(model, data, nstep=task.physics_steps)
    return np.array(observations), np.array(states)


def batch(task: Task, n: int, horizon: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    starts = np.array([task.reset(rng) for _ in range(n)])
    low, high = np.maximum(task.action_low, -1.0), np.minimum(task.action_high, 1.0)
    return starts, rng.uniform(low, high, (n, horizon, len(low)))


CASES = [("active", 1), ("active", 4), ("cartpole_swingup", 1), ("humanoid_getup", 1)]


@pytest.mark.parametrize(("kind", "physics_steps"), CASES)
def test_observation_t_belongs_to_state_t(kind, physics_steps):
    task = make(kind, physics_steps)
    starts, actions = batch(task, 3, 12)
    dynamics = MujocoDynamics(task, threads=1)
    result = dynamics.rollout(starts, actions)
    assert result.observations.shape == (3, 13, task.observation_spec.size)
    assert result.valid.all()
    for i in range(3):
        expected, _ = by_hand(task, starts[i], actions[i])
        np.testing.assert_allclose(result.observations[i], expected, rtol=1e-9, atol=1e-9)
    dynamics.close()


@pytest.mark.parametrize(("kind", "physics_steps"), CASES)
def test_advance_equals_stepping(kind, physics_steps):
    task = make(kind, physics_steps)
    starts, actions = batch(task, 1, 9, seed=1)
    dynamics = MujocoDynamics(task)
    _, states = by_hand(task, starts[0], actions[0])
    for steps in (0, 1, 5, 9):
        # by_hand's last row repeats the last action, so that all of 0 .. H are there.
        reached = dynamics.advance(starts[0], actions[0, :steps])
        np.testing.assert_allclose(reached, states[steps], rtol=1e-9, atol=1e-9)
    assert reached[0] == pytest.approx(9 * task.control_dt)
    dynamics.close()


def test_the_active_model_has_activations_and_a_free_joint():
    task = make("active", 4)
    assert task.model.na == 1
    assert task.model.nq > task.model.nv
    assert task.physics_steps == 4
    starts, actions = batch(task, 1, 20)
    dynamics = MujocoDynamics(task)
    _, _, _, act = task.unpack(dynamics.advance(starts[0], np.ones_like(actions[0])))
    assert act[0] != starts[0, -1]
    dynamics.close()


@pytest.mark.parametrize(("kind", "physics_steps"), CASES)
def test_one_and_two_threads_give_equal_bits(kind, physics_steps):
    task = make(kind, physics_steps)
    starts, actions = batch(task, 9, 10)
    results = []
    for threads in (1, 2, 2):
        dynamics = MujocoDynamics(task, threads)
        dynamics.rollout(starts[::-1], actions[::-1])  # what ran before must not matter
        results.append(dynamics.rollout(starts, actions).observations.tobytes())
        dynamics.close()
    assert results[0] == results[1] == results[2]


def test_one_start_serves_all_candidates():
    task = make("active", 2)
    starts, actions = batch(task, 4, 6)
    dynamics = MujocoDynamics(task)
    single = dynamics.rollout(starts[0], actions).observations.copy()
    repeated = dynamics.rollout(np.tile(starts[0], (4, 1)), actions).observations
    np.testing.assert_array_equal(single, repeated)
    dynamics.close()


@pytest.mark.parametrize("at", [0, 3, 7])
@pytest.mark.parametrize("physics_steps", [1, 3])
@pytest.mark.filterwarnings("ignore")
def test_diverging_candidates_are_marked_and_others_unaffected(at, physics_steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a log file where it runs
    task = ModelTask(FRAGILE, physics_steps)
    starts = np.array([task.reset(np.random.default_rng(i)) for i in range(6)])
    actions = np.full((6, 8, 1), 1e-16)
    dynamics = MujocoDynamics(task, threads=2)
    healthy = dynamics.rollout(starts, actions)
    assert healthy.valid.all()
    expected = healthy.observations.copy()
    actions[[1, 4], at] = 1e3
    result = dynamics.rollout(starts, actions)
    np.testing.assert_array_equal(result.valid, [True, False, True, True, False, True])
    np.testing.assert_array_equal(result.observations[result.valid], expected[result.valid])
    # And the pool is none the worse for it.
    actions[:] = 1e-16
    again = dynamics.rollout(starts, actions)
    assert again.valid.all()
    np.testing.assert_array_equal(again.observations, expected)
    dynamics.close()


def test_buffers_of_old_shapes_do_not_pile_up():
    task = make("active", 1)
    dynamics = MujocoDynamics(task)
    for n in range(1, 15):
        starts, actions = batch(task, n, n + 2)
        assert dynamics.rollout(starts, actions).observations.shape[:2] == (n, n + 3)
    assert len(dynamics._buffers) <= 8
    dynamics.close()


@pytest.mark.parametrize("physics_steps", [1, 3])
def test_a_batch_of_any_size_is_rolled_out_in_memory_that_is_there(physics_steps):
    task = make("active", physics_steps)
    starts, actions = batch(task, 9, 5)
    dynamics = MujocoDynamics(task, threads=2)
    whole = dynamics.rollout(starts, actions).observations.copy()
    (kept,) = dynamics._buffers.values()
    for n in (1, 9, 4, 8):
        part = dynamics.rollout(starts[:n], actions[:n])
        np.testing.assert_array_equal(part.observations, whole[:n])
        assert part.valid.shape == (n,)
    assert list(dynamics._buffers.values()) == [kept]
    dynamics.close()


def test_a_negative_number_of_threads_is_refused():
    with pytest.raises(ValueError, match="threads = -1 is below its minimum 0"):
        MujocoDynamics(make("active", 1), -1)


# ---- step by step ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "physics_steps"), [("active", 3), ("cartpole_swingup", 0), ("hopper", 0)])
def test_candidates_that_go_step_by_step_arrive_where_a_rollout_does(kind: str, physics_steps: int) -> None:
    task = make(kind, physics_steps)
    rng = np.random.default_rng(5)
    starts = np.stack([task.reset(rng) for _ in range(4)])
    actions = rng.uniform(-0.5, 0.5, (4, 6, task.model.nu)) * task.action_scale
    dynamics = MujocoDynamics(task, threads=2)
    at_once = dynamics.rollout(starts, actions)
    observations, rewards = (
        np.array(at_once.observations),
        task.reward(at_once.observations[:, :-1], actions, at_once.observations[:, 1:]),
    )
    ended = np.logical_or.accumulate(task.terminated(observations), axis=1)
    begun = dynamics.begin(starts, 4)
    assert begun.shape == (4, 1, task.observation_spec.size)
    for t in range(6):
        step = dynamics.step(actions[:, t])
        # The constraint solver starts anew at each step here, and from the step before there.
        np.testing.assert_allclose(step.observations[:, 0], observations[:, t + 1], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(step.rewards[:, 0], np.where(ended[:, t], 0.0, rewards[:, t]), atol=1e-4)
        np.testing.assert_array_equal(step.ended[:, 0], ended[:, t + 1])
        assert step.valid.all()
    dynamics.close()


def test_selected_candidates_go_on_from_where_they_were() -> None:
    task = make("cartpole_swingup", 0)
    dynamics = MujocoDynamics(task, threads=1)
    dynamics.begin(task.reset(np.random.default_rng(0)), 3)
    before = np.array(dynamics.step(np.array([[-1.0], [0.0], [1.0]])).observations)
    np.testing.assert_array_equal(dynamics.select(np.array([2, 2, 0, 1])), before[[2, 2, 0, 1]])
    after = dynamics.step(np.zeros((4, 1))).observations[:, 0]
    np.testing.assert_array_equal(after[0], after[1])
    assert not np.allclose(after[0], after[2])
    with pytest.raises(ValueError, match="3 actions for 4 candidates"):
        dynamics.step(np.zeros((3, 1)))
    dynamics.close()


def test_a_step_that_diverges_is_not_valid_and_pays_nothing() -> None:
    task = ModelTask(FRAGILE, 2)
    dynamics = MujocoDynamics(task, threads=1)
    dynamics.begin(np.zeros(task.nstate), 2)
    step = dynamics.step(np.array([[0.0], [1e6]]))
    np.testing.assert_array_equal(step.valid, [True, False])
    assert (step.rewards == 0.0).all()
    dynamics.close()
