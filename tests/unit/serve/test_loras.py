"""A server offers the LoRAs of one folder by their names, to each API in its way, and nothing else that lies on its disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests import loras

from fewstep.engine.engine import Engine
from fewstep.engine.request import Request, RequestError
from fewstep.models.bundle import load_bundle
from fewstep.serve.app import open_app
from fewstep.serve.guard import Access
from fewstep.serve.rack import Rack, tagged

HERE = "http://127.0.0.1:7860"
PROMPT = "a red apple"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("style", "other one")):
        loras.write(loras.kohya(loras.factors(load_bundle(tiny), seed)), folder / f"{name}.safetensors")
    loras.write(loras.kohya(loras.factors(load_bundle(tiny), 9)), folder / "deeper" / "hidden.safetensors")
    return folder


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), 1, backend="eager")


@pytest.fixture(scope="module")
def client(engine: Engine, folder: Path) -> Iterator[TestClient]:
    app, _ = open_app(engine, ("full",), Access(), rack=Rack(folder))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def pictures(tiny: Path, folder: Path) -> dict[str, bytes]:
    """The pixels with each LoRA at 0.5 and with none, from an engine of its own."""
    engine = Engine.load(str(tiny), 1, backend="eager")
    stacks = {"": (), **{name: ((folder / f"{name}.safetensors", 0.5),) for name in ("style", "other one")}}
    made = {name: engine.generate(Request(PROMPT, 3, 1, loras=stack)).image.tobytes() for name, stack in stacks.items()}
    assert len(set(made.values())) == 3
    return made


def pixels(content: bytes) -> bytes:
    return Image.open(io.BytesIO(content)).convert("RGB").tobytes()


def generate(client: TestClient, *stack: dict[str, Any]) -> Any:
    return client.post("/v1/generate", json={"prompt": PROMPT, "seed": 3, "steps": 1, "loras": list(stack)})


def test_they_are_listed_by_name_and_lead_to_no_folder(client: TestClient, folder: Path) -> None:
    assert [one["id"] for one in client.get("/v1/loras").json()["data"]] == ["other one", "style"]
    listed = client.get("/sdapi/v1/loras").json()
    assert [(one["name"], one["path"]) for one in listed] == [("other one", "other one.safetensors"), ("style", "style.safetensors")]
    assert str(folder) not in str(listed)


@pytest.mark.parametrize("part", ["lora_unet", "lora_te1"])  # which is read when prompts are
def test_one_that_cannot_be_used_is_a_sentence_without_the_servers_folders(engine: Engine, tiny: Path, tmp_path: Path, part: str) -> None:
    content = loras.kohya(loras.factors(load_bundle(tiny), 3))
    broken = {key: value * float("nan") if key.startswith(part) and "lora_up" in key else value for key, value in content.items()}
    loras.write({key: value for key, value in broken.items() if key.startswith(part)}, tmp_path / "broken.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"half")
    app, _ = open_app(engine, ("full",), Access(), rack=Rack(tmp_path))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        for name in ("broken", "cut"):
            answer = generate(client, {"name": name, "weight": 1.0})
            assert answer.status_code == 400, answer.text
            assert f"{name}.safetensors" in answer.text and str(tmp_path) not in answer.text
        assert generate(client).status_code == 200


def test_the_native_api_puts_them_over_the_weights(client: TestClient, pictures: dict[str, bytes]) -> None:
    for name in ("style", "other one", "style", ""):
        answer = generate(client, *[{"name": name, "weight": 0.5}] * bool(name))
        assert answer.status_code == 200, answer.text
        assert pixels(answer.content) == pictures[name]


@pytest.mark.parametrize("prompt", [f"{PROMPT} <lora:style:0.5>", f"<lora:style:0.5>{PROMPT}", "a <lora:style:0.5> red apple <lora:other one:0>"])
def test_a1111s_prompts_name_them(client: TestClient, pictures: dict[str, bytes], prompt: str) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": prompt, "seed": 3, "steps": 1, "width": 256, "height": 256}).json()
    content = base64.b64decode(answer["images"][0])
    assert pixels(content) == pictures["style"]
    assert "<lora:style:0.5>" in Image.open(io.BytesIO(content)).info["parameters"], "it can be pasted again"


@pytest.mark.parametrize("name", ["hidden", "deeper/hidden", "../style", "/etc/passwd", "style.safetensors", "", "nul\0l"])
def test_no_other_name_is_one(client: TestClient, folder: Path, name: str) -> None:
    answer = generate(client, {"name": name})
    assert answer.status_code == 400
    said = answer.json()["error"]["message"]
    assert str(folder) not in said and ("give other one and style" in said or not name)


def test_neither_is_a_path_to_one_that_is_offered(client: TestClient, folder: Path) -> None:
    assert generate(client, {"name": str(folder / "style.safetensors")}).status_code == 400
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": f"x <lora:{folder / 'style'}:1>", "steps": 1})
    assert answer.status_code == 400


@pytest.mark.parametrize("stack", [[{"name": "style", "weight": 21}], [{"name": "style", "weight": "much"}], [{"name": "style", "path": "x"}], [{}], "style"])
def test_what_is_no_stack_is_a_bad_request(client: TestClient, stack: Any) -> None:
    assert client.post("/v1/generate", json={"prompt": PROMPT, "loras": stack}).status_code == 400


def test_a_server_without_a_folder_offers_none(engine: Engine) -> None:
    app, _ = open_app(engine, ("full",), Access())
    with TestClient(app, base_url=HERE) as client:
        assert client.get("/sdapi/v1/loras").json() == [] == client.get("/v1/loras").json()["data"]
        answer = generate(client, {"name": "style"})
        assert answer.status_code == 400 and "started without --lora-dir" in answer.json()["error"]["message"]


def test_a_folder_is_read_anew(tmp_path: Path, folder: Path) -> None:
    rack = Rack(tmp_path)
    assert rack.files() == {}
    (tmp_path / "new.safetensors").write_bytes(b"")
    assert list(rack.files()) == ["new"]
    with pytest.raises(RequestError, match="there is no such folder"):
        Rack(tmp_path / "none")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", ("a cat", None)),
        ("a <b> cat < lora >", ("a <b> cat < lora >", None)),
        ("a cat <lora:style>", ("a cat", (("style", 1.0),))),
        ("<lora:a:-0.5> a <lora:b:2> cat", ("a cat", (("a", -0.5), ("b", 2.0)))),
    ],
)
def test_tags_are_taken_out_of_a_prompt(prompt: str, expected: Any) -> None:
    assert tagged(prompt) == expected


def test_a_tag_without_a_number_is_a_sentence() -> None:
    with pytest.raises(RequestError, match=r"write it as <lora:style:0\.8>"):
        tagged("a cat <lora:style:much>")
