"""Bridge: owns the robot through one driver. Plans in, states and transitions out."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from polo_ros import drivers, tasks
from polo_ros.drivers.base import DriverError
from polo_ros.drivers.guard import GuardedDriver, Life
from polo_ros.msg import Plan, PlannerStatus, State
from polo_ros.msg import Transition as TransitionMsg
from polo_ros.nodes import convert
from polo_ros.nodes.base import EVERY, LATCHED, LATEST, PoloNode, spin
from polo_ros.nodes.known import OTHERS
from polo_ros.safety.stop_file import StopFile
from polo_ros.safety.supervisor import Fault
from polo_ros.safety.timeline import TimedPlan
from polo_ros.session.config import BridgeConfig
from polo_ros.session.health import Alert, Window, judge
from polo_ros.session.loop import RobotLoop, Sample
from polo_ros.session.step_file import StepFile

BY_SERVICE = "stopped by service"
# Plans that wait for the next control period, here and in the middleware: a wrong one must not push out a right one.
OFFERS = 16


class Bridge(PoloNode):
    """Runs a RobotLoop in a thread of its own, paced by the steady clock or by the plans."""

    # A waiting bridge repeats its state this often, s, for a planner that was not there before.
    REPEAT = 0.2
    # /clock is published at most this often, s of robot time: each subscriber pays for every message.
    CLOCK_PERIOD = 0.01
    # A simulation in real time that is this many periods late gives up catching up and says so; a robot makes up for
    # none.
    MAX_LATE = 10
    # s to wait for word of a planner before control starts without one.
    MEETING = 5.0
    # s between the last control period and word of the end, for those who still write down what came before.
    SETTLING = 0.5
    # s before a driver that failed is connected again.
    RECONNECT = 1.0
    # In run_dir: why the robot is stopped, as long as it is; and which steps are used up.
    STOP_FILE, STEP_FILE = "stopped.json", "steps.json"
    # Control waits for no disk. A thread looks every LOOK s how far it is, and reserves the step numbers of AHEAD s.
    LOOK, AHEAD = 0.25, 1.0

    def __init__(self) -> None:
        super().__init__("bridge")
        self.settings = self.declare(BridgeConfig())
        self.counts.update(safe_stops=0, plans_refused=0, statuses_refused=0, driver_errors=0, overruns=0)
        self._driver_name = drivers.chosen(self.settings.driver, self.session.task)
        self._driver_settings = self.declare(drivers.settings(self._driver_name))
        self.refuse_unknown(OTHERS, self._driver_name)
        self._wake = threading.Condition()
        self._stopping = self._paused = self._finished = False
        self._steps_allowed = 0
        self._offers: deque[tuple[TimedPlan, int]] = deque(maxlen=OFFERS)
        self._planner_met = False
        # Step and episode that were used last: as this process knows, as is written in run_dir, as a planner says.
        self._went: tuple[int, int] | None = None
        self._written: tuple[int, int] | None = None
        self._seen: tuple[int, int] | None = None
        self._controlling = False
        self._state_ages, self._plan_ages, self._late = Window(), Window(), Window()
        run_dir = self.session.run_dir
        self._stop_file = StopFile(Path(run_dir) / self.STOP_FILE) if run_dir else None
        self._step_file = StepFile(Path(run_dir) / self.STEP_FILE, self.session.started) if run_dir else None
        self._steps_kept_ahead = False  # by a thread that runs until control ends
        self._news = threading.Event()
        self._kept: Fault | None = None
        self._keeping = threading.Lock()
        self.on_change(self._changed)

    # ---- lifecycle -------------------------------------------------------------------------

    def configure(self) -> None:
        """Make task and driver, open communication. No motion."""
        self.task = tasks.make(self.session.task)
        settings = getattr(self._driver_settings, self._driver_name)
        self.driver = GuardedDriver(drivers.make(self._driver_name, self.task, self.session.seed, settings))
        if self.session.clock == "lockstep" and not self.driver.simulated:
            raise ValueError(f"clock 'lockstep' with driver '{self._driver_name}': a robot does not wait for plans")
        before = self._kept_fault()
        self._written = self._kept_steps()
        own = self.settings
        self.loop = RobotLoop(
            self.task,
            self.driver,
            own.max_plan_age,
            own.safety,
            own.actuation_delay,
            seed=self.session.seed,
            realtime=self.session.clock == "realtime",
        )
        self.get_logger().info(f"limits:\n{self.loop.supervisor.limits}")
        if before is not None:
            self.loop.supervisor.latch(before)
            self._kept = before
            self.get_logger().warning(f"still stopped, since step {before.step}: {before.reason}; ~/arm lets it go on")
        model = self.task.model
        self._joints = [
            (model.joint(j).name, int(model.jnt_qposadr[j]), int(model.jnt_dofadr[j]))
            for j in range(model.njnt)
            if model.jnt_type[j] >= 2  # slide and hinge: one number each
        ]
        self._state_publisher = self.create_lifecycle_publisher(State, "state", LATEST)
        self._transition_publisher = self.create_lifecycle_publisher(TransitionMsg, "transition", EVERY)
        self._joint_publisher = self.create_lifecycle_publisher(JointState, "joint_states", LATEST)
        self._clock_publisher = self.create_lifecycle_publisher(ClockMsg, "/clock", QoSProfile(depth=1))
        self._plan_subscription = self.create_subscription(
            Plan, "plan", self._receive_plan, QoSProfile(depth=OFFERS, reliability=LATEST.reliability)
        )
        self._status_subscription = self.create_subscription(
            PlannerStatus, "planner/status", self._receive_status, LATCHED
        )
        self._servers = [
            self.create_service(Trigger, f"~/{name}", callback)
            for name, callback in (
                ("reset", self._serve_reset),
                ("pause", self._serve_pause),
                ("resume", self._serve_resume),
                ("step", self._serve_step),
                ("stop", self._serve_stop),
                ("arm", self._serve_arm),
            )
        ]

    def activate(self) -> None:
        """Connect to the robot and start control."""
        if self.driver.life is Life.CLOSED:
            self.driver.connect()
        self.driver.stop()  # whatever a bridge that died has left
        self.get_logger().info(f"driver '{self._driver_name}' is connected")
        self._stopping = self._steps_kept_ahead = self._controlling = False
        self.work(self._run, "control")

    def deactivate(self) -> None:
        """Stop control, leave the robot safe."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._news.set()
        self.join(5.0)
        self._note_where()
        self._quietly(self.driver.stop)

    def cleanup(self) -> None:
        """Disconnect."""
        if hasattr(self, "loop"):
            self.loop.close()
        if self._step_file is not None:
            self._step_file.close()
        if hasattr(self, "driver"):
            self._quietly(self.driver.close)

    def _quietly(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  a driver of others must not keep the rest from being made safe
            self.get_logger().error(f"driver '{self._driver_name}': {error}")

    def _changed(self) -> None:
        self.settings = self.config(BridgeConfig)
        if hasattr(self, "loop"):
            self.loop.timeline.max_plan_age = self.settings.max_plan_age

    # ---- control ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                if self.driver.life is Life.CLOSED:
                    self.driver.connect()
                self._control()
                return
            except DriverError as error:
                # Simulation: the next episode starts anew. Robot: made safe, then connected again, until that succeeds.
                self.counts["driver_errors"] += 1
                self.failure = f"driver '{self._driver_name}': {error}"
                self.get_logger().error(self.failure)
                self.say_where(error)
                self._quietly(self.driver.stop)
                if self._controlling and not self.driver.simulated and self.settings.safety.latch:
                    self.loop.supervisor.stop(f"driver: {error}")  # nobody knows what the robot did meanwhile
                    self._keep_fault()
                self._controlling = False
                self._note_where()
                self.publish_diagnostics()  # at once: it may be over before the next second
                self._wait(self.RECONNECT)
                if not self._stopping:  # a slow driver would keep control from ending in time
                    self._quietly(self.driver.close)
            except Exception:
                self._quietly(self.driver.stop)  # the robot must be safe whatever went wrong here
                raise

    def _note_where(self) -> None:
        """Remember where control ended, if it has begun: there it goes on when it begins again."""
        if self._went is not None:
            self._went = max(self._went, (self.loop.step, self.loop.episode))

    def _control(self) -> None:
        self._await_session()
        if self._stopping:
            return
        self.driver.activate()
        last = self._went or self._written or self._seen
        self._went = step, episode = (last[0] + 1, last[1] + 1) if last else (0, 0)
        self.loop.start(step, episode)
        sample = self.loop.sense()
        simulated = self.driver.simulated
        lockstep = self.session.clock == "lockstep"
        period = self.task.control_dt
        # Who waits for plans may wait for a file too, and then nothing is used up that is not used.
        self._ahead = 0 if lockstep else math.ceil(self.AHEAD / period)
        if not self._steps_kept_ahead:
            self._keep_steps(step + self._ahead, episode)
            if self._step_file is not None and not lockstep:
                self._steps_kept_ahead = True
                self.work(self._keep_steps_ahead, "steps")
        due = time.monotonic()
        # Simulation waits for the first plan of an episode. A robot never waits: its safe stop is played.
        begun = not simulated
        while not self._stopping:
            if 0.0 < self.settings.duration <= sample.step * period + 1e-9:
                self._finish(sample)
                return
            granted = self._paused and self._take_step()
            if self._paused and not granted:
                due = time.monotonic()
                continue
            if lockstep or not begun:
                if not self._await_plan(sample, lockstep, granted):
                    continue
                begun, due = True, time.monotonic()
            else:
                if simulated:
                    due = self._pace(due + period, period)
                self._publish_state(sample)
                self._accept()
            if not self._controlling:
                self._controlling, self.failure = True, ""
                self.get_logger().info(f"control begins with step {sample.step}")
            if lockstep:
                self._keep_steps(sample.step, sample.episode)
            self.loop.play(sample)
            self._state_ages.add(sample.robot.age)
            if self.loop.plan_age < math.inf:
                self._plan_ages.add(self.loop.plan_age)
            if self.loop.supervisor.fault is not self._kept:
                threading.Thread(target=self._keep_fault, daemon=True).start()  # control waits for no disk
            if not simulated:
                due = self._pace(due + period, period)
            transition, after = self.loop.observe()
            if transition.safe_stop:
                self.counts["safe_stops"] += 1
                self.get_logger().warning(f"safe stop: {self.loop.reason}", throttle_duration_sec=1.0)
                # What lasts until ~/arm is an alert.
                self.problem = "" if self.loop.supervisor.stopped else f"safe stop: {self.loop.reason}"
            else:
                self.problem = ""
            self.send(self._transition_publisher, convert.transition_message(transition, self.task))
            self._publish_clock(after)
            if after.episode != sample.episode:
                self._news.set()
            begun = after.episode == sample.episode or not simulated
            sample = after

    def _await_session(self) -> None:
        """Wait until whoever must get every transition is there."""
        wanted = {"learner"} if self.session.learner else set()
        wanted |= {"recorder"} if self.session.recorder else set()
        limit = time.monotonic() + self.settings.start_timeout
        topic = self.resolve_topic_name("transition")
        while not self._stopping:
            there = self.get_subscriptions_info_by_topic(topic)
            missing = wanted - {info.node_name for info in there}
            # A node is in the graph before its subscription is matched; what is published before that it never gets.
            # Others that listen are matched too, and must not be counted for those that are waited for.
            volatile = [info for info in there if info.qos_profile.durability is DurabilityPolicy.VOLATILE]
            if not missing and self._transition_publisher.get_subscription_count() >= len(volatile):
                break
            if time.monotonic() > limit:
                names = " and ".join(sorted(missing or wanted))
                self.get_logger().warning(f"starting after {self.settings.start_timeout} s without {names}")
                break
            self._wait(0.05)
        # A planner says at once where control was when it planned last, or that it has not planned yet.
        limit = time.monotonic() + self.MEETING
        known = self._went is not None or self._written is not None
        while not self._stopping and not known and not self._planner_met and time.monotonic() < limit:
            self._wait(0.02)

    def _await_plan(self, sample: Sample, exact: bool, granted: bool) -> bool:
        """Publish the state until a plan for it is there.

        `exact`: made from this very state. `granted`: wait although paused, for a single step.
        """
        self._publish_state(sample)
        began = published = time.monotonic()
        while not self._stopping and (granted or not self._paused) and not self.loop.reset_requested:
            self._accept()
            plan = self.loop.timeline.action(sample.step)
            if plan.action is not None and (not exact or plan.state_step == sample.step):
                return True
            patience = self.REPEAT
            if self.loop.supervisor.stopped:
                # The safe stop is played whether there is a plan or not, and not faster than in real time.
                patience = began + self.task.control_dt - time.monotonic()
                if patience <= 0.0:
                    return True
            with self._wake:
                if not self._offers:
                    self._wake.wait(patience)
            if time.monotonic() - published > self.REPEAT:
                self._publish_state(sample)
                published = time.monotonic()
                self.problem = f"waiting for a plan for step {sample.step}; is the planner running?"
        return self.loop.reset_requested

    def _accept(self) -> None:
        while self._offers:
            plan, weights_version = self._offers.popleft()
            reason = self.loop.offer(plan, weights_version)
            if reason:
                self.refuse("plans_refused", f"plan {plan.plan_id} refused: {reason}")

    def _pace(self, due: float, period: float) -> float:
        """Sleep until `due`; returns the moment that the next period is counted from."""
        now = time.monotonic()
        # A robot's lost time is gone: periods made up for would be no periods. Simulation catches up a little.
        late = (self.MAX_LATE if self.driver.simulated else 1) * period
        self._late.add(float(now - due > late))
        if now - due > late:
            self.counts["overruns"] += 1
            self.get_logger().warning(
                f"control is {now - due:.3f} s late: the schedule starts anew", throttle_duration_sec=1.0
            )
            return now
        while (left := due - time.monotonic()) > 0 and not self._stopping:
            time.sleep(left)
        return due

    def _take_step(self) -> bool:
        with self._wake:
            if self._steps_allowed == 0:
                self._wake.wait(0.1)
            if self._steps_allowed == 0:
                return False
            self._steps_allowed -= 1
            return True

    def _wait(self, timeout: float) -> None:
        """Do nothing for so many s, or until control is to end: plans that arrive meanwhile wake nobody."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping, timeout)

    def _finish(self, sample: Sample) -> None:
        self._quietly(self.driver.stop)
        self.publish_diagnostics()  # where control ended
        self._wait(self.SETTLING)
        self._finished = True
        self.get_logger().info(f"session over after {sample.step} control periods")
        self.publish_diagnostics()
        while not self._stopping:
            self._publish_state(sample)
            self._wait(0.5)

    # ---- what comes in ---------------------------------------------------------------------

    def _receive_plan(self, message: Plan) -> None:
        if not self._running:
            return
        try:
            plan = convert.timed_plan(message, self.task)
        except convert.MessageError as error:
            self.refuse("plans_refused", f"plan refused: {error}")
            return
        with self._wake:
            self._offers.append((plan, message.weights_version))
            self._wake.notify_all()

    def _receive_status(self, message: PlannerStatus) -> None:
        if self.loop.step:
            # Control goes on by its own count, and a message that nobody needs costs every period.
            self.destroy_subscription(self._status_subscription)
            return
        self._planner_met = True
        if message.step > convert.MAX_STEP or message.episode > convert.MAX_EPISODE:
            self.refuse("statuses_refused", f"planner status refused: step {message.step}, episode {message.episode}")
        elif message.plan_id:
            self._seen = (message.step, message.episode)

    def _answer(self, response: Trigger.Response, reason: str, done: str) -> Trigger.Response:
        response.success = not reason
        response.message = reason or done
        return response

    def _serve_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.driver.can_reset:
            return self._answer(response, f"driver '{self._driver_name}' cannot reset the robot", "")
        self.loop.reset_requested = True
        return self._answer(response, "", "reset at the end of this control period")

    def _serve_pause(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.driver.simulated:
            return self._answer(response, "a robot cannot pause; use ~/stop", "")
        self._paused = True
        return self._answer(response, "", "paused")

    def _serve_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._wake:
            self._paused = False
            self._steps_allowed = 0
            self._wake.notify_all()
        return self._answer(response, "", "running")

    def _serve_step(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._paused:
            return self._answer(response, "not paused; call ~/pause first", "")
        with self._wake:
            self._steps_allowed += 1
            self._wake.notify_all()
        return self._answer(response, "", "one control period")

    def _serve_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.loop.supervisor.stop(BY_SERVICE)
        problem = self._keep_fault()
        lost = f"; a bridge that is restarted will not know of it: {problem}" if problem else ""
        return self._answer(response, "", f"safe stop until ~/arm{lost}")

    def _serve_arm(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reason = self.loop.supervisor.arm()
        problem = self._keep_fault()
        kept = f"; a bridge that is restarted will be stopped again: {problem}" if problem and not reason else ""
        return self._answer(response, reason and f"not armed: {reason}", f"armed{kept}")

    # ---- what goes out ---------------------------------------------------------------------

    def _publish_state(self, sample: Sample) -> None:
        message = convert.state_message(sample, self.task)
        self.send(self._state_publisher, message)
        qpos, qvel = sample.robot.qpos, sample.robot.qvel
        joints = JointState(
            name=[name for name, _, _ in self._joints],
            position=convert.doubles(qpos[[q for _, q, _ in self._joints]]),
            velocity=convert.doubles(qvel[[v for _, _, v in self._joints]]),
        )
        joints.header = message.header
        self.send(self._joint_publisher, joints)

    def _publish_clock(self, sample: Sample) -> None:
        if not self.driver.simulated:
            return
        every = max(1, round(self.CLOCK_PERIOD / self.task.control_dt))
        if sample.step % every == 0:
            self.send(self._clock_publisher, ClockMsg(clock=convert.stamp(float(sample.state[0]))))

    def diagnose(self) -> Mapping[str, object]:
        """Where control is, and what the supervisor did."""
        if not hasattr(self, "loop"):
            return {}
        figures: dict[str, object] = {
            "step": self.loop.step,
            "episode": self.loop.episode,
            "return": self.loop.episode_return,
            "paused": self._paused,
            "stopped": self.loop.supervisor.stopped,
            "finished": self._finished,
        }
        with contextlib.suppress(DriverError):  # who asks is not who controls: an error shows where control reads
            figures.update({f"robot.{name}": value for name, value in self.driver.status().items()})
        for name, ages in (("state_age", self._state_ages), ("plan_age", self._plan_ages)):
            figures.update({f"{name}_p{q}_ms": round(1e3 * ages.quantile(q / 100), 3) for q in (50, 99)})
        fault = self.loop.supervisor.fault
        if fault is not None:
            figures["fault"] = f"{fault.reason} (step {fault.step})"
        if self.loop.verification is not None:
            figures["verification_ms"] = f"{self.loop.verification.latest.ms:.3g}"
        strangers = self.count_publishers("plan") - 1
        if strangers > 0:
            self.problem = self.problem or f"{strangers + 1} planners: two sessions in one ROS domain and namespace?"
        figures.update({f"supervisor: {k}": v for k, v in self.loop.supervisor.counts.items()})
        return figures

    def alerts(self) -> Sequence[Alert]:
        """A stop that waits to be cleared, and control that does not keep time."""
        found = []
        if (fault := self.loop.supervisor.fault) is not None:
            asked_for = fault.reason.startswith(BY_SERVICE)
            found.append(Alert(f"stopped: {fault.reason}; ~/arm lets it go on", severe=not asked_for))
        own = self.settings.health
        found += self._stale(
            "plans", self._plan_ages, self.settings.max_plan_age, own.plan_age_warn, own.plan_age_error
        )
        allowed = 0.0 if self.driver.simulated else self.settings.safety.max_state_age
        found += self._stale("states", self._state_ages, allowed, own.state_age_warn, own.state_age_error)
        text = f"{self._late.mean:.1%} of control periods began late: too much runs on this machine"
        return found + judge(self._late.mean, own.overruns_warn, own.overruns_error, text)

    @staticmethod
    def _stale(what: str, ages: Window, allowed: float, warn: float, error: float) -> list[Alert]:
        age = ages.quantile(0.99)
        text = f"{what} are {age:.3f} s old (p99), allowed {allowed:g} s"
        return judge(age / allowed, warn, error, text) if allowed else []

    # ---- what outlives the process: stops, and step numbers --------------------------------

    def _kept_fault(self) -> Fault | None:
        """For which the robot was stopped when it was last controlled."""
        if self._stop_file is not None:
            return self._stop_file.read()
        return self.loop.supervisor.fault if hasattr(self, "loop") else None

    def _keep_fault(self) -> str:
        """Write down for which fault the robot is stopped, if that has changed; returns why it cannot be."""
        with self._keeping:
            fault = self.loop.supervisor.fault
            if fault is self._kept:
                return ""
            self._kept = fault
            if self._stop_file is None:
                return "run_dir is not set" if fault else ""
            try:
                self._stop_file.write(fault)
            except OSError as error:
                self.get_logger().error(f"{self._stop_file.path}: {error}")
                return str(error)
            return ""

    def _kept_steps(self) -> tuple[int, int] | None:
        if self._step_file is None:
            return None
        try:
            return self._step_file.read()
        except (OSError, ValueError) as error:
            self.problem = f"steps go on from what the planner says: {error}"
            self.get_logger().error(self.problem)
            return None

    def _keep_steps(self, step: int, episode: int) -> None:
        """Write down that everything up to `step` and `episode` may be used."""
        if self._step_file is not None:
            try:
                self._step_file.write(step, episode)
            except OSError as error:
                self.get_logger().error(f"steps are not kept: {error}", throttle_duration_sec=10.0)

    def _keep_steps_ahead(self) -> None:
        """The same beside control, until it ends."""
        while not self._stopping:
            self._keep_steps(self.loop.step + self._ahead, self.loop.episode)
            self._news.wait(self.LOOK)
            self._news.clear()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return spin(Bridge, args)
