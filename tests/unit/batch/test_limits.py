"""Planning without the model: the same requests are settled as the same things, under the same keys, as an engine settles them."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.batch.fake import wanted

from fewstep.batch.expand import Wanted
from fewstep.batch.limits import limits_of
from fewstep.batch.plan import Maker
from fewstep.engine.engine import Engine
from fewstep.engine.model import open_model
from fewstep.engine.request import Request, RequestError

LONG = "a red apple, a cat face and a ghost, " * 20


def test_an_item_is_the_same_whoever_plans_it(tiny: Path) -> None:
    engine, model = Engine.load(str(tiny)), open_model(str(tiny))
    makers = [Maker(limits, cache(model.hash), "full", "png") for limits in (engine.limits, limits_of(model))]
    image = Wanted(4, 5, 6, Request("pizza", seed=1, image=Image.new("RGB", (96, 64), "red"), strength=0.5), {})
    rows = [*wanted(["pizza", LONG, "a {red|blue} ghost", "(pizza:1.4)"]), image]
    assert makers[0].item(rows[1]).settled.chunks[0] > 1, "its chunks are counted"
    for one in rows:
        by_engine, by_files = (maker.item(one) for maker in makers)
        assert (by_files.key, by_files.name, by_files.settled.kind) == (by_engine.key, by_engine.name, by_engine.settled.kind)


def test_tokenizers_that_cannot_be_read_are_a_sentence(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(RequestError, match=r"vocab\.json"):
        limits_of(open_model(str(tmp_path / "model")))
