"""Statistics on known numbers, and who works when."""

from __future__ import annotations

import gc

import pytest

from fewstep.bench.clock import Series, interleave, quantile, ratio


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [((3.0, 1.0, 2.0), 0.5, 2.0), ((1.0, 2.0, 3.0, 4.0), 0.5, 2.5), ((7.0,), 0.95, 7.0), (tuple(map(float, range(101))), 0.95, 95.0), ((0.0, 1.0), 0.95, 0.95)],
)
def test_a_quantile_lies_between_its_neighbours(values: tuple[float, ...], share: float, expected: float) -> None:
    assert quantile(values, share) == pytest.approx(expected)


def test_no_values_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile((), 0.5)


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    """What slows a whole round down changes nothing; the ratio of the medians is another number."""
    slower, faster = Series((20.0, 30.0, 60.0)), Series((10.0, 30.0, 20.0))
    assert ratio(slower, faster) == 2.0
    assert slower.median / faster.median == 1.5


def test_contestants_work_in_turn_and_warm_up_rounds_do_not_count() -> None:
    clock, order = Clock(), []
    seen: list[tuple[bool, dict[str, str]]] = []
    durations = {"a": iter((100.0, 1.0, 2.0, 3.0)), "b": iter((200.0, 10.0, 20.0, 30.0))}
    asked = iter(range(4))

    def contestant(name: str):  # type: ignore[no-untyped-def]
        def work(given: int) -> str:
            order.append(f"{name}{given}")
            clock.time += next(durations[name])
            return f"made by {name}"

        return work

    def give() -> dict[str, int]:
        clock.time += 1000.0  # what happens between the works is nobody's time
        number = next(asked)
        return {"a": number, "b": 10 * number}

    def look(counted: bool, given: object, made: dict[str, str]) -> None:
        clock.time += 1000.0
        seen.append((counted, dict(made)))

    times = interleave({"a": contestant("a"), "b": contestant("b")}, give, rounds=3, warmup=1, look=look, now=clock)
    assert order == ["a0", "b0", "a1", "b10", "a2", "b20", "a3", "b30"]
    assert times == {"a": Series((1.0, 2.0, 3.0)), "b": Series((10.0, 20.0, 30.0))}
    assert seen == [(counted, {"a": "made by a", "b": "made by b"}) for counted in (False, True, True, True)]


def test_no_garbage_is_collected_while_a_contestant_works() -> None:
    collects: list[bool] = []
    assert gc.isenabled()
    interleave({"a": lambda given: collects.append(gc.isenabled())}, lambda: {"a": None}, rounds=2)
    assert collects == [False, False, False]
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_failure() -> None:
    def fail(given: None) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        interleave({"a": fail}, lambda: {"a": None}, rounds=1)
    assert gc.isenabled()
