"""What a weights file says of itself survives the file, and a wrong step count is refused in a useful sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.schedule import start_scale, trailing_timesteps
from fewstep.stamp import KEY, KINDS, Stamp, StepMismatch, entrance, file_hash, strength_of
from fewstep.zoo.known import KNOWN

STAMPS = st.builds(
    lambda kind, steps, prediction, fresh, guidance, texts, phases, pictures: Stamp(
        kind=kind,
        steps=steps,
        prediction_type=prediction,
        fresh=fresh,
        guidance_scale=guidance,
        base=texts[0],
        recipe=texts[1],
        stage=texts[2],
        phases=tuple(phases),
        pictures=pictures,
    ),
    st.sampled_from(KINDS),
    st.integers(1, 64),
    st.sampled_from(("epsilon", "sample", "v_prediction")),
    st.floats(0, 1),
    st.floats(0, 20),
    st.tuples(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12)),
    st.lists(st.text(max_size=12), max_size=3),
    st.integers(0, 10**12),
)


@given(STAMPS)
def test_metadata_round_trip(stamp: Stamp) -> None:
    metadata = stamp.to_metadata()
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items())  # all that safetensors allows
    assert Stamp.from_metadata(metadata) == stamp


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    stamp = Stamp(kind="lora", steps=4, base="0123456789ab", alpha=8.0, phases=("lora conditional", "lora unconditional"), pictures=16000)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata=stamp.to_metadata())
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert Stamp.from_metadata(file.metadata()) == stamp


def test_defaults_follow_the_schedule() -> None:
    stamp = Stamp(kind="unet", steps=4)
    assert stamp.timesteps == tuple(trailing_timesteps(4)) == (999, 749, 499, 249)
    assert stamp.start_scale == start_scale()
    assert stamp.fresh == 0 and stamp.guidance_scale == 0


ROWS = [one.row for known in KNOWN.values() for one in known.weights] + [row for known in KNOWN.values() for row in (known.rows or {}).values()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.steps}-{row.timesteps[-1]}")
def test_the_row_of_every_family_fits_a_stamp(row: Stamp) -> None:
    assert Stamp.from_metadata(row.to_metadata()) == row


def test_a_walk_from_the_middle_is_the_end_of_the_whole_one() -> None:
    """Latents at the level of the next evaluation stand in for the noise: they are not scaled, and what is drawn anew is not shifted."""
    stamp = Stamp(kind="unet", steps=4, fresh=(0.9, 0.8, 0.7, 0.0), start_scale=0.5, end=0, boundary=10.0)
    whole, rest = stamp.walk(), stamp.walk(2)
    assert rest["times"] == whole["times"][2:] == [(499, 249), (249, 0)]
    assert rest["fresh"] == (0.7, 0.0) and (whole["start_scale"], rest["start_scale"]) == (0.5, 1.0)
    assert {key: whole[key] for key in ("prediction_type", "boundary")} == {key: rest[key] for key in ("prediction_type", "boundary")}


def test_walks_go_by_the_names_that_other_tools_have() -> None:
    names = {(name, one.row.kind, one.row.steps): one.row.sampler for name, known in KNOWN.items() for one in known.weights}
    assert names["sdxl-lightning", "unet", 1] == names["sdxl-lightning-lora", "lora", 4] == "Euler"
    assert names["hyper-sd", "lora", 4] == "DDIM" and names["hyper-sd", "lora", 1] == "TCD"
    assert names["hyper-sd", "unet", 1] == names["dmd2", "unet", 4] == names["lcm-lora", "lora", 5] == "LCM"
    assert {row.sampler for row in (KNOWN["sdxl-turbo"].rows or {}).values()} == {"Euler a"}


def test_a_teachers_grid_follows_its_spacing() -> None:
    teacher = Stamp(kind="teacher", steps=50, spacing="leading")
    assert teacher.timesteps[:2] == (981, 961) and teacher.timesteps[-1] == 1
    fewer = dataclasses.replace(teacher, steps=25, timesteps=())
    assert fewer.timesteps[:2] == (961, 921) and fewer.timesteps[-1] == 1


def test_a_link_in_the_hubs_cache_is_hashed_by_its_name(tmp_path: Path) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / digest).write_bytes(content)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / digest)
    assert file_hash(tmp_path / "model.safetensors") == file_hash(tmp_path / digest) == digest[:12]
    (tmp_path / "short").write_bytes(content)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "short")
    assert file_hash(tmp_path / "link.safetensors") == digest[:12]


@pytest.mark.parametrize("kind", ["unet", "lora"])
def test_another_step_count_is_refused_and_the_flag_named(kind: str) -> None:
    stamp = Stamp(kind=kind, steps=4)  # type: ignore[arg-type]
    stamp.check(4)
    with pytest.raises(StepMismatch) as caught:
        stamp.check(2, "students/4.safetensors")
    message = str(caught.value)
    assert message.startswith("students/4.safetensors") and "for 4 steps" in message and "asked for 2" in message and "--steps 4" in message


def test_a_teacher_takes_any_step_count() -> None:
    for steps in (1, 8, 32, 50):
        Stamp(kind="teacher", steps=32).check(steps)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"modelspec.title": "something else"}])
def test_files_without_a_stamp_have_none(metadata: dict[str, str] | None) -> None:
    assert Stamp.from_metadata(metadata) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "3",
        "[]",
        '"teacher"',
        "{}",
        '{"kind": "teacher"}',
        '{"steps": 4}',
        '{"kind": "pickle", "steps": 4}',
        '{"kind": "unet", "steps": "four"}',
        '{"kind": "unet", "steps": 0}',
        '{"kind": "unet", "steps": true}',
        '{"kind": "unet", "steps": 4, "timesteps": [999]}',
        '{"kind": "unet", "steps": 1, "timesteps": [5000]}',
        '{"kind": "unet", "steps": 1, "timesteps": ["999"]}',
        '{"kind": "unet", "steps": 2, "timesteps": [499, 999]}',
        '{"kind": "unet", "steps": 4, "prediction_type": "noise"}',
        '{"kind": "unet", "steps": 4, "start_scale": NaN}',
        '{"kind": "unet", "steps": 4, "start_scale": "1"}',
        '{"kind": "unet", "steps": 4, "fresh": 2}',
        '{"kind": "unet", "steps": 2, "fresh": [0.5]}',
        '{"kind": "unet", "steps": 2, "fresh": [2, 0]}',
        '{"kind": "unet", "steps": 1, "fresh": ["all"]}',
        '{"kind": "unet", "steps": 1, "end": 999}',
        '{"kind": "unet", "steps": 1, "end": -2}',
        '{"kind": "unet", "steps": 1, "boundary": -1}',
        '{"kind": "unet", "steps": 1, "spacing": "linspace"}',
        '{"kind": "lora", "steps": 4, "alpha": null}',
    ],
)
def test_garbage_is_a_value_error_and_no_other(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Stamp.from_metadata({KEY: text})


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        Stamp.from_metadata({KEY: text})
    except ValueError as error:
        assert "cannot be read" in str(error)


def test_a_newer_stamp_still_reads() -> None:
    """A field that a later version adds is passed over."""
    record = {**dataclasses.asdict(Stamp(kind="unet", steps=2)), "colour": "blue"}
    assert Stamp.from_metadata({KEY: json.dumps(record)}) == Stamp(kind="unet", steps=2)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="none of teacher, unet, lora"):
        Stamp(kind="checkpoint", steps=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 steps, but 3 timesteps"):
        Stamp(kind="unet", steps=2, timesteps=(999, 499, 249))


def test_file_hash(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # longer than one chunk
    (tmp_path / "f").write_bytes(content)
    assert file_hash(tmp_path / "f") == hashlib.sha256(content).hexdigest()[:12]


def test_a_field_that_came_later_does_not_change_files_that_do_not_need_it() -> None:
    """LoRAs know their base by its file's hash."""
    old, new = Stamp("teacher", 32).to_metadata(), Stamp("unet", 4, anywhere=True)
    assert "anywhere" not in old[KEY]
    assert Stamp.from_metadata(old) == Stamp("teacher", 32)
    assert Stamp.from_metadata(new.to_metadata()) == new


def test_a_walk_from_anywhere_is_in_the_students_strides() -> None:
    assert [entrance(strength, steps) for strength, steps in ((0.3, 4), (0.5, 4), (0.51, 4), (1.0, 4), (0.0, 2))] == [
        (2, 299),
        (2, 499),
        (2, 509),
        None,
        (1, 0),
    ]
    assert Stamp("unet", 4).walk(2, 299)["times"] == [(299, 49), (49, -1)]
    assert (strength_of(299), strength_of(999)) == (0.3, 1.0)
