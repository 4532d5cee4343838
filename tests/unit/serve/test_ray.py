"""The server on a real cluster: replicas look as one, sessions stay where they are, and one that dies takes nobody else along.

The nodes are processes of this machine, each with a raylet of its own, as ``ray start`` begins them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fewstep.cli import main
from fewstep.serve.sticky import home_of

Cluster = pytest.importorskip("ray.cluster_utils", reason="needs fewstep[ray]").Cluster
Pool = pytest.importorskip("fewstep.engine.cluster").Pool
room_on = pytest.importorskip("fewstep.serve.ray").room_on

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = 240.0  # seconds
KEY = {"Authorization": "Bearer a-key"}
MEMORY = 100 << 20  # bytes of a node's object store
NODE = {"num_cpus": 1, "object_store_memory": MEMORY}  # with room for a replica


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and two nodes with room for a replica each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # else whatever runs beside the tests goes before them
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False})
        for _ in range(2):
            cluster.add_node(**NODE)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def server(cluster: Any) -> Iterator[str]:
    """The address of ``fewstep serve`` with two replicas that are ready. It leaves when it is told to."""
    command = ["serve", "--on", cluster.address, "--replicas", "2", "--port", "0", "--api-key", "a-key"]
    process = subprocess.Popen([sys.executable, "-m", "fewstep", *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        ready(url)
        yield url
        with opened(url) as (live, _):
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                live.recv(timeout=PATIENCE)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012  # it is told why
        assert process.wait(PATIENCE) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/readyz")
    finally:
        process.kill()
        process.wait()


def until(holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(1)
    assert found
    return found


def replicas(url: str) -> dict[str, float]:
    """The live sessions of each replica, by its name, as all of them together tell them."""
    text = httpx2.get(f"{url}/metrics", headers=KEY, timeout=PATIENCE).text
    return {name: float(count) for name, count in re.findall(r'^fewstep_sessions{replica="(\w+)"} (\S+)$', text, re.MULTILINE)}


def ready(url: str, but: str = "") -> None:
    """Return when two replicas make pictures, none of them ``but``."""

    def both() -> bool:
        found = replicas(url)
        return len(found) == 2 and but not in found

    until(both)
    until(lambda: all(httpx2.get(f"{url}/readyz", timeout=PATIENCE).status_code == 200 for _ in range(8)))


def session(url: str, out: str | None = None) -> dict[str, Any]:
    answer = httpx2.post(f"{url}/v1/sessions", json={"out": out} if out else {}, headers=KEY, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def at(url: str, known: dict[str, Any]) -> ClientConnection:
    return connect(url.replace("http", "ws") + known["live"], open_timeout=PATIENCE)


@contextmanager
def opened(url: str, home: str = "") -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """A live session, and what it was opened with: at the replica ``home``, or at any."""
    known = until(lambda: known if home in ("", home_of((known := session(url))["out"])) else None)
    with at(url, known) as live:
        yield live, known


def shown(live: ClientConnection, generation: int) -> bytes:
    """The last picture of a message."""
    live.send(json.dumps({"prompt": "a red apple", "seed": 1, "steps": 1, "generation": generation}))
    while True:
        frame = live.recv(timeout=PATIENCE)
        assert isinstance(frame, bytes), frame
        (length,) = struct.unpack_from(">I", frame)
        header = json.loads(frame[4 : 4 + length])
        assert header["generation"] == generation  # nobody else's
        if header["final"]:
            return frame[4 + length :]


def seen(url: str, known: dict[str, Any]) -> bytes:
    """The first picture that somebody sees who looks at a session, without a key."""
    with httpx2.stream("GET", url + known["mjpeg"], timeout=PATIENCE) as looked:
        assert looked.status_code == 200
        content = b""
        for part in looked.iter_bytes():
            content += part
            if (match := re.search(rb"Content-Length: (\d+)\r\n\r\n(?s:(.*))", content)) and len(match[2]) >= (length := int(match[1])):
                return match[2][:length]
    raise AssertionError("no picture came")


def process_of(replica: str) -> int:
    """The process of a replica: the one that has its log open."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if (
                any(link.readlink().name.endswith(f"_{replica}.log") for link in folder.iterdir())
                and b"ServeReplica" in (folder.parent / "cmdline").read_bytes()
            ):
                return int(folder.parent.name)
        except OSError:
            continue
    raise AssertionError(f"no process has the log of {replica} open")


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_replicas_are_the_same_server(server: str) -> None:
    """Whoever answers: the same picture to the byte, the same doors, the same guard."""
    wanted = {"prompt": "a red apple", "seed": 7, "steps": 1}
    pictures = {httpx2.post(f"{server}/v1/generate", json=wanted, headers=KEY, timeout=PATIENCE).content for _ in range(6)}
    assert len(pictures) == 1 and next(iter(pictures)).startswith(b"\x89PNG")
    for _ in range(4):
        assert httpx2.get(f"{server}/v1/models").status_code == 401
        assert httpx2.get(f"{server}/v1/models", headers={**KEY, "Host": "elsewhere.example"}).status_code == 421
        assert httpx2.get(f"{server}/v1/models", headers={**KEY, "Origin": "https://elsewhere.example"}).status_code == 403
        assert httpx2.get(f"{server}/").status_code == 200
    asked = httpx2.get(f"{server}/metrics", headers=KEY).text
    assert len(set(re.findall(r'fewstep_requests_total{replica="(\w+)"', asked))) == 2  # both were asked


