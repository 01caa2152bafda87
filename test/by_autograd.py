"""Networks and their steps written down for autograd, in double precision: what gradients by hand are held against."""

from __future__ import annotations

import numpy as np
import torch

from polo_ros.learning.sac import Batch


def floats(rng, *shape):
    return torch.tensor(rng.standard_normal(shape), dtype=torch.float32)


def random_batch(rng, nobs=3, nu=2, size=20):
    inputs = torch.cat((floats(rng, size, nobs), floats(rng, size, nu).tanh()), dim=1)
    not_terminal = torch.tensor(rng.integers(2, size=size)).float()
    return Batch(inputs, floats(rng, size), floats(rng, size, nobs), not_terminal, floats(rng, size, nu).tanh())


def leaves(net):
    """Parameters of an Mlp, in double."""
    return {n: torch.tensor(a, dtype=torch.float64, requires_grad=True) for n, a in net.arrays("net").items()}


def frozen(net):
    return {name: array.detach() for name, array in leaves(net).items()}


def run(arrays, x):
    """Outputs (K, B, n) of the networks."""
    h = x
    last = len(arrays) // 2 - 1
    for index in range(last + 1):
        h = h @ arrays[f"net.{index}.weight"] + arrays[f"net.{index}.bias"]
        h = torch.relu(h) if index < last else h
    return h


class Descent:
    """torch's Adam on named parts."""

    def __init__(self, parts, rates):
        self.parts = parts
        self.adams = {name: torch.optim.Adam(list(part.values()), lr=rates[name]) for name, part in parts.items()}

    def gradients(self, loss, *names):
        found = [leaf for name in names for leaf in self.parts[name].values()]
        for leaf, grad in zip(found, torch.autograd.grad(loss, found), strict=True):
            leaf.grad = grad

    def step(self, *names):
        for name in names:
            self.adams[name].step()


def assert_same(net, arrays):
    for name, array in net.arrays("net").items():
        np.testing.assert_allclose(array, arrays[name].detach(), rtol=1e-3, atol=2e-5, err_msg=name)
