"""Requests gone wrong, each a function of its number: none is answered with 500, and none leaves anything behind.

500 of them; FEWSTEP_FUZZ=10000 in the environment makes more.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import random
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.unit.serve.fake import PATIENCE
from tests.unit.serve.listening import listening, png
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from fewstep.serve.a1111_facts import EMPTY

COUNT = int(os.environ.get("FEWSTEP_FUZZ", "500"))
GROWTH = 48 << 20  # bytes of memory that so many requests may leave
IMAGE = base64.b64encode(png()).decode()
CONTROL = [{"image": IMAGE, "hint": "canny", "weight": 1.0, "start": 0.0, "end": 1.0}]
UNIT = {"controlnet": {"args": [{"enabled": True, "image": IMAGE, "module": "canny", "model": "None", "weight": 1.0}]}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/generate": {
        "prompt": "pizza",
        "seed": 7,
        "steps": 2,
        "width": 64,
        "tile": "xy",
        "count": 1,
        "stream": True,
        "previews": True,
        "format": "jpeg",
        "decoder": "tiny",
    },
    "/v1/sessions": {"out": "name"},
    "/v1/images/generations": {
        "prompt": "pizza",
        "n": 2,
        "size": "64x96",
        "quality": "low",
        "response_format": "b64_json",
        "output_format": "webp",
        "output_compression": 50,
        "stream": False,
        "partial_images": 2,
        "seed": 1,
        "steps": 3,
        "background": "opaque",
        "guidance_scale": 7.5,
        "negative_prompt": "blurry",
    },
    "/sdapi/v1/txt2img": {"prompt": "pizza", "steps": 20, "cfg_scale": 7.0, "width": 512, "seed": -1, "batch_size": 2, "n_iter": 1, "override_settings": {}},
    "/sdapi/v1/img2img": {
        "prompt": "x",
        "tiling": True,
        "init_images": [IMAGE],
        "denoising_strength": 0.5,
        "mask": IMAGE,
        "inpainting_mask_invert": 1,
        "steps": 4,
    },
    "/sdapi/v1/options": {"sd_model_checkpoint": "fake"},
    "/sdapi/v1/png-info": {"image": IMAGE},
    "/sdapi/v1/interrupt": {},
    "/models/fake": {"inputs": "pizza", "parameters": {"seed": 3, "num_inference_steps": 20, "width": 100}},
    "/": {"inputs": IMAGE, "parameters": {"prompt": "pizza", "strength": 0.5, "target_size": {"width": 64, "height": 64}}},
}
GETS = ["/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/pictures/x", "/out/x", "/out/x.mjpeg"]
GETS += [f"/v1/{name}" for name in ("models", "models/fake", "words", "loras")]
GETS += [f"/sdapi/v1/{name}" for name in ("options", "progress", "sd-models", "loras", *EMPTY)]
NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    17,
    2**31,
    2**63,
    2**64,
    -(2**63),
    1e308,
    float("nan"),
    float("inf"),
    1.5,
    "",
    "x",
    "0",
    "NaN",
    [],
    {},
    [[]],
    {"a": {}},
    "auto",
    "64x64",
    "0x0",
    "../../etc/passwd",
]
NASTY += [
    "\x00",
    "\ud800",
    "é" * 50,
    "🍕",
    "x" * 5000,
    "http://127.0.0.1:1/",
    "file:///etc/passwd",
    "data:image/png;base64,",
    IMAGE,
    IMAGE[:40],
    CONTROL,
    UNIT,
    "<script>",
    "%s%n",
    "' OR 1=1",
]
KINDS = ["application/json", "application/json; charset=utf-16", "text/plain", "image/png", "multipart/form-data", "multipart/form-data; boundary=x", "", "é"]
HEADERS = [
    ("origin", "http://evil.example"),
    ("origin", "null"),
    ("host", "evil.example"),
    ("authorization", "Basic ////"),
    ("authorization", "Bearer"),
    ("accept", "image/jpeg"),
]
HEADERS += [
    ("content-length", "-1"),
    ("transfer-encoding", "gzip"),
    ("if-none-match", "x, *"),
    ("expect", "100-continue"),
    ("accept", "*/*;q=x"),
    ("content-encoding", "br"),
]
GUARDED = {200, 304, 400, 401, 403, 404, 405, 408, 413, 421, 422, 429}


def mutated(value: Any, dice: random.Random) -> Any:
    """``value`` with some of it changed."""
    if isinstance(value, dict):
        changed = {key: mutated(inner, dice) for key, inner in value.items() if dice.random() > 0.08}
        if dice.random() < 0.2:
            changed[dice.choice(["extra", "stream", "n", "", "\ud800", "image", "control", "alwayson_scripts"])] = dice.choice(NASTY)
        return changed
    if isinstance(value, list) and dice.random() < 0.5:
        return [mutated(inner, dice) for inner in value * dice.randint(0, 3)]
    return dice.choice(NASTY) if dice.random() < 0.25 else value


def damaged(content: bytes, dice: random.Random) -> bytes:
    """``content`` with some bytes changed, left out or doubled."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        place = dice.randrange(len(changed) + 1)
        how = dice.randrange(4)
        if how == 0:
            del changed[place:]
        elif how == 1:
            changed[place:place] = bytes(dice.randrange(256) for _ in range(dice.randint(1, 20)))
        elif changed:
            changed[min(place, len(changed) - 1)] = dice.randrange(256)
    return bytes(changed)


