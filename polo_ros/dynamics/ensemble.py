"""Learned dynamics: trajectory sampling through an ensemble of probabilistic networks.

Chua et al. 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models" (PETS),
section 5; used by LOOP (Sikchi et al. 2021) for the expectation of its eq. 3. The networks and how they are fitted
stand in learning/gaussian_ensemble.py; this file shares their layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from polo_ros.dynamics.base import Flags, Floats, Rollouts, Step
from polo_ros.dynamics.ensemble_config import EnsembleConfig, PredictionConfig, check, shapes
from polo_ros.tasks.base import FloatArray, Task
from polo_ros.tensors import float32

Arrays = Mapping[str, npt.NDArray[np.float32]]


class EnsembleDynamics:
    """Rolls candidates out in the elites of a dynamics ensemble, all of them as one batch.

    Each of N candidates has P particles, dealt out evenly among the E elites: TS-infinity keeps a particle with its
    elite, TS1 deals all particles out anew at each step. Particle p of candidate n is row p N + n of a batch, and the
    elites take equal parts of the rows in their order, idle rows filling the last one. With P a multiple of E all
    elites predict each candidate; with fewer particles each candidate falls to some of them.

    A next observation is drawn from the predicted distribution; a reward is its mean, which has the same expectation
    and less variance.

    Within, states are z = (observation - input_mean) / input_std, so that a step is little more than the networks' own
    products; what the networks give is scaled once, when weights are taken over. Float32, in inference mode, on one
    thread of torch's, which making an instance sets for the process. An instance belongs to one thread.

    Predictions are not clipped. They go on beyond an end: where they diverge there, the candidate is invalid as well.

    Args:
        task: Sizes; rewards and ends at predicted observations.
        config: As the learner's.
        prediction: How candidates are predicted.
        arrays: Weights of the elites that passed `weights.decode` with `shapes(config, nobs, nu)`.
        seed: Of the noise and of TS1's draws; see `seed`.

    Raises:
        ValueError: A deviation that is not above zero, or bounds that are upside down.
    """

    def __init__(
        self, task: Task, config: EnsembleConfig, prediction: PredictionConfig, arrays: Arrays, seed: int = 0
    ) -> None:
        torch.set_num_threads(1)
        self.config = config
        self.prediction = prediction
        self._task = task
        self._terminates = type(task).terminated is not Task.terminated
        self._nobs, self._nu = task.observation_spec.size, int(task.model.nu)
        self._generator = torch.Generator()
        self._open: dict[tuple[int, int], _Buffers] = {}  # by candidates and horizon
        self._stepwise: _Buffers | None = None
        self._now = 0  # slot of the stepwise candidates
        self._ended: Flags = np.empty((0, 0), bool)  # (N, P) of the stepwise candidates
        self.seed(seed)
        self.use(arrays)

    def seed(self, seed: int) -> None:
        """Begin a stream of random numbers: a plan that is to be repeated needs its own."""
        self._generator.manual_seed(seed)

    def use(self, arrays: Arrays) -> None:
        """Take over other weights, between two rollouts.

        Raises:
            ValueError: As making an instance; the weights stay what they were.
        """
        for name, shape in shapes(self.config, self._nobs, self._nu).items():
            if arrays[name].shape != shape:
                raise ValueError(f"weights '{name}' have shape {arrays[name].shape}, expected {shape}")
        check(arrays)
        self._means = _Networks(arrays, self._nobs, sampled=False)
        self._networks = _Networks(arrays, self._nobs, sampled=True) if self.prediction.sampled else self._means
        self._stepwise = None  # its states are in units of the weights before

    @torch.inference_mode()
    def rollout(self, starts: FloatArray, actions: FloatArray) -> Rollouts:
        """Roll actions (N, H, nu) from observations (N, nobs) or one observation (nobs,); P particles each.

        Rewards are the predicted ones, or left to the task, as configured.

        Raises:
            ValueError: Starts that are no observations.
        """
        self._check(starts)
        buffers = self._buffers(len(actions), actions.shape[1])
        self._roll(self._networks, buffers, starts, actions)
        rewards = buffers.earned if self.prediction.rewards == "predicted" else None
        # What is not finite stays so to the end: nothing that is added brings it back.
        valid = _finite(buffers.seen[:, :, -1])
        if not valid.all():
            buffers.seen[~valid] = 0.0  # nobody is to reckon with them
            buffers.earned[~valid] = 0.0
        members = self.prediction.members(self.config)
        # Without noise, too, who predicts a particle may be a matter of chance, or of the candidate's place.
        drawn = self.prediction.sampled or not members
        return Rollouts(buffers.seen, valid, rewards, members, drawn)

    @torch.inference_mode()
    def advance(self, start: FloatArray, actions: FloatArray) -> FloatArray:
        """The observation (nobs,) that actions (T, nu) lead to from `start` (nobs,): the mean of the elites' means."""
        self._check(start)
        if not len(actions):
            return np.array(start, np.float64)
        buffers = _Buffers(self._means, 1, self.config.used, len(actions), shuffled=False)
        self._roll(self._means, buffers, start, actions[None])
        return np.asarray(buffers.seen[0, :, -1].mean(axis=0, dtype=np.float64))

    @torch.inference_mode()
    def begin(self, starts: FloatArray, n: int) -> Floats:
        """Put n candidates at observations (n, nobs) or at one (nobs,); returns them as (n, P, nobs).

        Raises:
            ValueError: Starts that are no observations.
        """
        self._check(starts)
        if self._stepwise is None or self._stepwise.n != n:
            self._stepwise = self._new(n, 1)
        buffers = self._stepwise
        self._now = 0
        self._put(self._networks, buffers, starts)
        observations: Floats = buffers.seen[:, :, 0]
        self._ended = self._over(observations)
        return observations

    @torch.inference_mode()
    def step(self, actions: Floats) -> Step:
        """Go on by actions (N, nu), or (N, P, nu): each particle's own."""
        buffers, now, then = self._begun(), self._now, 1 - self._now
        played = actions if actions.ndim == 3 else actions[:, None]
        buffers.write_actions(now, now + 1, self._networks.actions(played).transpose(0, 1))
        self._advance(self._networks, buffers, now, then, 0)
        buffers.observe(self._networks, then, then + 1)
        before, after = buffers.seen[:, :, now], buffers.seen[:, :, then]
        valid = _finite(after)
        after[~valid] = 0.0
        if self.prediction.rewards == "predicted":
            rewards = buffers.earned[:, :, 0].copy()
        else:
            rewards = np.array(self._task.reward(before, played, after))
        valid &= np.isfinite(rewards).all(axis=1)
        # The step into a terminal state still pays; nothing after it does.
        rewards[self._ended] = 0.0
        rewards[~valid] = 0.0
        self._ended = self._ended | self._over(after)
        self._now = then
        return Step(after, rewards, self._ended, valid)

    @torch.inference_mode()
    def select(self, indices: npt.NDArray[np.int64]) -> Floats:
        """Go on with the candidates `indices` (N',), some perhaps several times; returns observations (N', P, nobs).

        Under TS-infinity particles keep their elites where P is a multiple of these. What is returned takes the place
        of the observations before the last step.
        """
        old, now = self._begun(), self._now
        same = len(indices) == old.n
        buffers = old if same else self._new(len(indices), 1)
        self._stepwise, self._now = buffers, 1 - now if same else 0
        chosen = torch.from_numpy(np.asarray(indices, np.int64))
        buffers.by_particle[self._now].copy_(old.by_particle[now][:, chosen])
        buffers.seen[:, :, self._now] = old.seen[indices, :, now]
        self._ended = self._ended[indices]
        observations: Floats = buffers.seen[:, :, self._now]
        return observations

    def close(self) -> None:
        """There are no worker threads."""

    def _check(self, starts: FloatArray) -> None:
        if starts.shape[-1] != self._nobs:
            raise ValueError(
                f"a learned model begins with observations of {self._nobs} entries, the start has {starts.shape[-1]}"
            )

    def _over(self, observations: Floats) -> Flags:
        if not self._terminates:
            return np.zeros(observations.shape[:-1], bool)
        return np.asarray(self._task.terminated(observations))

    def _begun(self) -> _Buffers:
        if self._stepwise is None:
            raise RuntimeError("no candidates to go on with: call begin first, and again after other weights")
        return self._stepwise

    def _buffers(self, n: int, horizon: int) -> _Buffers:
        kept = self._open.pop((n, horizon), None)
        if kept is None:
            if len(self._open) >= 4:  # with a deadline sizes differ from batch to batch; old ones must not pile up
                self._open.pop(next(iter(self._open)))
            kept = self._new(n, horizon)
        self._open[n, horizon] = kept
        return kept

    def _new(self, n: int, horizon: int) -> _Buffers:
        prediction = self.prediction
        return _Buffers(self._networks, n, prediction.particles, horizon, prediction.propagation == "ts1")

    def _put(self, networks: _Networks, buffers: _Buffers, starts: FloatArray) -> None:
        buffers.by_particle[0][..., : self._nobs] = networks.standardised(starts)
        buffers.seen[:, :, 0] = starts if starts.ndim == 1 else starts[:, None]

    def _roll(self, networks: _Networks, buffers: _Buffers, starts: FloatArray, actions: FloatArray) -> None:
        """Fill `buffers` with what actions (N, H, nu) lead to."""
        horizon = actions.shape[1]
        self._put(networks, buffers, starts)
        # (N, H, nu) to (H, 1, N, nu): all particles of a candidate share its actions.
        buffers.write_actions(0, horizon, networks.actions(actions).transpose(0, 1).unsqueeze(1))
        for t in range(horizon):
            self._advance(networks, buffers, t, t + 1, t)
        buffers.observe(networks, 1, horizon + 1)

    def _advance(self, networks: _Networks, buffers: _Buffers, now: int, then: int, step: int) -> None:
        """Predict the states in slot `then` from states and actions in slot `now`, and the reward of `step`."""
        if buffers.shuffled:
            order = torch.randperm(buffers.padded, generator=self._generator)
            torch.index_select(buffers.states[now], 0, order, out=buffers.dealt)
            source, before, after = buffers.dealt_inputs, buffers.dealt_z, buffers.moved
        else:
            source, before, after = buffers.inputs[now], buffers.z[now], buffers.z[then]
        networks.run(source, buffers.layers[step])
        torch.add(before, buffers.change[step], out=after)
        if networks.sampled:
            # The bounded log-variance as a variance, exp(min) + exp(max) sigmoid(raw - max), in units of z.
            torch.addcmul(networks.var_min, buffers.raw[step].sigmoid_(), networks.var_max, out=buffers.deviation)
            after.addcmul_(buffers.deviation.sqrt_(), buffers.noise.normal_(generator=self._generator))
        if buffers.shuffled:
            buffers.z_rows[then].index_copy_(0, order, buffers.moved_rows)
            buffers.taken_back[step].index_copy_(0, order, buffers.reward[step])


