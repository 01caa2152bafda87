"""What `polo train` made, read back for planners: policy, critic and dynamics model, without torch."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polo_ros.config import replace
from polo_ros.dynamics import ensemble_config
from polo_ros.dynamics.ensemble_config import EnsembleConfig
from polo_ros.learning import actor_critic
from polo_ros.learning.actor_critic import (
    ActionRange,
    ActorPolicy,
    CriticFunction,
    Floats,
    Networks,
    Singles,
    input_gain,
    layers,
)
from polo_ros.learning.loop_weights import MODEL, model_shapes
from polo_ros.learning.offline_config import ALGORITHMS, OfflineConfig
from polo_ros.learning.plas_config import PlasConfig, decoder_sizes, latent_actor_sizes, perturbation_sizes
from polo_ros.learning.weights import Arrays, Shapes, WeightsError, decode, digest, origin, under
from polo_ros.tasks.base import FloatArray, Task

FORMAT = "polo_ros policy 1"
WEIGHTS = "policy.safetensors"
BEFORE = "policy.safetensors.prev"  # what policy.json is still about while the two files are replaced
ABOUT = "policy.json"


@dataclass(frozen=True)
class OfflinePolicy:
    """What planners need of a training.

    Attributes:
        algorithm: "crr", "plas" or "mbop".
        policy: Acts.
        critic: Values actions.
        model: Weights of the dynamics ensemble's elites, as EnsembleDynamics takes them; None: none was fitted.
        ensemble: Its sizes.
        about: All that policy.json says.
        training: Which one it came of, as its weights have it; empty: they do not say.
    """

    algorithm: str
    policy: ActorPolicy | LatentPolicy
    critic: CriticFunction
    model: Arrays | None
    ensemble: EnsembleConfig
    about: dict[str, Any]
    training: str

    @classmethod
    def load(cls, folder: str | Path, task: Task, reduction: str = "min") -> OfflinePolicy:
        """Read the folder that `polo train --out` wrote.

        Args:
            folder: With policy.json and policy.safetensors, or policy.safetensors.prev if it is that which the former
                is about: a training that replaces both goes on, or was killed.
            task: What is to be done with it.
            reduction: What the critic's values make of its members; see CriticFunction.

        Raises:
            WeightsError: There is none, or it is damaged, of another task or model, or of other sizes.
            ValueError: Unknown reduction.
        """
        folder = Path(folder)
        about, data = read_about(folder), _bytes(folder / WEIGHTS)
        algorithm = about["algorithm"]
        if about["weights"] != digest(data):
            before = folder / BEFORE
            kept = _bytes(before) if before.exists() else b""
            if about["weights"] != digest(kept):
                raise WeightsError(f"{folder / WEIGHTS} is not what {ABOUT} is about: its sha256 is {digest(data)}")
            data = kept
        told = origin(data)
        for word, expected in (("kind", algorithm), ("task", task.name), ("model_hash", task.model_hash)):
            for file, found in ((ABOUT, about.get(word, expected)), (WEIGHTS, told.get(word))):
                if found != expected:
                    raise WeightsError(f"{folder / file}: {word} is {found!r}, expected {expected!r}")
        try:
            config = replace(OfflineConfig(), about["settings"])
            asked = shapes(algorithm, config, task)
        except ValueError as error:
            raise WeightsError(f"{folder / ABOUT}: {error}") from None
        arrays = decode(data, asked)
        model = under(arrays, MODEL)
        if model:
            try:
                ensemble_config.check(model)
            except ValueError as error:
                raise WeightsError(f"{folder / WEIGHTS}: {error}") from None
        policy = make_policy(algorithm, task, config, arrays)
        critic = CriticFunction(task, config.networks, arrays, reduction)
        return cls(algorithm, policy, critic, model or None, config.ensemble, about, told.get("training", ""))


class LatentPolicy:
    """PLAS's policy, in float32: decoder(s, z), z the latent actor's; see plas.py. An instance belongs to one thread.

    Args:
        task: Whose observations and actions.
        config: As in training.
        arrays: Weights that passed `weights.decode` with `shapes`.
    """

    def __init__(self, task: Task, config: OfflineConfig, arrays: Arrays) -> None:
        self.nobs, self.nu = task.observation_spec.size, task.model.nu
        self._range = ActionRange(task)
        self._latent_range, self._reach = config.plas.latent_range, config.plas.perturbation
        gain = input_gain(task, config.networks.inputs)
        self._nets: dict[str, Networks] = {}
        for part in ("actor", "decoder", *(("perturbation",) if self._reach else ())):
            weights, biases = layers(arrays, part)
            weights[0] = weights[0].copy()
            weights[0][:, : self.nobs] *= gain[:, None]
            self._nets[part] = Networks(weights, biases)

    def mean(self, observations: Floats) -> FloatArray:
        """The action, (..., nu) of observations (..., nobs), in range."""
        if observations.shape[-1] != self.nobs:
            raise ValueError(f"observation has {observations.shape[-1]} entries, expected {self.nobs}")
        seen = observations.reshape(-1, self.nobs)
        latent = self._latent_range * np.tanh(self._nets["actor"](seen)[0])
        actions: Singles = np.tanh(self._nets["decoder"](seen, latent)[0])
        if self._reach:
            moves = np.tanh(self._nets["perturbation"](seen, actions)[0])
            actions = np.clip(actions + np.float32(self._reach) * moves, -1.0, 1.0)
        return self._range.physical(actions).reshape(*observations.shape[:-1], self.nu)

    def sample(self, observations: Floats, rng: np.random.Generator) -> FloatArray:
        """The same: this policy is deterministic, and draws nothing."""
        return self.mean(observations)


def make_policy(algorithm: str, task: Task, config: OfflineConfig, arrays: Arrays) -> ActorPolicy | LatentPolicy:
    """The policy of weights of `shapes`."""
    if algorithm == "plas":
        return LatentPolicy(task, config, arrays)
    return ActorPolicy(task, config.networks, arrays)


def shapes(algorithm: str, config: OfflineConfig, task: Task) -> Shapes:
    """Names and shapes of the weights of a training, as `weights.decode` asks for them."""
    nobs, nu = task.observation_spec.size, int(task.model.nu)
    out: dict[str, tuple[int, ...]] = dict(actor_critic.shapes(config.networks, nobs, nu))
    if algorithm == "plas":
        out = {name: shape for name, shape in out.items() if name.startswith("critic.")}
        for part, sizes in _plas_sizes(config, config.plas, nobs, nu).items():
            for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
                out[f"{part}.{index}.weight"] = (1, inputs, outputs)
                out[f"{part}.{index}.bias"] = (1, 1, outputs)
    if config.train.model:
        out.update(model_shapes(config.ensemble, nobs, nu))
    return out


def _plas_sizes(config: OfflineConfig, plas: PlasConfig, nobs: int, nu: int) -> dict[str, tuple[int, ...]]:
    sizes = {
        "actor": latent_actor_sizes(config.networks, plas, nobs, nu),
        "decoder": decoder_sizes(plas, nobs, nu),
    }
    if plas.perturbation:
        sizes["perturbation"] = perturbation_sizes(config.networks, nobs, nu)
    return sizes


def read_about(folder: str | Path) -> dict[str, Any]:
    """What a folder's policy.json says, of which the parts that are read are there and of the right kinds.

    Raises:
        WeightsError: There is none, or it is not one of ours.
    """
    path = Path(folder) / ABOUT
    text = _bytes(path)
    try:
        about = json.loads(text)
    except ValueError as error:  # JSON's and Unicode's are
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise WeightsError(f"{path}: format is {found!r}, expected {FORMAT!r}")
    for name, kind in (("task", str), ("model_hash", str), ("weights", str), ("settings", dict)):
        if not isinstance(about.get(name), kind):
            raise WeightsError(f"{path}: {name} is {about.get(name)!r}, expected {kind.__name__}")
    if about.get("algorithm") not in ALGORITHMS:
        raise WeightsError(f"{path}: algorithm is {about.get('algorithm')!r}; algorithms: {', '.join(ALGORITHMS)}")
    return about


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
