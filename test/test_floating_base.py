"""The floating base out of odometry and IMU, against MuJoCo's own motion, sensors and differences."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from polo_ros.drivers.base import DriverError
from polo_ros.drivers.floating_base import FloatingBase, with_tilt

XML = """
<mujoco>
  <option timestep="1e-4" integrator="RK4"/>
  <worldbody>
    <body>
      <freejoint/>
      <geom type="box" size="0.1 0.2 0.3"/>
      <site name="imu" pos="0.1 0 0" quat="{}"/>
    </body>
  </worldbody>
  <sensor><framequat objtype="site" objname="imu"/><gyro site="imu"/></sensor>
</mujoco>
"""
MOUNTING = Rotation.from_euler("xyz", [0.4, -1.1, 2.0])

numbers = st.floats(-3.0, 3.0, allow_subnormal=False)
vectors = st.tuples(numbers, numbers, numbers).map(np.array)
rotations = vectors.map(Rotation.from_rotvec)


def flying(seed: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A body that tumbles through the air, its IMU mounted at an angle."""
    x, y, z, w = MOUNTING.as_quat()
    model = mujoco.MjModel.from_xml_string(XML.format(f"{w} {x} {y} {z}"))
    data = mujoco.MjData(model)
    rng = np.random.default_rng(seed)
    data.qpos[:3] = rng.normal(size=3)
    data.qpos[3:] = Rotation.random(random_state=seed).as_quat()[[3, 0, 1, 2]]
    data.qvel[:] = rng.normal(size=6) * 3.0
    mujoco.mj_forward(model, data)
    return model, data


def place(data: mujoco.MjData) -> tuple[np.ndarray, Rotation]:
    """Position and rotation of the body, as forward kinematics have them."""
    return np.array(data.xpos[1]), Rotation.from_matrix(np.array(data.xmat[1]).reshape(3, 3))


def merged(base: FloatingBase, odometry: Any, imu: Any = None) -> tuple[np.ndarray, np.ndarray]:
    base.offer_odometry("odom", "base_link", *odometry, stamp=1.0, arrival=0.0)
    if imu is not None:
        base.offer_imu("", *imu, stamp=1.0, arrival=0.0)
    return base.read(0.0)


@pytest.mark.parametrize("seed", range(5))
def test_velocities_are_those_that_mujoco_integrates(seed: int) -> None:
    """The twist in the child frame is taken from the body's path through space, by differences."""
    model, data = flying(seed)
    h = 20 * model.opt.timestep
    mujoco.mj_step(model, data, 20)
    mujoco.mj_kinematics(model, data)
    before = np.array(data.qpos), *place(data)
    mujoco.mj_step(model, data, 20)
    mujoco.mj_forward(model, data)
    now, qpos, qvel = place(data), np.array(data.qpos), np.array(data.qvel)
    mujoco.mj_step(model, data, 20)
    mujoco.mj_kinematics(model, data)
    after = np.array(data.qpos), *place(data)
    linear = now[1].inv().apply((after[1] - before[1]) / (2 * h))
    angular = (before[2].inv() * after[2]).as_rotvec() / (2 * h)
    found_qpos, found_qvel = merged(FloatingBase("/odom"), (now[0], now[1].as_quat(), linear, angular))
    np.testing.assert_allclose(found_qpos[:3], qpos[:3], atol=1e-12)
    assert abs(found_qpos[3:] @ qpos[3:]) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found_qvel, qvel, atol=1e-3)
    # And as MuJoCo itself takes the difference of two places, which is in the same conventions.
    difference = np.zeros(6)
    mujoco.mj_differentiatePos(model, difference, 2 * h, before[0], after[0])
    np.testing.assert_allclose(found_qvel[:3], difference[:3], atol=1e-8)
    np.testing.assert_allclose(found_qvel[3:], difference[3:], atol=5e-3)