class _Networks:
    """Weights in units of z: one batched product a layer gives [reward, change of z, raw log-variance of the change].

    Without `sampled` the last is left out.
    """

    def __init__(self, arrays: Arrays, nobs: int, sampled: bool) -> None:
        self.sampled = sampled
        self.members = len(arrays["0.weight"])
        self.nobs = nobs
        exact_std = arrays["input_std"].astype(np.float64)
        self._mean, self._std = arrays["input_mean"].astype(np.float64), exact_std
        self.obs_mean, self.obs_std = float32(self._mean[:nobs]), float32(exact_std[:nobs])
        self.action_mean, self.action_std = float32(self._mean[nobs:]), float32(exact_std[nobs:])
        layers = sum(name.endswith(".weight") for name in arrays)
        self.weights = [float32(arrays[f"{index}.weight"]) for index in range(layers - 1)]
        self.biases = [float32(arrays[f"{index}.bias"]) for index in range(layers - 1)]
        scale = exact_std[:nobs]
        last_weight = arrays[f"{layers - 1}.weight"].astype(np.float64)
        last_bias = arrays[f"{layers - 1}.bias"].astype(np.float64)
        last_weight[..., 1 : 1 + nobs] /= scale
        last_bias[..., 1 : 1 + nobs] /= scale
        high, low = (arrays[f"log_var_{end}"][..., 1:].astype(np.float64) for end in ("max", "min"))
        last_bias[..., 2 + nobs :] -= high
        self.var_max, self.var_min = float32(np.exp(high) / scale**2), float32(np.exp(low) / scale**2)
        # The reward's log-variance is not needed.
        columns = np.delete(np.arange(2 * (1 + nobs)), 1 + nobs) if sampled else np.arange(1 + nobs)
        self.weights.append(float32(last_weight[..., columns]))
        self.biases.append(float32(last_bias[..., columns]))

    def standardised(self, observations: FloatArray) -> torch.Tensor:
        """Z (..., nobs) of observations (..., nobs)."""
        return float32((observations - self._mean[: self.nobs]) / self._std[: self.nobs])

    def actions(self, actions: Floats) -> torch.Tensor:
        """Actions (..., nu), standardised."""
        return float32(actions).sub_(self.action_mean).div_(self.action_std)

    def run(self, inputs: torch.Tensor, layers: Sequence[torch.Tensor]) -> None:
        """Fill `layers`, (E, M, outputs) each, from inputs (E, M, nobs + nu)."""
        h = inputs
        last = len(layers) - 1
        for index, (weight, bias, out) in enumerate(zip(self.weights, self.biases, layers, strict=True)):
            h = torch.baddbmm(bias, h, weight, out=out)
            if index < last:
                functional.silu(h, inplace=True)


