"""The parts of the studio that need no person: what they compute, in a browser."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from tests.browser.stage import Studio

from fewstep.engine.checks import MOST_VARIATIONS
from fewstep.engine.files import FORMATS, picture_bytes
from fewstep.engine.record import Record

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
RECORD = Record("a fox, “quoted” {and} braced", 7, 4, 256, 192, "emoji", "0" * 12, 0.0, "0", "onnxruntime", "cpu", 1)
BYTES = "Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))"


def read(studio: Studio, content: bytes) -> Any:
    code = f"async (data) => (await import('/web/studio/png.js')).readRecord(new Blob([{BYTES}]))"
    return studio.run(code, base64.b64encode(content).decode())


def test_the_record_is_read_from_every_kind_of_file(studio: Studio) -> None:
    studio.open()
    image = Image.effect_noise((256, 192), 60).convert("RGB")
    for kind in FORMATS:
        found = read(studio, picture_bytes(image, RECORD, kind))
        assert (found["prompt"], found["seed"], found["height"]) == (RECORD.prompt, 7, 192), kind


def test_all_text_chunks_of_png_are_read(studio: Studio) -> None:
    studio.open()
    for international, compressed in ((False, False), (False, True), (True, False), (True, True)):
        texts, stream = PngImagePlugin.PngInfo(), io.BytesIO()
        said = RECORD.parameters()
        if international:
            texts.add_itxt("parameters", said, "en", "Parameter", zip=compressed)
        else:
            texts.add_text("parameters", said.replace("“", '"').replace("”", '"'), zip=compressed)
        Image.new("RGB", (9, 9)).save(stream, "PNG", pnginfo=texts)
        found = read(studio, stream.getvalue())
        assert (found["seed"], found["steps"], found["width"]) == (7, 4, 256)


def test_a_zip_is_one_that_others_open(studio: Studio) -> None:
    studio.open()
    code = """async (files) => {
        const { zip } = await import('/web/studio/zip.js');
        const blob = zip(files.map(([name, text]) => ({ name, bytes: new TextEncoder().encode(text) })));
        return btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())));
    }"""
    files = [["plain.txt", "one"], ["naïve-ü.txt", "two\n" * 50], ["empty.txt", ""]]
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(studio.run(code, files)))) as archive:
        assert archive.testzip() is None
        assert [[info.filename, archive.read(info).decode()] for info in archive.infolist()] == files


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2", [["a", "b"], ["1", "2"]]),
        ('a,b\r\n"x, y","say ""hi"""\r\n', [["a", "b"], ["x, y", 'say "hi"']]),
        ('a\tb\n1,5\t"two\nlines"', [["a", "b"], ["1,5", "two\nlines"]]),
        ('a;"b,c"\n1,5;2', [["a", "b,c"], ["1,5", "2"]]),
        ("a,b\n\n , \n1,", [["a", "b"], ["1", ""]]),
    ],
)
def test_tables_are_read(studio: Studio, text: str, rows: list[list[str]]) -> None:
    studio.open()
    assert studio.run("async (text) => (await import('/web/studio/csv.js')).parseCsv(text)", text) == rows


def test_frames_and_uploads_are_what_the_protocol_says(studio: Studio) -> None:
    studio.open()
    header = json.dumps({"generation": 3, "prompt": "é"}, ensure_ascii=False).encode()
    frame = struct.pack(">I", len(header)) + header + b"\xff\xd8\xffrest"
    code = f"""async (data) => {{
        const {{ parseFrame, packUpload }} = await import('/web/fewstep.js');
        const {{ header, image }} = parseFrame({BYTES}.buffer);
        const upload = packUpload("mask", new Uint8Array([1, 2, 3]), "m");
        return [header, image.type, image.size, [...upload]];
    }}"""
    found, kind, size, upload = studio.run(code, base64.b64encode(frame).decode())
    assert (found, kind, size) == ({"generation": 3, "prompt": "é"}, "image/jpeg", 7)
    (length,) = struct.unpack(">I", bytes(upload[:4]))
    assert json.loads(bytes(upload[4 : 4 + length])) == {"mask": "m"}
    assert upload[4 + length :] == [1, 2, 3]


def test_words_are_completed_mended_and_placed(studio: Studio) -> None:
    studio.open()
    code = """async (prompts) => {
        const { suggest, unknown, replace } = await import('/web/studio/words.js');
        const vocabulary = await (await fetch('/v1/words')).json();
        const suggested = prompts.map((prompt) => suggest(prompt, vocabulary).map((one) => one.prompt));
        return [suggested, unknown("a foxx on bleu ", vocabulary), replace("a foxx", "foxx", "fox")];
    }"""
    (hot, colours, begun), strange, mended = studio.run(code, ["a hot b", "a fox", "an owl on a bl"])
    assert hot[0] == "a hot beverage"
    assert "a fox on a purple background" in colours and "a fox on an orange background" in colours
    assert "an owl on a blue background" in begun
    assert strange == [{"word": "foxx", "near": "fox"}, {"word": "bleu", "near": "blue"}]
    assert mended == "a fox"


