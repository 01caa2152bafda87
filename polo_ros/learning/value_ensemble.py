"""POLO's value ensemble: K networks, each with a frozen randomised prior (eq. 5).

Lowrey et al. 2019, "Plan Online, Learn Offline", section 2.4, after Osband et al. 2018, "Randomized
Prior Functions for Deep Reinforcement Learning".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from polo_ros.learning.value_function import KIND, ValueConfig, ValueFunction, gate_weight, layer_sizes, shapes
from polo_ros.learning.weights import Arrays
from polo_ros.tensors import float32

__all__ = ["KIND", "ValueConfig", "ValueEnsemble", "ValueFunction", "gate_weight", "regression_loss", "shapes"]


Array = npt.NDArray[Any]


class ValueEnsemble(torch.nn.Module):
    """V_k(s) = value_scale (f_k(z) + prior_scale p_k(z)), z the normalised observation, k = 1 .. K.

    Prior of the parameters, eq. 5's P(theta): a weight is N(0, lambda / fan-in), a bias N(0, lambda).
    p_k is a network drawn from it and never trained. f_k is trained; it starts as another draw whose output layer
    is zero, so that before any data V_k is the prior function itself.

    All members run as one batched matrix product a layer.

    Args:
        config: Sizes and scales.
        nobs: Entries of an observation.
        value_scale: In units of reward.
        rng: Draws priors and starting weights.
    """

    obs_mean: torch.Tensor
    obs_std: torch.Tensor

    def __init__(self, config: ValueConfig, nobs: int, value_scale: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.config = config
        self.nobs = nobs
        self.value_scale = float(np.float32(value_scale))
        self.data_low = np.zeros(nobs, np.float32)
        self.data_high = np.zeros(nobs, np.float32)
        self._sizes = layer_sizes(config, nobs)
        self._weight = torch.nn.ParameterList()
        self._bias = torch.nn.ParameterList()
        self._prior: list[tuple[torch.Tensor, torch.Tensor]] = []
        deviation = float(np.sqrt(config.prior_variance))
        for index, (inputs, outputs) in enumerate(self._sizes):
            weight_shape, bias_shape = (config.members, inputs, outputs), (config.members, 1, outputs)
            prior_weight = rng.standard_normal(weight_shape) * (deviation / np.sqrt(inputs))
            prior_bias = rng.standard_normal(bias_shape) * deviation
            start = rng.standard_normal(weight_shape) * (deviation / np.sqrt(inputs))
            start_bias = rng.standard_normal(bias_shape) * deviation
            if index == len(self._sizes) - 1:
                start[:] = start_bias[:] = 0.0
            self._prior.append((float32(prior_weight), float32(prior_bias)))
            self._weight.append(torch.nn.Parameter(float32(start)))
            self._bias.append(torch.nn.Parameter(float32(start_bias)))
        self.obs_mean = torch.zeros(nobs)
        self.obs_std = torch.ones(nobs)

    def set_statistics(self, mean: Array, std: Array, low: Array, high: Array) -> None:
        """Take over mean, deviation and range of the data, each (nobs,)."""
        self.obs_mean, self.obs_std = float32(mean), float32(std)
        self.data_low, self.data_high = low.astype(np.float32), high.astype(np.float32)

    def normalise(self, observations: torch.Tensor) -> torch.Tensor:
        """Z of observations (B, nobs)."""
        return (observations - self.obs_mean) / self.obs_std

    def learned(self, z: torch.Tensor) -> torch.Tensor:
        """f_k(z), (K, B) of z (B, nobs), in value scales."""
        return _forward(z, list(zip(self._weight, self._bias, strict=True)))

    @torch.no_grad()
    def prior(self, z: torch.Tensor) -> torch.Tensor:
        """prior_scale p_k(z), (K, B) of z (B, nobs), in value scales."""
        return self.config.prior_scale * _forward(z, self._prior)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """V_k, (K, B) of observations (B, nobs), in units of reward."""
        z = self.normalise(observations)
        return self.value_scale * (self.learned(z) + self.prior(z))

    def penalty(self) -> torch.Tensor:
        """||theta||^2 of each member, (K,), each parameter counted in units of its prior deviation / sqrt(lambda).

        That is fan-in times a squared weight plus a squared bias: with this norm, N(0, lambda) in eq. 5
        is the same prior that `prior` is drawn from.
        """
        total = torch.zeros((), dtype=self._weight[0].dtype)
        for (inputs, _), weight, bias in zip(self._sizes, self._weight, self._bias, strict=True):
            total = total + inputs * weight.square().sum(dim=(1, 2)) + bias.square().sum(dim=(1, 2))
        return total

    def arrays(self) -> Arrays:
        """All of it as copies in numpy, with the names of `shapes`."""
        out: Arrays = {}
        for index, (weight, bias) in enumerate(zip(self._weight, self._bias, strict=True)):
            prior_weight, prior_bias = self._prior[index]
            out[f"learned.{index}.weight"] = _array(weight)
            out[f"learned.{index}.bias"] = _array(bias)
            out[f"prior.{index}.weight"] = _array(prior_weight)
            out[f"prior.{index}.bias"] = _array(prior_bias)
        out["obs_mean"], out["obs_std"] = _array(self.obs_mean), _array(self.obs_std)
        out["data_low"], out["data_high"] = self.data_low.copy(), self.data_high.copy()
        out["value_scale"] = np.array([self.value_scale], np.float32)
        out["prior_scale"] = np.array([self.config.prior_scale], np.float32)
        return out

    @torch.no_grad()
    def load(self, arrays: Arrays) -> None:
        """Take over what `arrays` returned; shapes must have been checked. The two scales stay the configuration's."""
        for index in range(len(self._sizes)):
            self._weight[index].copy_(float32(arrays[f"learned.{index}.weight"]))
            self._bias[index].copy_(float32(arrays[f"learned.{index}.bias"]))
            self._prior[index] = (float32(arrays[f"prior.{index}.weight"]), float32(arrays[f"prior.{index}.bias"]))
        self.set_statistics(arrays["obs_mean"], arrays["obs_std"], arrays["data_low"], arrays["data_high"])