class _Buffers:
    """Memory of N candidates with P particles over H steps, and the views of it that a step needs.

    Row p N + n of the padded rows is particle p of candidate n; member e has rows e M to (e + 1) M or, `shuffled`, as
    many that are dealt to it at each step.
    """

    def __init__(self, networks: _Networks, n: int, particles: int, horizon: int, shuffled: bool) -> None:
        members, nobs = networks.members, networks.nobs
        inputs = networks.weights[0].shape[1]
        self.n, self.particles, self.shuffled = n, particles, shuffled
        rows = n * particles
        each = -(-rows // members)
        self.padded = each * members
        # Zeros: idle rows are predicted as well.
        self.states = torch.zeros(horizon + 1, self.padded, inputs)
        self.inputs = [slot.view(members, each, inputs) for slot in self.states]
        self.z = [view[..., :nobs] for view in self.inputs]
        self.z_rows = [slot[:, :nobs] for slot in self.states]
        self.by_particle = self.states[:, :rows].view(horizon + 1, particles, n, inputs)  # (H + 1, P, N, nobs + nu)
        hidden = [torch.empty(members, each, weight.shape[2]) for weight in networks.weights[:-1]]
        # A last layer for each step: rewards are read where the networks left them.
        outputs = networks.weights[-1].shape[2]
        out = torch.zeros(horizon, self.padded, outputs)
        by_member = [step.view(members, each, outputs) for step in out]
        self.layers = [[*hidden, step] for step in by_member]
        self.change = [step[..., 1 : 1 + nobs] for step in by_member]
        self.raw = [step[..., 1 + nobs :] for step in by_member]
        self.reward = out[..., 0]  # (H, padded rows), as dealt
        self.deviation, self.noise, self.moved = torch.empty(3, members, each, nobs)
        self.moved_rows = self.moved.flatten(0, 1)
        self.dealt = torch.empty(self.padded, inputs)
        self.dealt_inputs = self.dealt.view(members, each, inputs)
        self.dealt_z = self.dealt_inputs[..., :nobs]
        self.taken_back = torch.zeros(horizon, self.padded) if shuffled else self.reward
        # In the planners' order, and the same memory for numpy.
        self._observations = torch.zeros(n, particles, horizon + 1, nobs)
        self.seen: npt.NDArray[np.float32] = self._observations.numpy()  # (N, P, H + 1, nobs)
        by_step = self.taken_back.numpy()[:, :rows].reshape(horizon, particles, n)
        self.earned: npt.NDArray[np.float32] = by_step.transpose(2, 1, 0)  # (N, P, H)

    def write_actions(self, first: int, end: int, actions: torch.Tensor) -> None:
        """Put standardised actions, (P, N, nu) or (slots, 1, N, nu), into slots `first` to `end` - 1."""
        self.by_particle[first:end, ..., -actions.shape[-1] :] = actions

    def observe(self, networks: _Networks, first: int, end: int) -> None:
        """Fill `seen` of slots `first` to `end` - 1 from z."""
        part = self._observations[:, :, first:end]
        z = self.by_particle[first:end, ..., : networks.nobs].permute(2, 1, 0, 3)
        torch.addcmul(networks.obs_mean, z, networks.obs_std, out=part)


def _finite(observations: Floats) -> Flags:
    """Whether all particles of a candidate are finite, (N,), of observations (N, P, nobs)."""
    return np.asarray(np.isfinite(observations).all(axis=(1, 2)))
