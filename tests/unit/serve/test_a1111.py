"""The client of AUTOMATIC1111's API that people use, against a running server."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import webuiapi
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.unit.serve.fake import PATIENCE, FakeEngine
from tests.unit.serve.listening import listening, png

from fewstep.engine.source import LONGEST_TEXTS
from fewstep.serve.guard import Access

KEYED = Access(keys=("secret",))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening() as (url, _):
        yield url


@pytest.fixture(scope="module")
def api(url: str) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1")


def test_a_stock_request_is_answered_with_the_nearest(api: webuiapi.WebUIApi) -> None:
    made = api.txt2img(prompt="pizza", negative_prompt="ugly", seed=1003, batch_size=2, n_iter=2)
    assert [image.size for image in made.images] == [(64, 64)] * 4
    assert (made.info["all_seeds"], made.info["steps"], made.info["sampler_name"], made.info["cfg_scale"]) == ([1003, 1004, 1005, 1006], 8, "Euler", 1.0)
    assert made.info["extra_generation_params"] == {
        "Asked steps": 20,
        "Asked size": "512x512",
        "Asked guidance_scale": 7.0,
        "Asked sampler": "Euler a",
    }
    assert made.info["all_negative_prompts"] == ["ugly"] * 4
    assert (made.parameters["steps"], made.parameters["sampler_name"]) == (20, "Euler a"), "what was asked for comes back"
    assert made.info["infotexts"][1] == made.images[1].info["parameters"]
    assert made.info["infotexts"][1].startswith("pizza\nNegative prompt: ugly\nSteps: 8, Sampler: Euler, Schedule type: SGM Uniform")


def test_seeds_of_minus_one_are_random(api: webuiapi.WebUIApi) -> None:
    assert api.txt2img(prompt="pizza").info["seed"] != api.txt2img(prompt="pizza").info["seed"]


def test_tiling_makes_tiles(api: webuiapi.WebUIApi) -> None:
    assert "Tiling: True" in api.txt2img(prompt="pizza", tiling=True).info["infotexts"][0]
    assert "Tiling" not in api.txt2img(prompt="pizza", tiling=False).info["infotexts"][0]


def test_a_subseed_is_a_variation_seed(api: webuiapi.WebUIApi) -> None:
    made = api.txt2img(prompt="pizza", seed=7, subseed=20, subseed_strength=0.25, batch_size=3)
    info = made.info
    assert (info["all_seeds"], info["all_subseeds"], info["subseed_strength"]) == ([7, 7, 7], [20, 21, 22], 0.25)
    assert "Variation seed: 21, Variation seed strength: 0.25" in info["infotexts"][1]
    plain = api.txt2img(prompt="pizza", seed=7, subseed=20, subseed_strength=0, batch_size=2).info
    assert (plain["all_seeds"], plain["all_subseeds"], plain["subseed_strength"]) == ([7, 8], [-1, -1], 0)
    assert api.txt2img(prompt="pizza", subseed=-1, subseed_strength=1).info["subseed"] >= 0


def test_what_clients_ask_when_they_connect(api: webuiapi.WebUIApi) -> None:
    assert api.get_options()["sd_model_checkpoint"] == api.util_get_current_model() == "fake"
    assert api.util_get_model_names() == ["fake"]
    assert api.util_get_sampler_names() == ["Euler"]
    assert api.util_get_scheduler_names() == ["sgm_uniform"]
    assert api.get_upscalers()[0]["name"] == "None"
    empty = (api.get_loras, api.get_sd_vae, api.get_hypernetworks, api.get_face_restorers, api.get_prompt_styles, api.get_latent_upscale_modes)
    assert all(ask() == [] for ask in empty)
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_cmd_flags() == {}
    assert set(api.get_memory()) == {"ram", "cuda"}
    assert api.refresh_checkpoints() is None


def test_options_are_taken_whole_as_open_webui_sends_them(api: webuiapi.WebUIApi, url: str) -> None:
    options = api.get_options()
    assert api.set_options({**options, "sd_model_checkpoint": "fake.safetensors [0123456789]", "other": [1]}) is None
    api.util_set_model("fake")
    answer = httpx2.post(f"{url}/sdapi/v1/options", json={"sd_model_checkpoint": "other"}, headers={"authorization": ""})
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no such model here: give fake")


def test_img2img_begins_from_an_image(api: webuiapi.WebUIApi) -> None:
    image, mask = Image.new("RGB", (80, 60), "red"), Image.new("L", (80, 60), 255)
    for more in ({}, {"mask_image": mask}, {"mask_image": mask.resize((40, 30)), "inpainting_mask_invert": 1}):
        made = api.img2img(images=[image], prompt="pizza", denoising_strength=0.5, seed=5, **more)
        assert (made.image.size, made.info["seed"], made.info["steps"]) == ((64, 64), 5, 8)
        assert (made.parameters["init_images"], made.parameters["mask"]) == (None, None)
    with pytest.raises(RuntimeError, match="Init image not found"):
        api.img2img(prompt="pizza")


def test_how_much_is_made_anew_where_a_client_does_not_say_is_a1111s(url: str) -> None:
    image = base64.b64encode(png()).decode()

    def strength(**more: Any) -> tuple[float, str]:
        answer = httpx2.post(f"{url}/sdapi/v1/img2img", json={"init_images": [image], "prompt": "pizza", "steps": 8, **more})
        return json.loads(answer.json()["info"])["denoising_strength"], answer.headers.get("x-fewstep-changed", "")

    assert strength() == strength(denoising_strength=None) == strength(denoising_strength=0.75) == (0.75, "")
    assert strength(mask=image) == (1.0, "")


def test_png_info_reads_what_a_picture_says(api: webuiapi.WebUIApi, url: str) -> None:
    made = api.txt2img(prompt="pizza, with\ncheese", seed=3, steps=4)
    told = httpx2.post(f"{url}/sdapi/v1/png-info", json={"image": made.json["images"][0]}).json()
    assert told["info"] == made.info["infotexts"][0]
    assert told["items"]["parameters"] == told["info"]
    assert {"Prompt": "pizza, with\ncheese", "Seed": "3", "Steps": "4", "Size": "64x64"}.items() <= told["parameters"].items()
    for kind in ("jpeg", "webp"):
        made_otherwise = httpx2.post(f"{url}/v1/generate", json={"prompt": "pizza", "format": kind, "seed": 3}).content
        told = httpx2.post(f"{url}/sdapi/v1/png-info", json={"image": base64.b64encode(made_otherwise).decode()}).json()
        assert told["info"].startswith("pizza\nSteps: 4")
    assert api.png_info(Image.new("RGB", (8, 8))).info == ""


def test_progress_and_interrupt_are_the_clients_own() -> None:
    engine = FakeEngine(held=True)
    with listening(engine) as (url, scheduler):
        api = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1")
        assert api.get_progress()["state"]["job_count"] == api.get_progress()["progress"] == 0
        made: list[Any] = []
        thread = threading.Thread(target=lambda: made.append(api.txt2img(prompt="pizza", batch_size=3, seed=1)))
        thread.start()
        engine._reached.get(timeout=PATIENCE)
        first = httpx2.get(f"{url}/sdapi/v1/progress", params={"skip_current_image": True}).json()
        assert (first["state"]["job_count"], first["state"]["sampling_steps"], first["current_image"]) == (3, 8, None)
        api.get_progress()  # from here on there are previews
        engine.go()
        engine._reached.get(timeout=PATIENCE)
        engine.go()
        engine._reached.get(timeout=PATIENCE)
        second = until_preview(api)
        assert 0 < second["progress"] < 1
        assert base64.b64decode(second["current_image"]).startswith(b"\xff\xd8\xff")
        assert api.interrupt() == {}
        engine.go()
        thread.join(PATIENCE)
        assert (made[0].images, made[0].info["all_seeds"], scheduler.counts.cancelled) == ([], [], 3)
        assert api.get_progress()["state"]["job_count"] == 0
        assert api.skip() is None


def until_preview(api: webuiapi.WebUIApi) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        told: dict[str, Any] = api.get_progress()
        if told["current_image"]:
            return told
        time.sleep(0.01)
    raise AssertionError("no preview came")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("txt2img", {"steps": "many"}, 422, "steps: input should be a valid integer"),
        ("txt2img", {"steps": 0}, 400, "above 0"),
        ("txt2img", {"width": -5}, 400, "give sides"),
        ("txt2img", {"width": 0, "height": 512}, 400, "size 0x512"),
        ("txt2img", {"seed": 2**63}, 422, "seed"),
        ("txt2img", {"batch_size": 16, "n_iter": 2}, 400, "at most 16 pictures"),
        ("txt2img", {"script_name": "loopback"}, 422, "Script 'loopback' not found"),
        ("txt2img", {"alwayson_scripts": {"ADetailer": {"args": []}}}, 422, "always on script ADetailer not found"),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "other"}}, 404, "give fake"),
        ("txt2img", [], 422, "the body"),
        ("img2img", {"init_images": []}, 404, "Init image not found"),
        ("img2img", {"init_images": ["http://127.0.0.1/x.png"]}, 400, "this server fetches nothing"),
        ("img2img", {"init_images": ["file:///etc/passwd"]}, 400, "this server fetches nothing"),
        ("img2img", {"init_images": ["%%%"]}, 400, "no Base64"),
        ("img2img", {"init_images": ["data:image/png;base64,AAAA"]}, 400, "no PNG"),
        ("png-info", {"image": "AAAA"}, 400, "no PNG"),
        ("extra-single-image", {}, 404, "no such address"),
    ],
)
def test_errors_have_their_shape(url: str, path: str, body: Any, status: int, said: str) -> None:
    answer = httpx2.post(f"{url}/sdapi/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error", "detail", "body", "errors"]
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("cfg_scale", "NaN"), ("subseed_strength", "Infinity"), ("override_settings", '{"a": [1, {"b": -Infinity}]}'), ("alwayson_scripts", '{"a": NaN}')],
)
def test_a_number_that_json_does_not_have_is_refused_and_not_echoed(url: str, field: str, value: str) -> None:
    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", content=f'{{"{field}": {value}}}', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"].startswith(f"{field}: ")) == (422, True)


def test_a_small_file_with_large_texts_is_answered_small(url: str) -> None:
    texts, stream = PngInfo(), io.BytesIO()
    texts.add_text("parameters", "pizza")
    for number in range(8):
        texts.add_text(f"large {number}", "x" * 500_000, zip=True)
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=texts)
    answer = httpx2.post(f"{url}/sdapi/v1/png-info", json={"image": base64.b64encode(stream.getvalue()).decode()})
    assert (len(stream.getvalue()) < 10_000, answer.json()["info"], len(answer.content) < 2 * LONGEST_TEXTS) == (True, "pizza", True)


def test_nulls_and_strangers_are_passed_over(url: str) -> None:
    nothing = dict.fromkeys(("prompt", "seed", "steps", "cfg_scale", "width", "height", "sampler_name", "override_settings", "alwayson_scripts", "send_images"))
    answer = httpx2.post(f"{url}/sdapi/v1/txt2img", json={**nothing, "enable_hr": False, "s_tmax": 1e9, "what": {"ever": [None]}}).json()
    assert json.loads(answer["info"])["steps"] == 4
    assert len(answer["images"]) == 1
    assert httpx2.post(f"{url}/sdapi/v1/txt2img", json={"send_images": False}).json()["images"] == []


def test_a_key_is_the_password_of_any_user() -> None:
    with listening(access=KEYED) as (url, _):
        api = webuiapi.WebUIApi(baseurl=f"{url}/sdapi/v1", username="me", password="secret")
        assert len(api.txt2img(prompt="pizza").images) == 1
        api.set_auth("me", "wrong")
        answer = api.session.get(f"{url}/sdapi/v1/options")
        assert (answer.status_code, answer.json()["error"]) == (401, "HTTPException")
        strange = httpx2.get(f"{url}/sdapi/v1/options", headers={"host": "evil.example"})
        assert (strange.status_code, list(strange.json())) == (421, ["error", "detail", "body", "errors"])


def test_an_image_of_a_url_scheme_in_a_mask_is_not_fetched(url: str) -> None:
    begin = base64.b64encode(png()).decode()
    answer = httpx2.post(f"{url}/sdapi/v1/img2img", json={"init_images": [begin], "mask": "https://elsewhere.example/m.png"})
    assert "the mask is an address" in answer.json()["detail"]
