"""Small robots for tests of what keeps them safe."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from polo_ros.tasks.base import FloatArray, ObservationSpec, Task


class Toy(Task):
    """Any model; observed are its positions and velocities."""

    name = "toy"
    description = "a robot for tests"
    discount = 0.9

    def __init__(self, xml: str, control_dt: float = 0.02, safe_stop: str = "zero", damping: Any = 0.0) -> None:
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.control_dt = control_dt
        self.safe_stop = safe_stop
        self.safe_stop_damping = damping
        self.observation_spec = ObservationSpec((("sensors", self.model.nsensordata),))

    def reset(self, rng: np.random.Generator) -> FloatArray:
        return self.at(self.model.qpos0)

    def at(self, qpos: Any, qvel: Any = None, time: float = 0.0) -> FloatArray:
        """A physics state."""
        qvel = np.zeros(self.model.nv) if qvel is None else np.asarray(qvel, float)
        return self.pack(time, np.asarray(qpos, float), qvel, np.zeros(self.model.na))

    def observe(self, sensordata: FloatArray) -> FloatArray:
        return np.array(sensordata)

    def reward(self, obs: Any, action: Any, next_obs: Any) -> Any:
        return 0.0 * obs[..., 0]


def slider(actuator: str = '<motor name="m" joint="x"/>', joint: str = 'range="-1 1"', **arguments: Any) -> Toy:
    """A mass of 1 kg on a rail without friction or gravity: a double integrator; it does not feel its joint's range."""
    return Toy(
        f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.005" gravity="0 0 0" integrator="Euler"><flag limit="disable" contact="disable"/></option>
  <worldbody><body><joint name="x" type="slide" axis="1 0 0" {joint}/><geom size="0.1" mass="1"/></body></worldbody>
  <actuator>{actuator}</actuator>
  <sensor><jointpos joint="x"/><jointvel joint="x"/></sensor>
</mujoco>""",
        **arguments,
    )


def pendulum(actuator: str = '<motor name="m" joint="hinge" gear="-2"/>', **arguments: Any) -> Toy:
    """Two hinges in a row under gravity, without friction; a motor at the first, which is geared backwards."""
    return Toy(
        f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.005" integrator="implicitfast"><flag contact="disable" energy="enable"/></option>
  <worldbody><body>
    <joint name="hinge" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.02" mass="0.5"/>
    <body pos="0 0 0.5">
      <joint name="elbow" axis="0 1 0" range="-2 2"/>
      <geom type="capsule" fromto="0 0 0 0 0 0.3" size="0.02" mass="0.3"/>
    </body>
  </body></worldbody>
  <actuator>{actuator}</actuator>
  <sensor><jointpos joint="hinge"/><jointvel joint="hinge"/></sensor>
</mujoco>""",
        **arguments,
    )


THREE = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body><joint name="a" type="slide" axis="1 0 0" limited="true" range="-1 2"/><geom size="0.1" mass="1"/></body>
    <body><joint name="b" axis="0 1 0" limited="true" range="-0.5 0.5"/><geom pos="1 0 0" size="0.1" mass="1"/></body>
    <body><joint name="c" axis="0 1 0"/><geom pos="1 0 0" size="0.1" mass="1"/></body>
    <body><freejoint name="free"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <actuator>
    <motor joint="a" ctrllimited="true" ctrlrange="-1 1"/>
    <motor joint="b" ctrllimited="true" ctrlrange="0.5 2"/>
    <motor joint="c"/>
  </actuator>
  <sensor><jointpos joint="a"/></sensor>
</mujoco>"""


def three(safe_stop: str = "zero", damping: Any = 0.0) -> Toy:
    """Three motors, with controls around zero, above zero and without a range; a free body besides."""
    return Toy(THREE, safe_stop=safe_stop, damping=damping)
