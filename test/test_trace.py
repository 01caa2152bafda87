"""Where a plan leads, for those who look."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from learning_fakes import CartTask

from polo_ros import tasks
from polo_ros.dynamics.trace import leaf_bodies, trace


def test_a_pushed_cart_is_drawn_where_mechanics_puts_it() -> None:
    task = CartTask()
    mass = float(task.model.body_mass[1])
    force = 0.5
    paths = trace(task, np.array([0.0, 0.2, -0.1]), np.full((8, 1), force))
    # Semi-implicit Euler: v_t = v_0 + t a dt, x_t = x_0 + dt sum of v.
    v = -0.1 + force / mass * 0.1 * np.arange(1, 9)
    expected = np.concatenate(([0.2], 0.2 + 0.1 * np.cumsum(v)))
    assert paths.shape == (1, 9, 3)
    np.testing.assert_allclose(paths[0, :, 0], expected, atol=1e-12)
    np.testing.assert_array_equal(paths[0, :, 1:], 0.0)


def test_a_humanoid_is_drawn_by_its_forearms_and_feet() -> None:
    model = tasks.make("humanoid_getup").model
    names = {model.body(body).name for body in leaf_bodies(model)}
    assert names == {"left_foot", "right_foot", "left_lower_arm", "right_lower_arm"}


def test_bodies_that_do_not_move_are_not_drawn() -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body name='table'><geom size='1'/></body>"
        "<body name='arm'><joint/><geom size='.1'/><body name='tool'><geom size='.1'/></body></body>"
        "</worldbody></mujoco>"
    )
    assert [model.body(body).name for body in leaf_bodies(model)] == ["tool"]


def test_a_path_ends_where_physics_blows_up() -> None:
    task = CartTask()
    task.model.actuator_gear[:] = 1e30
    paths = trace(task, np.zeros(3), np.ones((5, 1)))
    assert np.isfinite(paths).all()
    assert paths[0, :, 0] == pytest.approx(paths[0, 0, 0])
