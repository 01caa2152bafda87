"""K probabilistic networks that predict reward and change of observation: LOOP's learned model.

Sikchi et al. 2021, "Learning Off-Policy with Online Planning", with the networks of Chua et al. 2018, "Deep
Reinforcement Learning in a Handful of Trials using Probabilistic Dynamics Models" (PETS), whose appendix A.1 bounds the
log-variance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from polo_ros.dynamics.ensemble_config import KIND, EnsembleConfig, layer_sizes, shapes
from polo_ros.learning.weights import Arrays
from polo_ros.seeding import truncated_normal
from polo_ros.tensors import float32

__all__ = ["KIND", "EnsembleConfig", "GaussianEnsemble", "bounded", "gaussian_loss", "shapes"]

Floats = npt.NDArray[np.floating[Any]]

# Deviation of an entry that is no input: it becomes as good as 0.
_UNUSED_STD = 1e9


class GaussianEnsemble(torch.nn.Module):
    """Mean and log-variance of [reward, next observation - observation] in K members.

    Inputs are [observation, action], standardised; targets are in their own units. Hidden layers have swish,
    x sigmoid(x). Weights begin as truncated normals of deviation 1 / (2 sqrt(fan-in)), biases as zero. All members run
    as one batched matrix product a layer. They share nothing but the inputs' statistics: bounds of the log-variance are
    each member's own.

    Args:
        config: Sizes.
        nobs: Entries of an observation.
        nu: Entries of an action.
        rng: Draws the starting weights.
        used: (nobs,) which entries of the observation are inputs; None: all.

    Attributes:
        elites: Indices of the members that plans are to use, best first; before a fit simply the first.
    """

    def __init__(
        self,
        config: EnsembleConfig,
        nobs: int,
        nu: int,
        rng: np.random.Generator,
        used: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.nobs, self.nu = nobs, nu
        self.elites = tuple(range(config.used))
        self._used = np.concatenate((np.ones(nobs, bool) if used is None else used, np.ones(nu, bool)))
        self._weight = torch.nn.ParameterList()
        self._bias = torch.nn.ParameterList()
        for inputs, outputs in layer_sizes(config, nobs, nu):
            start = truncated_normal(rng, (config.members, inputs, outputs)) / (2.0 * np.sqrt(inputs))
            self._weight.append(torch.nn.Parameter(float32(start)))
            self._bias.append(torch.nn.Parameter(torch.zeros(config.members, 1, outputs)))
        bounds = (config.members, 1, 1 + nobs)
        self.log_var_max = torch.nn.Parameter(torch.full(bounds, config.log_var_max), requires_grad=False)
        self.log_var_min = torch.nn.Parameter(torch.full(bounds, config.log_var_min), requires_grad=False)
        self.input_mean = np.zeros(nobs + nu, np.float32)
        self.input_std = np.ones(nobs + nu, np.float32)

    def set_statistics(self, inputs: Floats) -> None:
        """Standardise by mean and deviation of `inputs` (B, nobs + nu), taken in double.

        An entry that moves by no more than float32's rounding of its mean, or by less than 1e-12, keeps its unit.
        """
        exact = np.asarray(inputs, np.float64)
        mean, std = exact.mean(axis=0), exact.std(axis=0)
        std = np.where((std < 1e-12) | (std < 1e-6 * np.abs(mean)), 1.0, std)
        self.input_mean = np.where(self._used, mean, 0.0).astype(np.float32)
        self.input_std = np.where(self._used, std, _UNUSED_STD).astype(np.float32)

    def normalise(self, observations: Floats, actions: Floats) -> torch.Tensor:
        """Standardised inputs (..., nobs + nu) of observations (..., nobs) and actions (..., nu), by way of double."""
        inputs = np.concatenate((observations, actions), axis=-1, dtype=np.float64)
        return float32((inputs - self.input_mean) / self.input_std)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance, (K, B, 1 + nobs) each, of standardised inputs (B, nobs + nu), or (K, B, nobs + nu).

        The reward comes first, then the change of the observation.
        """
        h = inputs.expand(self.config.members, -1, -1) if inputs.dim() == 2 else inputs
        last = len(self._weight) - 1
        for index, (weight, bias) in enumerate(zip(self._weight, self._bias, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if index < last:
                h = functional.silu(h)
        mean, raw = h[..., : 1 + self.nobs], h[..., 1 + self.nobs :]
        return mean, bounded(raw, self.log_var_min, self.log_var_max)

    @torch.no_grad()
    def predict(self, observations: Floats, actions: Floats) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and variance of [reward, change], (K, B, 1 + nobs) each, at observations (B, nobs) and actions (B, nu).

        Observations of each member's own, (K, B, nobs), go with actions (K, B, nu).
        """
        mean, log_var = self(self.normalise(observations, actions))
        return mean.numpy(), log_var.exp().numpy()

    def parameter_groups(self, weight_decay: Sequence[float], train_bounds: bool) -> list[dict[str, Any]]:
        """Parameters for torch's Adam.

        Its `weight_decay` d adds d W to a gradient, which is the loss term d sum(W^2) / 2.

        Args:
            weight_decay: Of each layer's weights; one number: of all.
            train_bounds: Whether the bounds of the log-variance are trained.

        Raises:
            ValueError: Neither one number nor as many as there are layers.
        """
        layers = len(self._weight)
        if len(weight_decay) not in (1, layers):
            raise ValueError(f"weight_decay has {len(weight_decay)} entries, expected 1 or {layers}, one a layer")
        decay = list(weight_decay) * (layers if len(weight_decay) == 1 else 1)
        groups: list[dict[str, Any]] = [
            {"params": [weight], "weight_decay": factor} for weight, factor in zip(self._weight, decay, strict=True)
        ]
        groups.append({"params": list(self._bias), "weight_decay": 0.0})
        for bound in (self.log_var_max, self.log_var_min):
            bound.requires_grad_(train_bounds)
        if train_bounds:
            groups.append({"params": [self.log_var_max, self.log_var_min], "weight_decay": 0.0})
        return groups

    def bound_width(self) -> torch.Tensor:
        """Sum of upper minus lower bounds of the log-variance, over entries and members: what is penalised."""
        return (self.log_var_max - self.log_var_min).sum()

    def arrays(self, members: Sequence[int] | None = None) -> Arrays:
        """Weights of `members` as copies in numpy, with the names of `shapes`; None: of the elites, best first."""
        chosen = list(self.elites if members is None else members)
        out: Arrays = {}
        for index, (weight, bias) in enumerate(zip(self._weight, self._bias, strict=True)):
            out[f"{index}.weight"], out[f"{index}.bias"] = _array(weight[chosen]), _array(bias[chosen])
        out["log_var_max"], out["log_var_min"] = _array(self.log_var_max[chosen]), _array(self.log_var_min[chosen])
        out["input_mean"], out["input_std"] = self.input_mean.copy(), self.input_std.copy()
        return out

    def check_elites(self, elites: Iterable[int]) -> tuple[int, ...]:
        """Numbers of members as `load` takes them; raises ValueError if they are none, or not as many as are used."""
        found = tuple(int(member) for member in elites)
        if len(set(found)) != self.config.used or not set(found) <= set(range(self.config.members)):
            raise ValueError(f"elites {list(found)} are not {self.config.used} of {self.config.members} members")
        return found

    @torch.no_grad()
    def load(self, arrays: Arrays, elites: Sequence[int]) -> None:
        """Take over what `arrays` returned of all members; shapes must have been checked."""
        for index in range(len(self._weight)):
            self._weight[index].copy_(float32(arrays[f"{index}.weight"]))
            self._bias[index].copy_(float32(arrays[f"{index}.bias"]))
        self.log_var_max.copy_(float32(arrays["log_var_max"]))
        self.log_var_min.copy_(float32(arrays["log_var_min"]))
        self.input_mean, self.input_std = arrays["input_mean"].copy(), arrays["input_std"].copy()
        self.elites = tuple(int(member) for member in elites)


def bounded(log_var: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """A log-variance held softly between `low` and `high` (PETS, appendix A.1).

    The variance is then exp(low) + exp(high) sigmoid(log_var - high).
    """
    log_var = high - functional.softplus(high - log_var)
    return low + functional.softplus(log_var - low)


def gaussian_loss(mean: torch.Tensor, log_var: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Each member's loss, (K,): mean of (mean - target)^2 exp(-log_var) + log_var over (K, B, 1 + nobs).

    That is twice the negative log-likelihood of a target's entry, less log(2 pi).
    """
    return ((mean - targets).square() * torch.exp(-log_var) + log_var).mean(dim=(1, 2))


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.array(tensor.detach().numpy())