def regression_loss(
    predictions: torch.Tensor,
    noisy_targets: torch.Tensor,
    penalty: torch.Tensor,
    config: ValueConfig,
    data_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 5 on a minibatch, summed over the members, which are independent of each other.

    Eq. 5 sums squared errors over all `data_size` data points and adds (sigma^2 / lambda) ||theta||^2.
    Divided by `data_size` that is the mean squared error, of which a minibatch's mean is an unbiased
    estimate, plus sigma^2 / (lambda data_size) ||theta||^2. With linear members and targets whose noise
    has variance sigma^2, the minimiser plus the prior function is an exact sample of the Bayesian
    posterior (test_value_ensemble.py holds it against the closed form).

    Args:
        predictions: (K, B) f_k + prior, in value scales.
        noisy_targets: (K, B) y + sigma e, in value scales.
        penalty: (K,) ||theta||^2, see ValueEnsemble.penalty.
        config: sigma and lambda.
        data_size: Data points that the minibatch is drawn from.

    Returns:
        The loss, and its first term alone as a mean over the members.
    """
    error = (predictions - noisy_targets).square().mean(dim=1)
    weight = config.sigma**2 / (config.prior_variance * data_size)
    return (error + weight * penalty).sum(), error.mean()


def _forward(z: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """All members on the same batch z (B, n); returns (K, B)."""
    h = z.expand(layers[0][0].shape[0], -1, -1)
    for index, (weight, bias) in enumerate(layers):
        h = torch.baddbmm(bias, h, weight)
        if index < len(layers) - 1:
            h = torch.tanh(h)
    return h.squeeze(-1)


def _array(tensor: torch.Tensor) -> Array:
    return np.array(tensor.detach().to(torch.float32).numpy())
