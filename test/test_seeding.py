from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polo_ros.seeding import Stream, generator

KEY = st.tuples(st.integers(0, 2**31 - 1), st.sampled_from(list(Stream)), st.integers(0, 2**40))


@given(KEY, KEY)
def test_streams_are_the_same_only_for_the_same_seed_purpose_and_index(one, other) -> None:
    equal = (generator(*one).random(4) == generator(*other).random(4)).all()
    assert equal == (one == other)
