"""A job on a real cluster of several nodes: whatever dies, nothing is missing, nothing is there twice, and no byte differs.

The nodes are processes of this machine, each with a raylet and an object store of its own, as ``ray start`` begins them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import MEMORY, PATIENCE, actors, begun, until
from tests.unit.batch.fake import files

from fewstep.batch.results import NAME, read_lines
from fewstep.cli import main

pytest.importorskip("ray.cluster_utils", reason="needs fewstep[ray]")
server = pytest.importorskip("moto.server", reason="needs fewstep[ray], fewstep[s3] and moto[server]")

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 240
FLEETING = ("timings_ms", "labels")
SMALL = ("--decoder", "tiny", "--steps", "1", "--set", "width=64")
BUCKET = "my-bucket"  # as many are called, and as S3 calls one that is not there


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """The URL of an S3 that is begun here, with a bucket; the environment says where it is, to the nodes too."""
    import boto3

    s3 = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    said = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in said.items():
            patched.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield said["AWS_ENDPOINT_URL"]
    s3.stop()


@pytest.fixture(scope="module")
def cluster(storage: str) -> Iterator[Any]:
    """A head that computes nothing, and one node that does. No test counts on any other."""
    with begun(1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of pictures, so that groups and rows go different ways."""
    path = tmp_path_factory.mktemp("list") / "rows.csv"
    path.write_text("prompt,height\n" + "".join(f"pizza {number},{64 + 16 * (number % 3)}\n" for number in range(ROWS)))
    return path


@pytest.fixture(scope="module")
def whole(manifest: Path) -> Path:
    """The job as this machine makes it alone, on one thread."""
    assert run(arguments(manifest, manifest.parent / "whole")) == 0
    return manifest.parent / "whole"


def arguments(manifest: Path, out: object, *more: str) -> list[str]:
    return ["batch", str(manifest), "--out", str(out), *SMALL, *more]


def run(command: list[str]) -> int:
    with pytest.raises(SystemExit) as done:
        main(command)
    return int(done.value.code or 0)


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "fewstep", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def lines(out: Path) -> int:
    path = out / NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


def grown(out: Path, more: int = 8) -> None:
    """Return when so many more lines have been written."""
    before = lines(out)
    until(lambda: lines(out) >= before + more)


def same(out: Path, whole: Path) -> None:
    """Every picture, once, with the bytes of the job that nothing happened to, and so every line."""
    assert files(out, "pictures/**/*") == files(whole, "pictures/**/*")
    ended, expected = ([{key: line[key] for key in line if key not in FLEETING} for line in read_lines(folder / NAME)] for folder in (out, whole))
    assert [line["index"] for line in ended] == list(range(ROWS))
    assert ended == expected
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}, "nothing else is left"


def test_a_node_comes_and_an_actor_and_a_node_die(cluster: Any, manifest: Path, whole: Path, tmp_path: Path) -> None:
    """Engines are stopped in the middle of their groups, so that each dies with work in hand, however fast the machine is."""
    out = tmp_path / "out"
    with started(arguments(manifest, out, "--on", cluster.address, "--actors", "1-2")) as driver:
        grown(out, 1)
        (first,) = actors(cluster)
        os.kill(first, signal.SIGSTOP)
        node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        until(lambda: len(actors(cluster)) == 2)
        grown(out)
        (second,) = set(actors(cluster)) - {first}
        os.kill(second, signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        grown(out)
        assert second in actors(cluster)
        assert lines(out) < ROWS
        cluster.remove_node(node, allow_graceful=False)
        _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, errors
    same(out, whole)


def test_a_job_in_a_bucket_whose_driver_is_lost(cluster: Any, manifest: Path, whole: Path, tmp_path: Path, storage: str) -> None:
    import boto3

    s3, url = boto3.client("s3"), f"s3://{BUCKET}/run1"
    command = arguments(manifest, url, "--on", cluster.address)

    def objects() -> dict[str, bytes]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="run1/")
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return {key.removeprefix("run1/"): s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    with started(command) as driver:
        until(lambda: sum("pictures/" in name for name in objects()) >= ROWS // 8)
        driver.kill()
    before = objects()
    assert "index.html" not in before, "it was killed while it worked"
    assert run(command) == 0
    after = objects()
    assert {name: content for name, content in after.items() if name.startswith("pictures/")} == files(whole, "pictures/**/*")
    assert {name.split("/")[0] for name in after} == {"job.json", NAME, "index.html", "sheet.jpg", "pictures"}, "no segment is left"
    (tmp_path / NAME).write_bytes(after[NAME])
    assert [line["index"] for line in read_lines(tmp_path / NAME)] == list(range(ROWS))
    assert {line["path"] for line in read_lines(tmp_path / NAME)} == set(files(whole, "pictures/**/*"))


def test_a_score_that_is_asked_for_when_the_job_is_done(cluster: Any, manifest: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, out := tmp_path / "out")
    assert run(arguments(manifest, out, "--on", cluster.address, "--score", "judge")) == 0
    assert all(0 <= line["score"] <= 1 for line in read_lines(out / NAME))
    assert files(out, "pictures/**/*") == files(whole, "pictures/**/*")


def test_an_engine_that_cannot_be_loaded_is_a_sentence(cluster: Any, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(manifest, tmp_path / "out", "--on", cluster.address, "--device", "nothing")) == 2
    error = capsys.readouterr().err
    (said,) = [line for line in error.splitlines() if "(raylet)" not in line]  # Ray says of its own accord that it ended an actor
    assert said.startswith("fewstep: an engine cannot be loaded on")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--on", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1 (Connection refused): begin one with ray start --head"),
        (("--on", "127.0.0.1:70000"), "no Ray cluster answers at 127.0.0.1:70000"),
        (("--out", "s3://nowhere/run"), "s3://nowhere/run cannot be used (The specified bucket does not exist): see that the bucket is there"),
    ],
    ids=["nobody listens", "no port", "no bucket"],
)
def test_what_cannot_be_reached_is_a_sentence(
    storage: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], sentence: str
) -> None:
    assert run(arguments(manifest, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert (sentence in error, error.count("\n"), (tmp_path / "out").exists()) == (True, 1, False), error


def test_a_cluster_that_is_reached_through_rays_client_is_a_sentence(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert run(arguments(manifest, tmp_path / "out", "--on", "ray")) == 2
    assert "a Ray cluster at ray://head:10001: give the HOST:PORT of its head, and the command on a machine of the cluster" in capsys.readouterr().err


def test_credentials_that_are_missing_are_a_sentence(
    storage: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    assert run(arguments(manifest, f"s3://{BUCKET}/run2")) == 2
    error = capsys.readouterr().err
    assert "cannot be used (Unable to locate credentials): see that the bucket is there and that credentials are set" in error, error
