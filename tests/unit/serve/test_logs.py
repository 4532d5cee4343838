"""The log: a line of JSON for everything, and what goes wrong in a request stands under the id that its answer has."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import httpx2
import pytest
from tests.unit.serve.fake import FakeEngine
from tests.unit.serve.listening import listening

from fewstep.serve.logs import REQUEST, Lines


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.setFormatter(Lines())
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def test_what_goes_wrong_stands_under_the_id_of_its_answer(log: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "fewstep.serve"), listening(FakeEngine(broken="pizza")) as (url, _):
        broken, good = (httpx2.post(f"{url}/v1/generate", json={"prompt": prompt}) for prompt in ("pizza", "a pear"))
        assert (broken.status_code, good.status_code) == (500, 200)
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    ids = [answer.headers["x-request-id"] for answer in (broken, good)]
    assert {"method": "POST", "path": "/v1/generate", "status": 500}.items() <= next(line for line in lines if line.get("status") == 500).items()
    assert [line["request"] for line in lines if "status" in line] == ids
    traces = [line for line in lines if "trace" in line]
    assert traces and all(line["request"] == ids[0] and line["level"] == "error" and "RuntimeError: broken" in line["trace"] for line in traces)
    assert any(line["said"] == "a picture failed: RuntimeError" for line in traces), "it is said on the engine's thread"
    assert "pizza" not in log.getvalue() and "pear" not in log.getvalue()


def test_what_is_quoted_cannot_pass_for_a_line_of_its_own() -> None:
    record = logging.LogRecord("any", logging.WARNING, "", 0, "%s", ('x\n{"status": 200}',), None)
    (line,) = Lines().format(record).splitlines()
    told = json.loads(line)
    assert (told["said"], told["level"], told["request"]) == ('x\n{"status": 200}', "warning", REQUEST.get())
    assert told["time"].endswith("Z") and "status" not in told
