"""OpenAI's own client against a running server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image
from tests.unit.serve.fake import FakeEngine
from tests.unit.serve.listening import listening, png

from fewstep.serve.checker import Checker
from fewstep.serve.guard import Access


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with listening(access=Access(keys=("secret",))) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client:
        yield client


def opened(content: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content or "")))


def test_a_stock_request_is_answered_with_the_nearest(client: openai.OpenAI) -> None:
    made = client.images.generate(model="gpt-image-1", prompt="pizza", n=3, size="1536x1024", quality="high", extra_body={"seed": 7, "guidance_scale": 7})
    assert [opened(one.b64_json).size for one in made.data or []] == [(80, 64)] * 3
    assert (made.size, made.quality, made.output_format, made.background) == ("80x64", "high", "png", "opaque")
    assert [one.seed for one in made.data] == [7, 8, 9]  # type: ignore[union-attr,attr-defined]
    told = made.fewstep  # type: ignore[attr-defined]
    assert (told["steps"], told["changed"]["guidance_scale"]) == (8, {"asked": 7, "used": 1})
    assert told["changed"]["size"] == {"asked": "1536x1024", "used": "80x64"}


@pytest.mark.parametrize(("asked", "used"), [({"steps": 2}, 2), ({"num_inference_steps": 50}, 8), ({}, 4), ({"steps": None}, 4)])
def test_steps_are_an_extra(client: openai.OpenAI, asked: dict[str, int], used: int) -> None:
    raw = client.images.with_raw_response.generate(prompt="pizza", extra_body={"seed": 7, **asked})
    assert (raw.headers["x-fewstep-steps"], raw.headers["x-fewstep-seed"]) == (str(used), "7")
    assert ("steps=50 used 8" in raw.headers.get("x-fewstep-changed", "")) == (asked == {"num_inference_steps": 50})


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(client: openai.OpenAI, kind: Any) -> None:
    more: dict[str, Any] = {} if kind == "png" else {"output_compression": 20}
    made = client.images.generate(prompt="pizza", output_format=kind, **more)
    assert opened(made.data[0].b64_json).format == kind.upper()  # type: ignore[index]
    assert made.output_format == kind


def test_compression_makes_files_smaller(client: openai.OpenAI) -> None:
    sizes = []
    for quality in (5, 100):
        made = client.images.generate(prompt="pizza", output_format="jpeg", output_compression=quality, size="64x64")
        sizes.append(len(opened(made.data[0].b64_json).quantization[0]) and sum(opened(made.data[0].b64_json).quantization[0]))  # type: ignore[index,attr-defined]
    assert sizes[0] > sizes[1], "coarser quantisation"


def test_urls_are_served_from_memory_to_whoever_knows_them(client: openai.OpenAI) -> None:
    made = client.images.generate(prompt="pizza", n=2, response_format="url", output_format="webp")
    urls = [one.url or "" for one in made.data or []]
    assert len(set(urls)) == 2 and all(one.b64_json is None for one in made.data or [])
    answer = httpx2.get(urls[0])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    other = httpx2.get(urls[0][:-8] + "xxx.webp")
    assert (other.status_code, other.json()["error"]["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize(("steps", "partial", "sent"), [(8, 3, 3), (8, 0, 0), (4, 2, 2), (1, 3, 0)])
def test_streams_bring_partial_images_and_then_the_picture(steps: int, partial: int, sent: int) -> None:
    """Each step waits for the client, as it does on a machine where steps take time."""
    engine = FakeEngine(held=True)
    with listening(engine) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        told = []
        stream = client.images.generate(prompt="pizza", stream=True, partial_images=partial, extra_body={"steps": steps, "seed": 7})
        import threading
        import time

        def step() -> None:
            for _ in range(steps):
                engine._reached.get(timeout=20)
                time.sleep(0.02)
                engine.go()

        thread = threading.Thread(target=step)
        thread.start()
        for event in stream:
            told.append(event)
        thread.join()
    assert [event.type for event in told] == ["image_generation.partial_image"] * sent + ["image_generation.completed"]
    assert [event.partial_image_index for event in told[:-1]] == list(range(sent))  # type: ignore[union-attr]
    assert all(opened(event.b64_json).size == (64, 64) for event in told)
    assert told[-1].usage.total_tokens == 0  # type: ignore[union-attr]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "fewstep"
    with pytest.raises(openai.NotFoundError, match="give fake"):
        client.models.retrieve("other")


def test_edits_begin_from_an_image(client: openai.OpenAI) -> None:
    image = ("image.png", png((80, 60)))
    mask = ("mask.png", png((80, 60), (0, 0, 0, 0), "RGBA"))
    for given in ({"image": image}, {"image": [image, image]}, {"image": image, "mask": mask}):
        made = client.images.edit(prompt="pizza", n=2, extra_body={"strength": 0.5, "seed": 3}, **given)  # type: ignore[call-overload]
        assert [opened(one.b64_json).size for one in made.data] == [(80, 64)] * 2
        assert [one.seed for one in made.data] == [3, 4]
    told = [event.type for event in client.images.edit(prompt="pizza", image=image, stream=True, extra_body={"steps": 2})]
    assert told == ["image_edit.completed"]
    by_size = client.images.edit(prompt="pizza", image=image, size="512x512")
    assert by_size.size == "64x64"


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ({"n": 11}, openai.BadRequestError, "n: input should be less than or equal to 10"),
        ({"size": "huge"}, openai.BadRequestError, "WIDTHxHEIGHT"),
        ({"size": "0x64"}, openai.BadRequestError, "give sides"),
        ({"output_format": "svg"}, openai.BadRequestError, "output_format"),
        ({"background": "transparent", "output_format": "jpeg"}, openai.BadRequestError, "transparent"),
        ({"output_compression": 50}, openai.BadRequestError, "a PNG loses nothing"),
        ({"model": "other"}, openai.NotFoundError, "give fake"),
        ({"extra_body": {"steps": 0}}, openai.BadRequestError, "above 0"),
        ({"extra_body": {"seed": -1}}, openai.BadRequestError, "seed"),
        ({"extra_body": {"steps": 1.5}}, openai.BadRequestError, "steps"),
        ({"prompt": "x" * 5000}, openai.BadRequestError, "at most 4000"),
        ({"stream": True, "response_format": "url"}, openai.BadRequestError, "a stream brings"),
    ],
)
def test_what_cannot_be_had_is_their_error(client: openai.OpenAI, asked: dict[str, Any], kind: type[openai.APIStatusError], said: str) -> None:
    with pytest.raises(kind, match=said) as raised:
        client.images.generate(**{"prompt": "pizza", **asked})
    assert raised.value.body["type"] == "invalid_request_error"  # type: ignore[index]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": ("a.png", b"nothing")}, "the image is no PNG"),
        ({"image": ("a.png", png()[:-30])}, "damaged"),
        ({"image": ("a.png", png()), "mask": ("m.png", png())}, "nowhere transparent"),
        ({"image": ("a.png", png()), "mask": ("m.png", png((32, 32), (0, 0, 0, 0), "RGBA"))}, "give a mask of the image's size"),
    ],
)
def test_images_that_cannot_be_used(client: openai.OpenAI, given: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.images.edit(prompt="pizza", **given)


def test_an_older_models_clients_get_addresses_unless_they_say_otherwise(client: openai.OpenAI) -> None:
    for model, asked, by_url in (("dall-e-3", None, True), ("dall-e-3", "b64_json", False), ("gpt-image-1", None, False)):
        made = client.images.generate(prompt="pizza", model=model, **({"response_format": asked} if asked else {}))  # type: ignore[call-overload]
        assert (made.data[0].url is not None, made.data[0].b64_json is None) == (by_url, by_url)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("name", ["guidance_scale", "strength"])
def test_numbers_that_json_does_not_have_are_refused(client: openai.OpenAI, name: str, number: str) -> None:
    headers = {"authorization": "Bearer secret"}
    content = f'{{"prompt": "pizza", "{name}": {number}}}'
    answers = [httpx2.post(f"{client.base_url}images/generations", content=content, headers={**headers, "content-type": "application/json"})]
    answers.append(httpx2.post(f"{client.base_url}images/edits", data={"prompt": "pizza", name: number}, files={"image": png()}, headers=headers))
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_a_negative_prompt_is_used_and_has_to_be_unicode(client: openai.OpenAI) -> None:
    content, headers = b'{"prompt": "pizza", "negative_prompt": "\\ud800"}', {"authorization": "Bearer secret", "content-type": "application/json"}
    answer = httpx2.post(f"{client.base_url}images/generations", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the negative is not valid Unicode: give it in UTF-8")
    answer = httpx2.post(f"{client.base_url}images/generations", content=content.replace(b"\\ud800", b"ugly"), headers=headers)
    assert "negative_prompt" not in answer.json()["fewstep"]["changed"]
    assert "\nNegative prompt: ugly\nSteps: 4," in opened(answer.json()["data"][0]["b64_json"]).info["parameters"]


def test_a_form_that_is_none(client: openai.OpenAI) -> None:
    url, headers = f"{client.base_url}images/edits", {"authorization": "Bearer secret"}
    for kind in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x"):
        answer = httpx2.post(url, content=b'{"prompt": "x"}', headers={**headers, "content-type": kind})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_wrong_key_is_their_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").images.generate(prompt="pizza")


def test_what_the_checker_is_against_is_their_error() -> None:
    check: Checker = lambda prompt, picture: "no pizza here" if "pizza" in prompt or (picture and prompt == "hidden") else None  # noqa: E731
    with listening(checker=check) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        for prompt in ("pizza", "hidden"):
            with pytest.raises(openai.BadRequestError, match="no pizza here") as raised:
                client.images.generate(prompt=prompt)
            assert raised.value.code == "content_policy_violation"
            with pytest.raises(openai.APIError, match="no pizza here"):
                list(client.images.generate(prompt=prompt, stream=True))
        assert client.images.generate(prompt="salad").data
        assert client.images.edit(prompt="salad", image=("a.png", png())).data
