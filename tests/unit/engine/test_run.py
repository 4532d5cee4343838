"""Writing runs beside making: in order, not too far behind, and whatever ends the one, the other is whole."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from fewstep.engine.files import read_record
from fewstep.engine.output import Output
from fewstep.engine.record import Record
from fewstep.engine.request import Picture, Request, RequestError
from fewstep.engine.run import BAD_INPUT, DONE, INTERRUPTED, MOST_PENDING, SOME_FAILED, beside, generate, run

PATIENCE = 20  # seconds


def picture(request: Request) -> Picture:
    seed = request.seed or 0
    record = Record(request.prompt, seed, 1, 64, 64, "fake", "0" * 12, 0.0, "0", "eager", "cpu", 1)
    return Picture(Image.new("RGB", (64, 64), (seed, 0, 0)), seed, 1, 64, 64, "fake", {"denoise": 1.0}, record)


class FakeEngine:
    """Makes pictures of one colour. ``stop`` holds what to raise instead of the picture of a number."""

    def __init__(self, stop: dict[int, BaseException] | None = None) -> None:
        self.stop = stop or {}
        self.begun = [threading.Event() for _ in range(10)]

    def generate_many(self, requests: Sequence[Request]) -> Iterator[Picture]:
        for number, request in enumerate(requests):
            self.begun[number].set()
            if number in self.stop:
                raise self.stop[number]
            yield picture(request)


def make(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, output: Output, count: int) -> int:
    monkeypatch.setattr("fewstep.engine.engine.Engine.load", lambda model, steps: engine)
    return run("fake", None, [Request("pizza", seed) for seed in range(count)], None, output, json=False)


def test_the_next_is_made_while_one_is_worked_on() -> None:
    """Each side waits for the other: if they took turns, neither would go on."""
    working = [threading.Event() for _ in range(4)]
    making = [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for number in range(4):
            making[number].set()
            assert number == 0 or working[number - 1].wait(PATIENCE), "the one before is being worked on by now"
            yield number
        making[4].set()

    def work(number: int) -> None:
        working[number].set()
        assert making[number + 1].wait(PATIENCE), "the one after is being made by now"

    beside(work, items())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 30])
def test_all_are_done_in_order_by_one_other_thread(count: int) -> None:
    done: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> None:
        threads.add(threading.get_ident())
        done.append(number)

    beside(work, range(count))
    assert done == list(range(count))
    assert len(threads) == min(count, 1) and threading.get_ident() not in threads


def test_only_so_many_wait() -> None:
    done: list[int] = []
    slow = threading.Event()

    def items() -> Iterator[int]:
        for number in range(20):
            assert len(done) >= number - MOST_PENDING
            yield number

    def work(number: int) -> None:
        slow.wait(0.002)
        done.append(number)

    beside(work, items())
    assert len(done) == 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_made_is_finished_whatever_stops_the_making(error: type[BaseException]) -> None:
    done: list[int] = []
    slow = threading.Event()

    def items() -> Iterator[int]:
        yield from range(2)
        raise error

    def work(number: int) -> None:
        slow.wait(0.05)
        done.append(number)

    with pytest.raises(error):
        beside(work, items())
    assert done == [0, 1]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_an_error_of_the_work_is_raised(count: int) -> None:
    def work(number: int) -> None:
        raise BrokenPipeError(number)

    with pytest.raises(BrokenPipeError, match=r"^0$"):
        beside(work, range(count))


def test_writing_runs_beside_the_next_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine, save = FakeEngine(), Output.save

    def slow(self: Output, made: Picture) -> Path:
        assert made.seed == 3 or engine.begun[made.seed + 1].wait(PATIENCE)
        return save(self, made)

    monkeypatch.setattr(Output, "save", slow)
    assert make(monkeypatch, engine, Output(tmp_path), 4) == DONE
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"pizza-{seed}.png" for seed in range(4)]


@pytest.mark.parametrize(("kind", "suffix"), [("png", ".png"), ("webp", ".webp"), ("jpeg", ".jpg")])
def test_a_line_a_picture_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, suffix: str) -> None:
    assert make(monkeypatch, FakeEngine(), Output(tmp_path, format=kind), 5) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[str(tmp_path / f"pizza-{seed}{suffix}"), f"seed {seed}"] for seed in range(5)]
    assert [read_record(Path(line.split("  ")[0])).seed for line in lines] == list(range(5))


def test_an_interrupt_leaves_what_was_made_and_counts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(monkeypatch, FakeEngine({4: KeyboardInterrupt()}), Output(tmp_path), 9) == INTERRUPTED
    captured = capsys.readouterr()
    assert captured.err == "fewstep: interrupted; 4 of 9 pictures are finished\n"
    assert captured.out.count("\n") == len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(("failing", "code"), [({1}, SOME_FAILED), ({0, 1, 2}, BAD_INPUT)])
def test_what_cannot_be_written_is_named_and_the_rest_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], failing: set[int], code: int
) -> None:
    save = Output.save

    def full(self: Output, made: Picture) -> Path:
        if made.seed in failing:
            raise OSError(28, "No space left on device", f"pizza-{made.seed}.png")
        return save(self, made)

    monkeypatch.setattr(Output, "save", full)
    assert make(monkeypatch, FakeEngine(), Output(tmp_path), 3) == code
    captured = capsys.readouterr()
    assert re.findall(r"pizza-(\d)\.png was not written: No space left on device\n", captured.err) == [str(seed) for seed in sorted(failing)]
    assert captured.out.count("\n") == len(list(tmp_path.iterdir())) == 3 - len(failing)


def test_a_picture_is_made_again_on_the_device_that_made_it_or_not_at_all(tiny: Path, tmp_path: Path) -> None:
    record = Record("a pizza", 1, 1, 64, 64, "tiny", "0" * 12, 0.0, "0", "eager", "cuda:99", 1)
    with pytest.raises(RequestError, match=r"made by eager on cuda:99, which cannot be had here \(.*\): give its prompt and seed"):
        generate(str(tiny), [record.again()], record, (tmp_path / "again.png", None, None), False, None, "auto", "full", None)
    assert not list(tmp_path.iterdir())