def request_number(number: int) -> dict[str, Any]:
    """What httpx sends as the request of this number."""
    dice = random.Random(f"fewstep {number}")
    headers = dict(dice.sample(HEADERS, dice.choice([0, 0, 0, 1, 2])))
    if dice.random() < 0.2:
        path = dice.choice(GETS)
        return {"method": dice.choice(["GET", "HEAD", "DELETE", "PUT", "POST", "OPTIONS"]), "url": spoiled(path, dice), "headers": headers}
    if dice.random() < 0.15:
        files = {"image": ("a.png", damaged(png(), dice) if dice.random() < 0.5 else png())}
        if dice.random() < 0.5:
            files[dice.choice(["mask", "image[]", "other"])] = ("é.png", png(colour=(0, 0, 0, 0), mode="RGBA"))
        fields = {str(key): str(value) for key, value in mutated(BODIES["/v1/images/generations"], dice).items() if key.isascii() and str(value).isascii()}
        return {"method": "POST", "url": "/v1/images/edits", "data": fields, "files": files, "headers": headers}
    path = dice.choice(list(BODIES))
    content = json.dumps(mutated(BODIES[path], dice)).encode()
    if dice.random() < 0.2:
        content = damaged(content, dice)
    headers["content-type"] = dice.choice(KINDS) if dice.random() < 0.15 else "application/json"
    return {"method": "POST", "url": spoiled(path, dice), "content": content, "headers": headers}


def spoiled(path: str, dice: random.Random) -> str:
    """``path``, sometimes with something in it that does not belong there."""
    if dice.random() > 0.1:
        return path
    return path + dice.choice(
        ["/", "//", "?x=%00", "?token=a&token=b", "/..%2f..%2fetc%2fpasswd", "%ff%fe", "?skip_current_image=maybe", "#x", ";a=b", "\u00e9"]
    )


def memory() -> int:
    """Bytes of this process in main memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def unread(url: str, number: int) -> None:
    """A request that is damaged below HTTP, or that is left in the middle."""
    dice = random.Random(f"raw {number}")
    body = json.dumps(BODIES["/v1/generate"]).encode()
    whole = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), PATIENCE) as raw:
        raw.sendall(damaged(whole, dice))
        raw.settimeout(0.02)
        raw.recv(1 << 16)


def talk(url: str, number: int) -> None:
    """A live session that says damaged things and then leaves."""
    dice = random.Random(f"live {number}")
    with suppress(WebSocketException, TimeoutError, OSError), connect(url.replace("http", "ws") + "/v1/live", open_timeout=PATIENCE) as live:
        for generation in range(1, 6):
            said = json.dumps(mutated({"prompt": "pizza", "generation": generation, "steps": 1, "previews": True}, dice))
            live.send(damaged(said.encode(), dice) if dice.random() < 0.3 else said, text=dice.random() < 0.8)
        live.recv(timeout=0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with listening() as (url, scheduler):
        yield url
        assert (scheduler.queued, scheduler.running) == (0, 0)


def send(client: httpx2.Client, number: int) -> None:
    """Send the request of this number, and look at the answer."""
    asked = request_number(number)
    try:
        answer = client.request(**asked)
    except (httpx2.LocalProtocolError, httpx2.InvalidURL, UnicodeEncodeError, TypeError, ValueError):
        return  # the client does not send this
    except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
        return  # the server hung up on something that is no HTTP
    assert answer.status_code in GUARDED, (number, asked, answer.status_code, answer.text[:300])
    if answer.status_code >= 400 and asked["method"] != "HEAD" and answer.headers.get("content-type") == "application/json":
        assert set(answer.json()) in ({"error"}, {"error", "detail", "body", "errors"}), answer.text
    assert not re.search(r"Traceback|/site-packages/|File \"", answer.text[:5000])


@pytest.mark.timeout(max(120, COUNT // 4))
def test_no_request_breaks_the_server_or_leaves_anything_behind(server: str) -> None:
    with httpx2.Client(base_url=server, timeout=PATIENCE) as client:
        for number in range(60):
            send(client, number)
        unread(server, -1)
        talk(server, -1)
        opened, used = descriptors(), memory()
        for number in range(60, COUNT):
            send(client, number)
            if number % 10 == 0:
                unread(server, number)
            if number % 25 == 0:
                talk(server, number)
        assert client.post("/v1/generate", json={"prompt": "pizza"}).content.startswith(b"\x89PNG")
    settle(opened)
    assert descriptors() <= opened
    assert memory() - used < GROWTH


def settle(opened: int) -> None:
    """Wait until the connections are closed on the server's side too."""
    import time

    deadline = time.monotonic() + PATIENCE
    while descriptors() > opened and time.monotonic() < deadline:
        time.sleep(0.05)


def test_every_route_of_the_document_is_among_those(server: str) -> None:
    document = httpx2.get(f"{server}/openapi.json")
    paths = document.json()["paths"]
    posts = {path for path, methods in paths.items() if "post" in methods}
    nothing_to_do = re.compile(r"/sdapi/v1/(refresh|unload|reload)-|/sdapi/v1/skip")
    assert {path for path in posts if not nothing_to_do.match(path)} == {*BODIES, "/v1/images/edits"} - {"/models/fake"} | {"/models/{name}"}
    gets = {path for path, methods in paths.items() if "get" in methods}
    assert {re.sub(r"(?<=/)x\b|(?<=models/)fake", "{name}", path) for path in GETS} == gets | {"/openapi.json"}
    parts = document.json()["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', document.text)) <= set(parts)
    assert document.text.count('"$ref"') == len(re.findall(r'"\$ref":\s*"#/components/schemas/', document.text))
    assert all("requestBody" in paths[path]["post"] for path in posts if not nothing_to_do.match(path) and not path.endswith("/interrupt"))
