"""Groups and names: a function of the manifest alone, of one kind each, and with no more in memory than waits."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.unit.batch.fake import LIMITS, MAKER, wanted

from fewstep.batch.expand import Bad, Wanted
from fewstep.batch.plan import HEAVY, OPEN, Group, Item, groups, items
from fewstep.engine.request import Request


def of(requests: list[Request]) -> Iterator[Wanted]:
    for index, request in enumerate(requests):
        yield Wanted(index, index + 1, index + 2, request, {})


def made_of(requests: list[Request], most: int) -> list[Group]:
    return [part for part in groups(items(of(requests), MAKER), most) if isinstance(part, Group)]


KINDS = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([64, 80, 96])), max_size=60)


@given(KINDS, st.integers(1, 8))
def test_groups_hold_every_picture_once_and_one_kind_each(kinds: list[tuple[int, int]], most: int) -> None:
    found = made_of([Request("a", seed, steps, width, 64) for seed, (steps, width) in enumerate(kinds)], most)
    assert sorted(item.index for group in found for item in group.items) == list(range(len(kinds)))
    assert [group.number for group in found] == list(range(len(found)))
    for group in found:
        assert len({item.settled.kind for item in group.items}) == 1
        assert [item.index for item in group.items] == sorted(item.index for item in group.items)
        assert len(group.items) <= group.size == len(group.batch) <= most
        assert group.size in (1, 2, 4, 8, most)
        assert len(group.items) * 2 > group.size
    partial = [group for group in found if len(group.items) < most]
    assert len(partial) == len({group.items[0].settled.kind for group in partial}), "only the last of a kind is not full"


def test_what_is_bad_is_passed_on_and_changes_no_group() -> None:
    good = [Request("a", seed) for seed in range(8)]
    mixed = [*list(of(good))[:3], Bad(99, 100, 101, "no"), *list(of(good))[3:]]
    with_bad = list(groups(items(mixed, MAKER), 4))
    assert [part for part in with_bad if isinstance(part, Bad)] == [mixed[3]]
    assert [part for part in with_bad if isinstance(part, Group)] == made_of(good, 4)


def test_so_many_kinds_wait_and_no_more() -> None:
    """Each of a kind of its own: they would all wait until the end."""
    ahead = 0

    def requests() -> Iterator[Wanted]:
        nonlocal ahead
        for number in range(3 * OPEN):
            ahead += 1
            yield Wanted(number, number + 1, number + 2, Request("a", 1, 1, guidance_scale=number / 4000), {})

    for count, _ in enumerate(groups(items(requests(), MAKER), 8), start=1):
        assert ahead - count <= OPEN


def test_pictures_to_begin_from_are_held_in_small_numbers() -> None:
    image = Image.new("RGB", (64, 64))
    found = made_of([Request("a", seed, image=image, strength=1.0, mask=Image.new("L", (64, 64), 1 + seed)) for seed in range(OPEN // HEAVY + 2)], OPEN)
    assert max(len(group.items) for group in found) == OPEN // HEAVY + 1


def key(**fields: object) -> str:
    return MAKER.key(LIMITS.settle(Request(**{"prompt": "a fox", "seed": 1, "steps": 4, **fields})))  # type: ignore[arg-type]


def test_a_key_is_what_a_picture_is_a_function_of() -> None:
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    others = [{"prompt": "a cat"}, {"seed": 2}, {"steps": 2}, {"width": 80}, {"negative": "fog"}, {"transparent": True}, {"literal": True}]
    others += [{"blend": "a cat"}, {"variation": 0.5, "variation_seed": 3}, {"image": red}, {"image": blue}, {"image": red, "strength": 0.75}]
    keys = [key(), *(key(**other) for other in others)]
    assert len(set(keys)) == len(keys)
    assert key(blend="a cat", blend_weight=0.0) == key(width=64) == key(), "what changes nothing changes no key"
    assert key(image=red.copy()) == key(image=red)
    for other in (dataclasses.replace(MAKER, decoder="tiny"), dataclasses.replace(MAKER, hash=str), dataclasses.replace(MAKER, format="webp")):
        assert other.key(LIMITS.settle(Request("a fox", 1, 4))) != key()


def test_two_rows_that_mean_the_same_are_one_picture_and_a_sentence() -> None:
    found = list(items(of([Request("a", 1), Request("b", 1), Request("a", 1, width=64)]), MAKER))
    assert [type(one) for one in found] == [Item, Item, Bad]
    assert isinstance(found[2], Bad)
    assert "the same as row 1 in line 2" in found[2].error


@pytest.mark.parametrize(("request_", "sentence"), [(Request("a", 1, steps=3), "3 steps were asked for"), (Request("a", 1, width=65), "size 65x64")])
def test_what_the_model_cannot_do_is_one_rows_failure(request_: Request, sentence: str) -> None:
    (bad,) = items(of([request_]), MAKER)
    assert isinstance(bad, Bad)
    assert sentence in bad.error


def test_memory_does_not_grow_with_the_rows() -> None:
    """What ten million rows would take: the same as a few thousand."""
    peaks = []
    for count in (1_000, 6_000):
        tracemalloc.start()
        assert sum(len(part.items) for part in groups(items(wanted(map(str, range(count))), MAKER), 8) if isinstance(part, Group)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


def test_a_name_says_row_seed_and_what_it_is(tmp_path: Path) -> None:
    (item,) = items(of([Request("a", 7)]), MAKER)
    assert isinstance(item, Item)
    assert item.name == f"0000001-7-{item.key[:12]}"