@settings(deadline=None, max_examples=50)
@given(position=vectors, rotation=rotations, linear=vectors, angular=vectors)
def test_what_is_put_into_odometry_comes_out(
    position: np.ndarray, rotation: Rotation, linear: np.ndarray, angular: np.ndarray
) -> None:
    """`linear` in the world, `angular` in the body: as MuJoCo has them."""
    twist = rotation.inv().apply(linear), angular
    qpos, qvel = merged(FloatingBase("/odom"), (position, rotation.as_quat(), *twist))
    np.testing.assert_allclose(qpos[:3], position)
    assert (Rotation.from_quat(qpos[[4, 5, 6, 3]]).inv() * rotation).magnitude() < 1e-7
    np.testing.assert_allclose(qvel, np.concatenate([linear, angular]), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("use", ["tilt", "full", "none"])
def test_an_imu_measures_the_body_as_mujocos_sensors_do(seed: int, use: str) -> None:
    _, data = flying(seed)
    position, rotation = place(data)
    odometry = position, rotation.as_quat(), rotation.inv().apply(data.qvel[:3]), np.full(3, 99.0)
    base = FloatingBase("/odom", "/imu", imu_rotation=tuple(MOUNTING.as_quat()), imu_orientation=use)
    qpos, qvel = merged(base, odometry, (data.sensordata[[1, 2, 3, 0]], data.sensordata[4:7]))
    assert abs(qpos[3:] @ data.qpos[3:]) == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(qvel, data.qvel, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(true=rotations, drift=st.floats(-3.0, 3.0), error=st.tuples(*[st.floats(-0.2, 0.2)] * 3))
def test_tilt_is_the_imus_and_heading_the_odometrys(true: Rotation, drift: float, error: Any) -> None:
    """An IMU's heading drifts, odometry's tilt is wrong: what is up is what the IMU says."""
    turned = Rotation.from_euler("z", drift) * true
    believed = Rotation.from_rotvec(error) * true
    odometry = np.zeros(3), believed.as_quat(), np.zeros(3), np.zeros(3)
    base = FloatingBase("/odom", "/imu")
    qpos, _ = merged(base, odometry, (turned.as_quat(), np.zeros(3)))
    found = Rotation.from_quat(qpos[[4, 5, 6, 3]])
    np.testing.assert_allclose(found.inv().apply([0, 0, 1]), true.inv().apply([0, 0, 1]), atol=1e-7)
    best = min(
        (Rotation.from_euler("z", angle) * turned * believed.inv()).magnitude() for angle in np.linspace(0, 6.283, 2000)
    )
    assert (found * believed.inv()).magnitude() <= best + 1e-6


def test_opposite_ideas_of_up_are_an_error() -> None:
    down = Rotation.from_euler("x", np.pi).as_quat()
    odometry = np.zeros(3), [0, 0, 0, 1], np.zeros(3), np.zeros(3)
    with pytest.raises(DriverError, match="up what is down"):
        merged(FloatingBase("/odom", "/imu"), odometry, (down, np.zeros(3)))
    with pytest.raises(ValueError, match="up what is down"):
        with_tilt(np.array([1.0, 0, 0, 0]), np.array([0.0, 1, 0, 0]))


REST = np.zeros(3), [0.0, 0.0, 0.0, 1.0], np.zeros(3), np.zeros(3)


def test_each_has_its_own_limit_of_age() -> None:
    base = FloatingBase("/odom", "/imu", max_odometry_age=0.5, max_imu_age=0.1)
    with pytest.raises(DriverError, match="/odom: no message yet"):
        base.read(0.0)
    base.offer_odometry("odom", "base_link", *REST, stamp=5.0, arrival=0.0)
    with pytest.raises(DriverError, match="/imu: no message yet"):
        base.read(0.0)
    base.offer_imu("", [0, 0, 0, 1], np.zeros(3), stamp=900.0, arrival=0.0)
    base.read(0.09)
    with pytest.raises(DriverError, match=r"/imu is 0\.20 s old, more than 0\.1 s"):
        base.read(0.2)
    base.offer_imu("", [0, 0, 0, 1], np.zeros(3), stamp=900.1, arrival=0.45)
    base.read(0.49)
    with pytest.raises(DriverError, match=r"/odom is 0\.51 s old"):
        base.read(0.51)


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [(5.0, r"stamp stands still at 5\.000000 s"), (4.0, r"stamp went back from 5\.000000 s to 4\.000000 s")],
)
def test_an_odometry_that_is_not_later_makes_the_base_no_younger(stamp: float, reason: str) -> None:
    base = FloatingBase("/odom", max_odometry_age=0.5)
    base.offer_odometry("odom", "base_link", *REST, stamp=5.0, arrival=0.0)
    base.offer_odometry("odom", "base_link", *REST, stamp=stamp, arrival=0.4)
    with pytest.raises(DriverError, match=reason):
        base.read(0.6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frame": "map"}, "is of 'base_link' in 'map', expected 'base_link' in 'odom'"),
        ({"child_frame": "chassis"}, "is of 'chassis' in 'odom'"),
        ({"position": [0.0, np.nan, 0.0]}, "not finite"),
        ({"linear": [np.inf, 0.0, 0.0]}, "not finite"),
        ({"orientation": [0.0, 0.0, 0.0, 0.0]}, "has length 0, not 1"),
        ({"orientation": [1.0, 1.0, 0.0, 0.0]}, "has length 1.414, not 1"),
    ],
)
def test_an_odometry_that_cannot_be_is_named_until_a_good_one_comes(change: dict[str, Any], reason: str) -> None:
    base = FloatingBase("/odom")
    names = ("frame", "child_frame", "position", "orientation", "linear", "angular")
    good = dict(zip(names, ("odom", "base_link", *REST), strict=True))
    base.offer_odometry(**good, stamp=1.0, arrival=0.0)
    base.offer_odometry(**{**good, **change}, stamp=2.0, arrival=0.0)
    with pytest.raises(DriverError, match=f"/odom: .*{reason}"):
        base.read(0.0)
    base.offer_odometry(**good, stamp=3.0, arrival=0.0)
    base.read(0.0)


@pytest.mark.parametrize(
    ("settings", "imu", "reason"),
    [
        ({}, ("", None, np.zeros(3)), "measures no orientation"),
        ({}, ("", [0, 0, 0, 1], None), "measures no angular velocity"),
        ({}, ("", [0, 0, 0, 0], np.zeros(3)), "has length 0"),
        ({}, ("", [0, 0, 0, 1], [0, np.nan, 0]), "not finite"),
        ({"imu_frame": "imu_link"}, ("other", [0, 0, 0, 1], np.zeros(3)), "is of 'other', expected 'imu_link'"),
    ],
)
def test_an_imu_that_cannot_be_is_named(settings: dict[str, Any], imu: Any, reason: str) -> None:
    base = FloatingBase("/odom", "/imu", **settings)
    base.offer_odometry("odom", "base_link", *REST, stamp=1.0, arrival=0.0)
    base.offer_imu(*imu, stamp=1.0, arrival=0.0)
    with pytest.raises(DriverError, match=f"/imu: .*{reason}"):
        base.read(0.0)


def test_an_imu_without_orientation_serves_for_its_rate() -> None:
    base = FloatingBase("/odom", "/imu", imu_orientation="none")
    _, qvel = merged(base, REST, (None, [1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(qvel[3:], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("rotation", [(0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 2.0)])
def test_a_mounting_that_is_no_rotation_is_refused(rotation: Any) -> None:
    with pytest.raises(ValueError, match="imu_rotation"):
        FloatingBase("/odom", "/imu", imu_rotation=rotation)
