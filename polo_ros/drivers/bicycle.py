"""A car as a bicycle with brush tyres: three degrees of freedom, rear drive, and tyres that may slide.

Ahn 2019, "Autonomous drifting using reinforcement learning"; numbers are those of its code for a car of 1:10. The
body's frame has x forwards and y to the left; yaw is from the world's x axis to the body's, counter-clockwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Bicycle:
    """The car's numbers, and what follows from them.

    A tyre force grows with slip up to 3 mu_s N / C and slides beyond. Two jumps are the source's: where the rear tyre
    begins to slide its force goes from mu_s N up to mu_k N, since mu_k is the larger; and wheels that roll within 0.01
    m/s of the car do not drive it at all. One thing is not the source's: the rear slip angle of a car that goes
    backwards is folded to within a quarter turn, as the front's is; otherwise its tyre would push instead of hold.
    """

    mass: float = 2.645  # kg
    front: float = 0.137  # m, L_f: from the centre of mass to the front axle
    rear: float = 0.120  # m, L_r
    front_load: float = 12.1  # N
    rear_load: float = 13.8178  # N
    longitudinal_stiffness: float = 103.94  # N, C_x
    cornering_stiffness: float = 56.4  # N/rad, C_alpha
    inertia: float = 0.0558  # kg m^2, about the vertical
    static_friction: float = 1.37  # mu_s
    kinetic_friction: float = 1.96  # mu_k
    drag: float = 0.025  # 1/s, of velocities
    yaw_drag: float = 0.02  # 1/s
    slow: float = 0.01  # m/s, below which a velocity or a difference of velocities is none

    def slip_angles(self, velocity: Vector, steering: float) -> tuple[float, float]:
        """Slip angles of front and rear tyre, rad, not folded: 0 where the car stands.

        Args:
            velocity: vx and vy in m/s in the body's frame, yaw rate in rad/s.
            steering: rad.
        """
        vx, vy, rate = velocity
        if abs(vx) < self.slow and abs(vy) < self.slow:
            return 0.0, 0.0
        return math.atan2(vy + self.front * rate, vx) - steering, math.atan2(vy - self.rear * rate, vx)

    def front_force(self, slip_angle: float) -> float:
        """Lateral force of the front tyre, N, in its own frame."""
        angle = _folded(slip_angle)
        stiffness, limit = self.cornering_stiffness, self.static_friction * self.front_load
        slip = stiffness * math.tan(angle)
        if abs(slip) > 3.0 * limit:
            return -math.copysign(limit, angle)
        return -slip + slip * abs(slip) / (3.0 * limit) - slip**3 / (27.0 * limit**2)

    def rear_force(self, slip_angle: float, vx: float, wheel_speed: float) -> tuple[float, float]:
        """Longitudinal and lateral force of the rear tyre, N, which drives or brakes as its wheel is faster or slower.

        Args:
            slip_angle: rad.
            vx: m/s, of the car forwards.
            wheel_speed: m/s, of the tyre's tread.
        """
        limit = self.static_friction * self.rear_load
        if abs(vx) < self.slow:
            return (math.copysign(limit, wheel_speed) if wheel_speed else 0.0), 0.0
        difference = wheel_speed - vx
        ratio = 0.0 if abs(difference) < self.slow else abs(difference / vx)
        along = self.longitudinal_stiffness * ratio / (1.0 + ratio)
        across = self.cornering_stiffness * math.tan(_folded(slip_angle)) / (1.0 + ratio)
        slip = math.hypot(along, across)
        if slip == 0.0:
            return 0.0, 0.0
        if slip <= 3.0 * limit:
            share = 1.0 - slip / (3.0 * limit) + slip**2 / (27.0 * limit**2)
        else:
            share = self.kinetic_friction * self.rear_load / slip
        return math.copysign(along, difference) * share, -across * share

    def acceleration(self, velocity: Vector, wheel_speed: float, steering: float) -> Vector:
        """Rates of vx and vy, m/s^2, in the turning body's frame, and of the yaw rate, rad/s^2."""
        vx, vy, rate = velocity
        front_angle, rear_angle = self.slip_angles(velocity, steering)
        lateral = self.front_force(front_angle)
        rear_along, rear_across = self.rear_force(rear_angle, vx, wheel_speed)
        front_along, front_across = -lateral * math.sin(steering), lateral * math.cos(steering)
        return (
            (rear_along + front_along) / self.mass + rate * vy - self.drag * vx,
            (rear_across + front_across) / self.mass - rate * vx - self.drag * vy,
            (self.front * front_across - self.rear * rear_across) / self.inertia - self.yaw_drag * rate,
        )

    def advance(
        self, pose: Vector, velocity: Vector, wheel_speed: float, steering: float, duration: float, steps: int
    ) -> tuple[Vector, Vector]:
        """Pose (x, y in m, yaw in rad) and velocity after `duration` s, by `steps` steps of Runge-Kutta, order 4.

        Slip is fast where the car is slow: tyres settle within m v / C s, 0.25 ms at the least velocity that has slip.
        Half a millisecond a step is as far as this stays stable there, and what is needed.
        """
        state: tuple[float, ...] = (*pose, *velocity)
        step = duration / steps
        for _ in range(steps):
            one = self._rates(state, wheel_speed, steering)
            two = self._rates(_moved(state, one, 0.5 * step), wheel_speed, steering)
            three = self._rates(_moved(state, two, 0.5 * step), wheel_speed, steering)
            four = self._rates(_moved(state, three, step), wheel_speed, steering)
            state = _moved(
                state,
                tuple(a + 2.0 * (b + c) + d for a, b, c, d in zip(one, two, three, four, strict=True)),
                step / 6.0,
            )
        x, y, yaw, vx, vy, rate = state
        return (x, y, yaw), (vx, vy, rate)

    def _rates(self, state: tuple[float, ...], wheel_speed: float, steering: float) -> tuple[float, ...]:
        _, _, yaw, vx, vy, rate = state
        cosine, sine = math.cos(yaw), math.sin(yaw)
        forces = self.acceleration((vx, vy, rate), wheel_speed, steering)
        return (cosine * vx - sine * vy, sine * vx + cosine * vy, rate, *forces)

    def energy(self, velocity: Vector) -> float:
        """Kinetic, J."""
        vx, vy, rate = velocity
        return 0.5 * self.mass * (vx * vx + vy * vy) + 0.5 * self.inertia * rate * rate


def _folded(angle: float) -> float:
    """The slip angle within a quarter turn whose tyre pulls the same way: a tyre does not know front from back."""
    angle = math.remainder(angle, 2.0 * math.pi)
    return math.copysign(math.pi - abs(angle), angle) if abs(angle) > 0.5 * math.pi else angle


def _moved(state: tuple[float, ...], rates: tuple[float, ...], step: float) -> tuple[float, ...]:
    return tuple([value + step * rate for value, rate in zip(state, rates, strict=True)])
