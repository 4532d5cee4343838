"""Errors in the shape that each API's clients read, and how much each route takes: both go by the path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from starlette.types import Scope

from fewstep.serve.wire import LARGEST_BODY, LARGEST_UPLOAD, error

A1111, HUGGING_FACE = "/sdapi/v1/", "/models/"
SECRET = ("/out/", "/v1/pictures/")  # what follows is a name that nobody can guess: it lets in, and it is not logged
UPLOADS = ("/v1/generate", "/v1/images/edits", f"{A1111}txt2img", f"{A1111}img2img", f"{A1111}png-info", "/")  # paths of bodies that may hold pictures


def api_of(scope: Scope) -> str:
    """Whose shape an answer has: "a1111", "huggingface" or "openai", which is the native one too."""
    path = str(scope["path"])
    if path.startswith(A1111):
        return "a1111"
    return "huggingface" if path.startswith(HUGGING_FACE) or (path == "/" and scope.get("method") == "POST") else "openai"


def limit_of(path: str) -> int:
    """Bytes that a request to ``path`` may have."""
    return LARGEST_UPLOAD if path in UPLOADS or path.startswith(HUGGING_FACE) else LARGEST_BODY


def too_large(path: str) -> str:
    """What is said of more."""
    return f"the body is too large: a request to this address has at most {limit_of(path)} bytes"


def refuse_to(scope: Scope, status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer to the request of ``scope``. Only ASCII, for what was given and is quoted need not be valid Unicode."""
    api, content = api_of(scope), dict[str, Any]()
    if api == "a1111":
        content = {"error": "HTTPException", "detail": message, "body": "", "errors": ""}
    elif api == "huggingface":
        content = {"error": message}
    else:
        content = error(message, status, param, code)
        if status >= 500 and status != 503:
            headers = {**(headers or {}), "x-should-retry": "false"}  # the same request would fail again
    return Response(json.dumps(content), status, headers, media_type="application/json")