def test_a_prompt_of_unknown_words_is_looked_up_once(studio: Studio) -> None:
    studio.open()
    code = """async () => {
        const { unknown } = await import('/web/studio/words.js');
        const vocabulary = await (await fetch('/v1/words')).json();
        const prompt = Array.from({ length: 560 }, (_, i) => `q${(i * 7919).toString(36)}xy`).join(" ");
        return ["", " q", " qu"].map((more) => {
            const began = performance.now();
            unknown(prompt + more, vocabulary);
            return performance.now() - began;
        });
    }"""
    first, *others = studio.run(code)
    assert min(others) < first / 5, "not again with every key"


def test_a_frame_that_cannot_be_shown_is_not_the_last(studio: Studio) -> None:
    studio.open()
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    frames = []
    for generation in (1, 2):
        header = json.dumps({"generation": generation}).encode()
        frames.append(base64.b64encode(struct.pack(">I", len(header)) + header + stream.getvalue()).decode())
    code = f"""async (frames) => {{
        const {{ Live }} = await import('/web/fewstep.js');
        const seen = [];
        const live = new Live({{ onframe: ({{ header }}) => {{
            seen.push(header.generation);
            if (header.generation === 1) throw new Error("not this one");
        }} }});
        for (const data of frames) {{
            live.arrived({BYTES}.buffer);
            while (live.decoding) await new Promise((resolve) => setTimeout(resolve));
        }}
        return seen;
    }}"""
    assert studio.run(code, frames) == [1, 2]
    assert [text for text in studio.complaints if "not this one" in text]
    studio.complaints.clear()


def test_a_session_that_was_left_does_not_open_itself_again(studio: Studio) -> None:
    studio.open()
    code = """async () => {
        const { Live } = await import('/web/fewstep.js');
        const states = [];
        const live = new Live({ base: `${location.origin}/nowhere`, key: "any", onstate: ({ state }) => states.push(state) });
        const opening = live.open();
        live.close();
        await opening;
        return states;
    }"""
    assert studio.run(code) == ["connecting", "closed"]


ODD = {"prompt": "x", "seed": 7, "steps": "2", "width": "a", "height": {}, "blend": 5, "blend_weight": [], "variation": "1", "negative": 5, "loras": []}


def test_what_a_file_says_is_restored_only_where_it_can_be(studio: Studio) -> None:
    studio.open()
    model = "{ sizes: { '1:1': [256, 256], '3:4': [224, 288] }, multiple_of: 16, steps: [1, 2, 4, 8] }"
    code = f"async (record) => (await import('/web/studio/settings.js')).fromRecord(record, {model})"
    full = studio.run(
        code,
        {"prompt": "x", "seed": 7, "steps": 50, "negative": "a tree", "guidance_scale": 6.0, "loras": [["style", 1.0, "a"]], "image": "a", "transparent": True},
    )
    assert (full["settings"]["steps"], full["settings"]["avoiding"], full["settings"]["negative"]) == (8, True, "a tree")
    assert full["lost"] == ["its 50 steps, which are 8 here", "the image that it began from", "its LoRAs", "its guidance", "that its background is cut out"]
    varied = {"variation_seed": 5, "variation": 0.5, "variations": [[9, 0.25]]}
    whole = studio.run(code, {"prompt": "x", "seed": 7, "steps": 2, "width": 256, "height": 256, "blend": "y", "blend_weight": 0.25, **varied})
    good, odd = (one["settings"] for one in (whole, studio.run(code, {**ODD, "variation_seed": 5, "variations": [[5, 0.5]]})))
    assert whole["lost"] == []
    sizes = ((320, 512), (224, 288), (320, 520), (48, 64), (0, 9))
    sized = [studio.run(code, {"prompt": "x", "seed": 7, "width": width, "height": height}) for width, height in sizes]
    assert [(one["settings"]["aspect"], one["settings"]["size"]) for one in sized] == [("3:4", [320, 512]), *[("3:4", None)] * 3, ("1:1", None)]
    assert [one["lost"] for one in sized] == [[], [], ["its size of 320 × 520, which is 224 × 288 here"], ["its size of 48 × 64, which is 224 × 288 here"], []]
    assert (good["steps"], good["aspect"], good["size"], good["blend"], good["blendWeight"]) == (2, "1:1", None, "y", 0.25)
    assert good["variations"] == [[5, 0.5], [9, 0.25]]
    assert studio.run("async () => (await import('/web/studio/settings.js')).MOST_VARIATIONS") == 1 + MOST_VARIATIONS
    assert "steps" not in odd
    assert (odd["blending"], odd["blend"], odd["blendWeight"], odd["size"], odd["variations"]) == (False, "", 0.5, None, [])
