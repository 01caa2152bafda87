"""Small networks of one shape, several at a time, in buffers that stay; gradients by hand, Adam, averaging."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from polo_ros.learning.weights import Arrays


class Mlp:
    """K networks with ReLU between their layers, run as one batched matrix product a layer.

    Parameters lie in one vector `theta`, their gradients in `grad`: Adam and polyak averaging are passes over a vector.
    Outputs are views of buffers that the next `forward` writes to, so that no call allocates; autograd is not asked.

    Starts as linear layers usually do: weights and biases uniform within +- 1 / sqrt(inputs of the layer).

    Args:
        members: K.
        sizes: Entries of the input, of each hidden layer, of the output.
        rng: Draws the start.
    """

    _ALIGN = 16  # floats in a cache line: a layer begins at one

    def __init__(self, members: int, sizes: Sequence[int], rng: np.random.Generator) -> None:
        self.members = members
        self.sizes = tuple(sizes)
        length = 0
        self._spans: list[tuple[int, tuple[int, int, int]]] = []
        for inputs, outputs in itertools.pairwise(self.sizes):
            for shape in ((members, inputs, outputs), (members, 1, outputs)):
                self._spans.append((length, shape))
                length += -(-math.prod(shape) // self._ALIGN) * self._ALIGN
        self.theta = torch.zeros(length)
        self.grad = torch.zeros(length)
        self._weights, self._biases = self._views(self.theta)
        self._weight_grads, self._bias_grads = self._views(self.grad)
        for weight, bias in zip(self._weights, self._biases, strict=True):
            bound = 1.0 / math.sqrt(weight.shape[1])
            for part in (weight, bias):
                part.copy_(torch.tensor(rng.uniform(-bound, bound, tuple(part.shape)), dtype=torch.float32))
        self._input = torch.empty(0)
        self._outputs: list[torch.Tensor] = []  # of each layer, (K, B, n)
        self._deltas: list[torch.Tensor] = []  # gradients at the input of each layer, (K, B, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (K, B, nout) of inputs (B, nin), the same for all members, or (K, B, nin)."""
        h = self._input = x if x.dim() == 3 else x.expand(self.members, -1, -1)
        self._reserve(h.shape[1])
        last = len(self._weights) - 1
        for index, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            out = self._outputs[index]
            if weight.shape[2] == 1:  # a dot product a row: a matrix product would be six times slower
                torch.mul(h, weight.transpose(1, 2), out=self._deltas[index])
                torch.sum(self._deltas[index], dim=2, keepdim=True, out=out)
                out += bias
            else:
                torch.baddbmm(bias, h, weight, out=out)
            if index < last:
                torch.relu_(out)
            h = out
        return h

    def backward(self, grad: torch.Tensor, *, parameters: bool = True, inputs: bool = False) -> torch.Tensor | None:
        """Gradients of a loss from its gradient (K, B, nout) at the outputs of the last `forward`.

        Args:
            grad: At the outputs.
            parameters: Write the gradient of the parameters into `grad`, over what was there.
            inputs: Return the gradient at the inputs, (K, B, nin), a view of a buffer.
        """
        for index in range(len(self._weights) - 1, -1, -1):
            weight = self._weights[index]
            below = self._outputs[index - 1] if index else self._input
            if parameters:
                if weight.shape[2] == 1:
                    torch.mul(below, grad, out=self._deltas[index])
                    torch.sum(self._deltas[index], dim=1, keepdim=True, out=self._weight_grads[index].transpose(1, 2))
                else:
                    torch.bmm(below.transpose(1, 2), grad, out=self._weight_grads[index])
                torch.sum(grad, dim=1, keepdim=True, out=self._bias_grads[index])
            if index == 0 and not inputs:
                return None
            delta = self._deltas[index]
            if weight.shape[2] == 1:
                torch.mul(grad, weight.transpose(1, 2), out=delta)
            else:
                torch.bmm(grad, weight.transpose(1, 2), out=delta)
            if index:
                torch.ops.aten.threshold_backward.grad_input(delta, below, 0.0, grad_input=delta)
            grad = delta
        return grad

    def with_own_buffers(self, members: int = 0) -> Mlp:
        """The same parameters, of the first `members` (0: of all), with outputs of its own.

        For another number of rows, or for another thread. For outputs, and gradients at inputs; `grad` is not its own.
        """
        other = copy.copy(self)
        other.members = members or self.members
        other._weights = [weight[: other.members] for weight in self._weights]
        other._biases = [bias[: other.members] for bias in self._biases]
        other._input, other._outputs, other._deltas = torch.empty(0), [], []
        return other

    def polyak_update(self, other: Mlp, share: float) -> None:
        """Polyak averaging: move all parameters `share` of the way to those of `other`, in place."""
        self.theta.lerp_(other.theta, share)

    def arrays(self, prefix: str, vector: torch.Tensor | None = None) -> Arrays:
        """The parameters, or another vector as long, by layer, as copies: `<prefix>.0.weight` (K, nin, n), ..."""
        weights, biases = self._views(self.theta if vector is None else vector)
        out: Arrays = {}
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            out[f"{prefix}.{index}.weight"] = np.array(weight.numpy())
            out[f"{prefix}.{index}.bias"] = np.array(bias.numpy())
        return out

    def load(self, arrays: Arrays, prefix: str, vector: torch.Tensor | None = None) -> None:
        """Take over what `arrays` returned; shapes must have been checked."""
        weights, biases = self._views(self.theta if vector is None else vector)
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            weight.copy_(torch.tensor(arrays[f"{prefix}.{index}.weight"]))
            bias.copy_(torch.tensor(arrays[f"{prefix}.{index}.bias"]))

    def _views(self, vector: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Weights (K, nin, n) and biases (K, 1, n) of each layer, in `vector`."""
        parts = [vector[start : start + math.prod(shape)].view(shape) for start, shape in self._spans]
        return parts[::2], parts[1::2]

    def _reserve(self, batch: int) -> None:
        if not self._outputs or self._outputs[0].shape[1] != batch:
            self._outputs = [torch.empty(self.members, batch, n) for n in self.sizes[1:]]
            self._deltas = [torch.empty(self.members, batch, n) for n in self.sizes[:-1]]


class Adam:
    """Adam (Kingma and Ba 2015) on one vector, in place.

    Args:
        theta: What is learned.
        grad: Its gradient.
        learning_rate: Of it.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, theta: torch.Tensor, grad: torch.Tensor, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.steps = 0
        self.mean = torch.zeros_like(theta)
        self.square = torch.zeros_like(theta)
        self._theta = theta
        self._grad = grad
        self._scratch = torch.empty_like(theta)

    def step(self) -> None:
        """Make one step down the gradient."""
        self.steps += 1
        first, second = self.BETAS
        self.mean.lerp_(self._grad, 1.0 - first)
        self.square.mul_(second).addcmul_(self._grad, self._grad, value=1.0 - second)
        torch.sqrt(self.square, out=self._scratch)
        self._scratch.mul_(1.0 / math.sqrt(1.0 - second**self.steps)).add_(self.EPSILON)
        self._theta.addcdiv_(self.mean, self._scratch, value=-self.learning_rate / (1.0 - first**self.steps))
