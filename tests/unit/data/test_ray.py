"""A preparation on a real cluster of several nodes: whatever dies, the shards and the audit are those of one machine, to the byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import MEMORY, PATIENCE, actors, begun, until
from tests.tiny import tiny_bundle
from tests.unit.data.prepared import RULES, Deadly, write_pictures

from fewstep.cli import main
from fewstep.data import prepare as module
from fewstep.data.item import Item, Stretch
from fewstep.data.sources import Todo
from fewstep.engine.request import RequestError
from fewstep.engine.where import Where

pytest.importorskip("ray.cluster_utils", reason="needs fewstep[ray]")

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

PICTURES, PART = 160, 8
PROGRAM = f"import sys\nfrom fewstep.data import prepare\nprepare.PART = {PART}\nfrom fewstep.cli import main\nmain(sys.argv[1:])"
SCORED = ("--min-score", "6.5", "--scorer", "tests.unit.data.prepared:breadth")


@dataclass(frozen=True)
class Killing:
    """A source with a picture that kills whoever reads it."""

    def items(self) -> Iterator[Item]:
        yield Item("x.png", Deadly(), "a red apple")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with begun(3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pictures, and what this machine alone makes of them, in two ways."""
    folder = tmp_path_factory.mktemp("prepare")
    config = tiny_bundle(folder / "model", ()) / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": RULES.side // 16}))
    write_pictures(folder / "in", PICTURES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART", PART)
        for out, more in (("whole", ()), ("scored", SCORED)):
            assert run(arguments(folder, folder / out, *more)) == 0
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", PART)


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return ["data", "prepare", str(folder / "in"), "--out", str(out), "--model", str(folder / "model"), "--device", "cpu", *more]


def run(command: list[str]) -> int:
    with pytest.raises(SystemExit) as done:
        main(command)
    return int(done.value.code or 0)


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def parts(out: Path) -> int:
    return sum(path.stem.isdecimal() for path in out.glob("*.json"))


def test_an_actor_and_a_node_die(cluster: Any, folder: Path, tmp_path: Path) -> None:
    """Actors are stopped in the middle of their pictures, so that work in hand is lost however fast the machine is."""
    out = tmp_path / "out"
    node = cluster.add_node(num_cpus=2, object_store_memory=MEMORY)
    with started(arguments(folder, out, "--on", cluster.address, "--actors", "2")) as driver:
        until(lambda: parts(out) > 0, driver)
        held = actors(cluster)
        for actor in held:
            os.kill(actor, signal.SIGSTOP)
        assert parts(out) < PICTURES // PART
        os.kill(held[0], signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
        for actor in held[1:]:
            with suppress(ProcessLookupError):  # it may have been the node's
                os.kill(actor, signal.SIGCONT)
        _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, errors
    assert contents(out) == contents(folder / "whole")


def test_a_driver_that_is_lost_is_begun_again(cluster: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_parts: None) -> None:
    """What it finished is not made again, and nothing is missing."""
    out = tmp_path / "out"
    command = arguments(folder, out, "--on", cluster.address)
    with started(command) as driver:
        until(lambda: parts(out) >= 2, driver)
        driver.kill()
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("0*")}
    assert parts(out) < PICTURES // PART, "it was killed while it worked"
    done = {path.stem for path in out.glob("*.json") if path.stem.isdecimal()}
    assert run(command) == 0
    assert contents(out) == contents(folder / "whole")
    assert all((out / name).stat().st_mtime_ns == when for name, when in there.items() if name[:5] in done)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{out}  "), "the table is on stdout again"
    until(lambda: not actors(cluster))


def test_a_scorer_on_the_cluster_decides_as_it_does_here(cluster: Any, folder: Path, tmp_path: Path, small_parts: None) -> None:
    """Among the wide pictures that it keeps is none of the squares; a picture that is dropped for its score is not encoded."""
    assert run(arguments(folder, tmp_path / "out", *SCORED, "--on", cluster.address)) == 0
    assert contents(tmp_path / "out") == contents(folder / "scored")
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert set(audit["buckets"]) == {"84x48"}
    assert audit["dropped"]["low score"] > 80


def test_a_picture_that_kills_its_reader_ends_with_a_sentence(cluster: Any, folder: Path) -> None:
    from fewstep.data.ray import Plan, candidates

    plan = Plan(str(folder / "model"), "", RULES, device="cpu")
    with pytest.raises(RequestError, match="the Ray cluster failed"):
        list(candidates(plan, Where(cluster.address, "1"), Todo(Killing(), PART, (False,))))


def test_other_encoders_and_a_source_that_is_not_there_are_sentences(folder: Path, tmp_path: Path) -> None:
    """As a machine finds them that has not what the one has that the command was given on."""
    from fewstep.data.few import Few, Looked, Trouble, looked
    from fewstep.data.ray import Encoder, Plan
    from fewstep.engine.cluster import Pool, frame_of

    def answer(plan: Plan) -> Any:
        (found,) = Encoder(plan, Pool(1, 1, 1, 0))(frame_of(Looked(())))["row"]
        return found

    assert "cannot be loaded on" in answer(Plan(str(tmp_path / "nothing"), "", RULES)).sentence
    assert "are not those of the machine that the command was given on" in answer(Plan(str(folder / "model"), "another", RULES)).sentence
    (found,) = looked(RULES, frame_of(Few((Item("a.png", Stretch(tmp_path / "a.png"), "a red apple"),))))["row"]
    assert isinstance(found, Trouble)
    assert f"has no {tmp_path / 'a.png'}: the source has to lie at the same path" in found.sentence


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--on", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1 (Connection refused): begin one with ray start --head"),
        (("--on", "ray", "--workers", "2"), "--workers 2 is for this machine"),
        (("--actors", "2"), "--actors is for a Ray cluster: give --on ray as well"),
        (("--on", "ray", "--actors", "2-1"), "--actors 2-1: give their number"),
        (("--on", "nonsense"), "--on nonsense: give here, ray, or the HOST:PORT"),
    ],
)
def test_bad_input_is_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], sentence: str) -> None:
    assert run(arguments(folder, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert (sentence in error, error.count("\n"), (tmp_path / "out").exists()) == (True, 1, False), error
