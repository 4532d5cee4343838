"""Nothing repeats and nothing is skipped in an epoch, on any number of ranks, wherever a run goes on."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.data.order import Order

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)


def shown(order: Order, batches: int) -> list[list[int]]:
    """The rows of each bucket in the order they are shown."""
    rows: list[list[int]] = [[] for _ in order.counts]
    for number in range(batches):
        bucket, chosen = order.batch(number)
        assert len(chosen) == order.batch_size
        rows[bucket] += chosen.tolist()
    return rows


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(1, 16), st.integers(0, 2**32), st.integers(1, 60))
def test_no_picture_comes_again_before_all_others_of_its_bucket(counts: tuple[int, ...], batch_size: int, seed: int, batches: int) -> None:
    for rows, count in zip(shown(Order(counts, batch_size, (seed,)), batches), counts, strict=True):
        for first in range(0, len(rows), count):
            turn = rows[first : first + count]
            assert len(set(turn)) == len(turn)
            assert set(turn) <= set(range(count))


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.integers(1, 16), st.integers(1, 30))
def test_after_whole_epochs_every_bucket_has_had_its_share(counts: tuple[int, ...], batch_size: int, epochs: int) -> None:
    order = Order(counts, batch_size, (1,))
    batches = min(order.before(epochs), 200)
    rows = shown(order, batches)
    if batches == order.before(epochs):
        assert [len(of) for of in rows] == [epochs * count // batch_size * batch_size for count in counts]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([1, 2, 4, 8]), st.integers(0, 3))
def test_where_batches_fit_an_epoch_is_the_whole_set_once(multiples: list[int], batch_size: int, epoch: int) -> None:
    counts = tuple(multiple * batch_size for multiple in multiples)
    order = Order(counts, batch_size, (7,))
    seen = [(bucket, row) for number in range(order.before(epoch), order.before(epoch + 1)) for bucket, rows in [order.batch(number)] for row in rows.tolist()]
    assert sorted(seen) == [(bucket, row) for bucket, count in enumerate(counts) for row in range(count)]


def test_a_batch_is_a_function_of_its_number_alone() -> None:
    """Asked for backwards, by an order that saw nothing else: what a resumed run does."""
    whole = [Order((13, 5, 8), 4, (3, 1)).batch(number) for number in range(40)]
    for number in reversed(range(40)):
        bucket, rows = Order((13, 5, 8), 4, (3, 1)).batch(number)
        assert bucket == whole[number][0]
        np.testing.assert_array_equal(rows, whole[number][1])
    assert any((Order((13, 5, 8), 4, (3, 2)).batch(number)[1] != whole[number][1]).any() for number in range(3)), "another seed, another order"


def test_far_on_it_is_as_fast_and_as_even() -> None:
    order = Order((3, 1_000_000), 512, (0,))
    bucket, rows = order.batch(10**9)
    assert bucket in (0, 1)
    assert rows.max() < order.counts[bucket]
