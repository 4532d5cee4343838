"""Hugging Face's own client against a running server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from tests.unit.serve.listening import listening, png

from fewstep.serve.guard import Access


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening() as (url, _):
        yield url


@pytest.fixture(autouse=True)
def to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run with HF_HUB_OFFLINE, which the client takes to mean its own server as well."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("path", ["", "/", "/models/fake", "/models/somebody/fake"])
def test_a_stock_request(url: str, path: str) -> None:
    client = InferenceClient(model=f"{url}{path}")
    image = client.text_to_image("pizza", negative_prompt="ugly", width=1536, height=1024, num_inference_steps=20, guidance_scale=7.0, seed=7)
    assert (image.format, image.size) == ("PNG", (80, 64))
    assert image.info["parameters"].startswith("pizza\nNegative prompt: ugly\nSteps: 8, Sampler: Euler")
    assert "Seed: 7" in image.info["parameters"]


def test_a_base_url_and_a_health_check(url: str) -> None:
    assert InferenceClient(base_url=url).text_to_image("pizza").size == (64, 64)
    assert InferenceClient(provider="hf-inference", model=url).health_check()


def test_an_image_begins_from_an_image(url: str) -> None:
    client = InferenceClient(model=url)
    assert client.image_to_image(png((80, 60))).size == (80, 64)
    assert client.image_to_image(png((80, 60)), prompt="pizza", num_inference_steps=20).info["parameters"].startswith("pizza\nSteps: 8")


def test_what_was_used_is_in_the_headers(url: str) -> None:
    answer = httpx2.post(f"{url}/models/fake", json={"inputs": "pizza", "parameters": {"num_inference_steps": 20, "scheduler": "DDIM", "seed": 3}})
    assert {"x-fewstep-steps": "8", "x-fewstep-seed": "3", "x-fewstep-size": "64x64"}.items() <= dict(answer.headers).items()
    assert answer.headers["x-fewstep-changed"] == "steps=20 used 8, scheduler=DDIM used SGM Uniform"
    assert httpx2.post(url, json={"inputs": "x"}, headers={"accept": "image/webp;q=0.9, */*"}).content[8:12] == b"WEBP"


def test_errors_are_theirs(url: str) -> None:
    with pytest.raises(BadRequestError, match="above 0"):
        InferenceClient(model=url).text_to_image("pizza", num_inference_steps=-1)
    with pytest.raises(HfHubHTTPError, match="give fake"):
        InferenceClient(model=f"{url}/models/other").text_to_image("pizza")
    for content, kind, said in (
        (b"{", "application/json", "not valid JSON"),
        (b"{}", "application/json", "inputs: field required"),
        (b"x", "text/plain", "Content-Type"),
    ):
        answer = httpx2.post(url, content=content, headers={"content-type": kind})
        assert (answer.status_code, list(answer.json())) == (400, ["error"])
        assert said in answer.json()["error"]


def test_a_key() -> None:
    with listening(access=Access(keys=("secret",))) as (url, _):
        assert InferenceClient(base_url=url, api_key="secret").text_to_image("pizza").size == (64, 64)
        with pytest.raises(HfHubHTTPError, match="401"):
            InferenceClient(base_url=url, api_key="wrong").text_to_image("pizza")
