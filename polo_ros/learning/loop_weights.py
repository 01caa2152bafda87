"""LOOP's weights as they travel: actor, critics and the elites of the learned model, in one piece.

Planner and learner share the layout; torch stays out of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from polo_ros.dynamics import ensemble_config
from polo_ros.dynamics.ensemble_config import EnsembleConfig
from polo_ros.learning import actor_critic
from polo_ros.learning.actor_critic import ActorCriticConfig
from polo_ros.learning.weights import Arrays, under

KIND = "loop"
MODEL = "model."
FITS = "model.fits"  # (1,) how often the model was fitted; 0: it is as it was drawn


def shapes(
    networks: ActorCriticConfig, ensemble: EnsembleConfig | None, nobs: int, nu: int
) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes, as `weights.decode` asks for them; `ensemble` None: no model is learned."""
    out = dict(actor_critic.shapes(networks, nobs, nu))
    if ensemble is not None:
        out.update(model_shapes(ensemble, nobs, nu))
        out[FITS] = (1,)
    return out


def model_shapes(ensemble: EnsembleConfig, nobs: int, nu: int, members: int = 0) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the model's `members`; 0: of the elites."""
    return {MODEL + name: shape for name, shape in ensemble_config.shapes(ensemble, nobs, nu, members).items()}


def join(actor_and_critics: Arrays, model: Arrays, fits: int) -> Arrays:
    """One set of arrays of both."""
    return {
        **actor_and_critics,
        **{MODEL + name: array for name, array in model.items()},
        FITS: np.array([fits], np.float32),
    }


def split(arrays: Arrays) -> tuple[Arrays, Arrays, int]:
    """Actor and critics, the model, and how often it was fitted, of what `join` made."""
    rest = {name: array for name, array in arrays.items() if not name.startswith(MODEL)}
    model = under(arrays, MODEL)
    fits = model.pop(FITS.removeprefix(MODEL))
    return rest, model, int(fits[0])
