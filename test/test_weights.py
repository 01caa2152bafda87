"""Weights on the wire: nothing but what was asked for gets through."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from polo_ros.learning.value_function import ValueConfig, shapes
from polo_ros.learning.weights import Arrays, Weights, WeightsError, decode, digest

SHAPES = {"a": (2, 3), "b": (1,)}


def arrays() -> Arrays:
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([7.0], np.float32)}


def encoded(content: dict) -> bytes:
    return safetensors.numpy.save(content)


def test_what_is_encoded_is_decoded_bit_for_bit() -> None:
    weights = Weights("value_ensemble", "cart", "0" * 16, 3, 48, arrays())
    decoded = decode(weights.encode(), SHAPES)
    assert decoded.keys() == SHAPES.keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(decoded[name], array)


def test_encoding_and_its_digest_do_not_depend_on_the_order_of_the_arrays() -> None:
    one = Weights("k", "t", "h", 1, 1, arrays()).encode()
    other = Weights("k", "t", "h", 1, 1, dict(reversed(arrays().items()))).encode()
    assert digest(one) == digest(other)
    assert len(digest(one)) == 64


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(number: float) -> None:
    content = arrays()
    content["a"][1, 2] = number
    with pytest.raises(WeightsError, match="'a' contain values that are not finite"):
        decode(encoded(content), SHAPES)


def test_missing_and_unknown_names_are_refused_and_named() -> None:
    content = arrays()
    content["c"] = content.pop("b")
    with pytest.raises(WeightsError, match=r"missing \['b'\], unknown \['c'\]"):
        decode(encoded(content), SHAPES)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3), (2, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    content = arrays()
    content["a"] = np.zeros(shape, np.float32)
    with pytest.raises(WeightsError, match=r"'a' have shape .*, expected \(2, 3\)"):
        decode(encoded(content), SHAPES)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8])
def test_other_types_are_refused(dtype: type) -> None:
    content: dict = arrays()
    content["a"] = content["a"].astype(dtype)
    with pytest.raises(WeightsError, match=f"'a' are {np.dtype(dtype)}, expected float32"):
        decode(encoded(content), SHAPES)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WeightsError):
        decode(data, SHAPES)


@given(st.integers(0, 10_000))
def test_truncated_weights_are_refused(length: int) -> None:
    whole = encoded(arrays())
    with pytest.raises(WeightsError):
        decode(whole[: length % len(whole)], SHAPES)


def test_pickles_are_refused_and_never_run() -> None:
    ran = []

    class Bomb:
        def __reduce__(self) -> tuple:
            return (ran.append, (1,))

    with pytest.raises(WeightsError):
        decode(pickle.dumps(Bomb()), SHAPES)
    assert not ran


def test_a_header_that_claims_more_than_there_is_is_refused() -> None:
    whole = bytearray(encoded(arrays()))
    whole[:8] = (2**62).to_bytes(8, "little")
    with pytest.raises(WeightsError):
        decode(bytes(whole), SHAPES)


def test_value_ensemble_shapes_scale_with_the_configuration() -> None:
    wanted = shapes(ValueConfig(members=3, hidden=8, layers=1), 5)
    assert wanted["learned.0.weight"] == (3, 5, 8)
    assert wanted["prior.1.bias"] == (3, 1, 1)
    assert wanted["obs_mean"] == (5,)
    assert "learned.2.weight" not in wanted