def test_a_picture_is_fetched_where_it_is_kept(server: str) -> None:
    wanted = {"prompt": "a fox", "steps": 1, "response_format": "url"}
    for _ in range(6):
        answer = httpx2.post(f"{server}/v1/images/generations", json=wanted, headers=KEY, timeout=PATIENCE).json()
        address = answer["data"][0]["url"]
        assert httpx2.get(address, timeout=PATIENCE).headers["content-type"] == "image/png"


def test_a_session_goes_on_where_it_is(server: str) -> None:
    """Two people at two replicas, each of whom loses the connection again and again; whoever looks is led to the same replica."""
    homes = sorted(replicas(server))
    with opened(server, homes[0]) as (one, first), opened(server, homes[1]) as (other, second):
        until(lambda: replicas(server) == dict.fromkeys(homes, 1.0))
        shown(one, 1)
        shown(other, 1)
        for home, known in zip(homes, (first, second), strict=True):
            for number in range(3):
                again = session(server, known["out"])
                assert again["out"] == known["out"] and home_of(again["token"]) == home
                with at(server, again) as live:
                    shown(live, number + 1)
            assert seen(server, known).startswith(b"\xff\xd8")
    refused = httpx2.post(f"{server}/v1/sessions", json={"out": f"{homes[0]}-nobodys"}, headers=KEY, timeout=PATIENCE)
    assert refused.status_code == 400 and "this session is over" in refused.json()["error"]["message"]


def goes_on_without(server: str, dead: str, end: Callable[[], Any], mend: Callable[[], Any]) -> None:
    """What was open at the replica ``dead`` goes on at the other under its old name once ``end`` has ended it, and whoever was at the other does
    not notice; nor does anybody when, after ``mend``, a third takes its place.
    """
    (alive,) = set(replicas(server)) - {dead}
    with opened(server, dead) as (lost, known), opened(server, alive) as (kept, other):
        shown(lost, 1)
        shown(kept, 1)
        time.sleep(3)  # the board has heard of both
        end()
        with pytest.raises(ConnectionClosed):
            lost.recv(timeout=PATIENCE)
        shown(kept, 2)
        again = session(server, known["out"])
        assert again["out"] == known["out"] and home_of(again["token"]) != dead
        with at(server, again) as live:
            shown(live, 2)
            assert seen(server, known).startswith(b"\xff\xd8")
            mend()
            ready(server, but=dead)
            shown(live, 3)
            assert seen(server, known).startswith(b"\xff\xd8")  # the way to the session has not changed
        shown(kept, 3)
        assert session(server, other["out"])["out"] == other["out"]


def test_a_replica_that_dies_takes_nobody_along(server: str) -> None:
    dead = min(replicas(server))
    goes_on_without(server, dead, lambda: os.kill(process_of(dead), signal.SIGKILL), lambda: None)


def test_a_machine_that_dies_takes_nobody_along(cluster: Any, server: str) -> None:
    """With all that ran on it; one that joins the cluster takes its place."""
    machine = next(iter(cluster.worker_nodes))
    (raylet,) = machine.all_processes["raylet"]
    dead = next(name for name in replicas(server) if parent_of(process_of(name)) == raylet.process.pid)
    goes_on_without(server, dead, lambda: cluster.remove_node(machine, allow_graceful=False), lambda: cluster.add_node(**NODE))


def test_nobody_says_where_he_comes_from(server: str) -> None:
    """Ray's uvicorn would believe X-Forwarded-For from this machine: then each of these were another client, with a seat of its own."""

    def refused() -> dict[str, float]:
        text = httpx2.get(f"{server}/metrics", headers=KEY, timeout=PATIENCE).text
        return {name: float(count) for name, count in re.findall(r'^fewstep_requests_total{replica="(\w+)",.*status="401"} (\S+)$', text, re.MULTILINE)}

    before = refused()
    for number in range(16):
        sent = {"X-Forwarded-For": f"192.0.2.{number}"}
        assert httpx2.get(f"{server}/sdapi/v1/progress", headers=sent, timeout=PATIENCE).status_code == 401
    until(lambda: sum(refused().values()) == sum(before.values()) + 16)
    assert sum(count != before.get(name, 0.0) for name, count in refused().items()) == 1


@pytest.mark.parametrize(
    ("there", "pool", "room"),
    [
        ({"CPU": 3.0}, Pool(1, None, 2, 0.0), 1),
        ({"CPU": 1.0, "GPU": 8.0}, Pool(1, None, 1, 1.0), 1),
        ({"CPU": 64.0, "GPU": 4.0}, Pool(1, None, 1, 0.3), 12),  # three on each: the tenths that are left of four are no GPU
        ({"CPU": 64.0, "GPU": 4.0}, Pool(1, None, 1, 0.1), 40),
        ({"CPU": 64.0, "GPU": 3.0}, Pool(1, None, 1, 2.0), 1),
        ({"memory": 1.0}, Pool(1, None, 1, 0.0), 0),
    ],
)
def test_room_on_one_machine(there: dict[str, float], pool: Any, room: int) -> None:
    assert room_on(there, pool) == room


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--on", "127.0.0.1:9"), "no Ray cluster answers at 127.0.0.1:9"),
        (("--replicas", "2"), "--replicas is for a Ray cluster"),
        (("--on", "ray", "--replicas", "3-2"), "--replicas 3-2: give their number"),
    ],
)
def test_what_no_cluster_can_serve(options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["serve", *options])
    assert left.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"), [(("--replicas", "9"), "has room for 2 replicas of 1 CPU"), (("--replicas", "1"), "Ray Serve runs on this cluster already")]
)
def test_what_this_cluster_cannot_serve(cluster: Any, server: str, options: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-m", "fewstep", "serve", "--on", cluster.address, "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
