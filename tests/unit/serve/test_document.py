"""The OpenAPI document says what the server does: schemathesis asks every route, and looks whether each answer is as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from tests.unit.serve.listening import listening

from fewstep.serve import guard
from fewstep.serve.guard import Access
from fewstep.serve.rate import Rate

CONFIG = Path(__file__).with_name("schemathesis.toml")
HOW = ("--phases", "examples,coverage,fuzzing", "--max-examples", "4", "--seed", "1", "--no-color", "--continue-on-failure")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_answer_is_as_the_document_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="there is no schemathesis here: python -m pip install schemathesis")
    monkeypatch.setattr(guard, "WRONG_KEYS", Rate(1_000_000, 1))  # it tries many
    with listening(access=Access(keys=("key",))) as (url, scheduler):
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{url}/openapi.json"]
        done = subprocess.run([*command, "-H", "Authorization: Bearer key", *HOW], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        assert re.search(r"Operations: +(\d+) selected / \1 total", done.stdout) and "No issues found" in done.stdout, done.stdout[-3_000:]
        assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 1_000  # type: ignore[index]
        assert scheduler.queued == 0


def test_the_document_names_the_routes_that_need_no_key() -> None:
    with listening(access=Access(keys=("key",))) as (url, _):
        told = httpx2.get(f"{url}/openapi.json", headers={"Authorization": "Bearer key"}).json()
        for path, methods in told["paths"].items():
            for method, operation in methods.items():
                if method == "get" and "/out/" not in path:
                    status = httpx2.get(url + path.replace("{name}", "fake")).status_code
                    assert (status == 401) == ("security" in operation), path
    with listening() as (url, _):
        assert "security" not in httpx2.get(f"{url}/openapi.json").text


def test_an_address_names_all_of_its_methods_when_it_is_asked_for_another() -> None:
    with listening() as (url, _):
        for path, methods in (("/sdapi/v1/options", "GET, POST"), ("/", "GET, HEAD, POST"), ("/v1/generate", "POST"), ("/v1/models/fake", "GET")):
            answer = httpx2.delete(url + path)
            assert (answer.status_code, answer.headers["allow"]) == (405, methods)
