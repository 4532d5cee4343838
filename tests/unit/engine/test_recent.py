"""What is kept of what was made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from PIL import Image

from fewstep.engine.recent import once, recent


def test_those_that_were_asked_for_last_are_kept() -> None:
    store: OrderedDict[Hashable, int] = OrderedDict()
    made: list[int] = []

    def ask(number: int) -> int:
        return recent(store, number, lambda: made.append(number) or number, 2)  # type: ignore[func-returns-value]

    assert [ask(number) for number in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2] and list(store) == [1, 2]


def test_the_same_arguments_are_worked_on_once() -> None:
    calls = []

    def work(image: Image.Image, size: tuple[int, int] | None, more: list[int]) -> int:
        calls.append(size)
        return len(calls)

    made, images, more = once(work), [Image.new("L", (1, 1)) for _ in range(2)], [1]
    assert [made(images[0], (1, 2), more), made(images[0], (1, 2), more)] == [1, 1]
    assert [made(images[1], (1, 2), more), made(images[0], None, more), made(images[0], None, [1])] == [2, 3, 4], (
        "what has no hash is told apart by being another"
    )
