"""The OpenAPI document: the framework's, with the refusals as they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI

from fewstep.serve.huggingface import PARTS
from fewstep.serve.shapes import A1111, SECRET, api_of

NULLABLE = {"anyOf": [{"type": "string"}, {"type": "null"}]}
ERRORS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (
        "Error",
        {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": NULLABLE, "code": NULLABLE},
                }
            },
        },
    ),
    "a1111": (
        "A1111Error",
        {
            "type": "object",
            "required": ["error", "detail", "body", "errors"],
            "properties": {name: {"type": "string"} for name in ("error", "detail", "body", "errors")},
        },
    ),
    "huggingface": ("HuggingFaceError", {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}),
}


SAID = {
    400: "What was asked for cannot be had; the body says what can.",
    401: "Not the key, or none.",
    403: "Pages of this origin may not ask.",
    404: "There is no such thing here.",
    408: "The rest of the body did not come.",
    413: "The body is too large.",
    421: "The Host header names another server.",
    422: "A value of the wrong kind, or a script.",
    429: "Later: the queue is full, or too much was asked, sent or guessed.",
    500: "Something went wrong here.",
    503: "The server is not ready yet, or shutting down.",
}
RETRY = {"Retry-After": {"description": "Seconds until it makes sense to try again.", "required": True, "schema": {"type": "integer", "minimum": 1}}}
KEYS: dict[str, Any] = {"key": {"type": "http", "scheme": "bearer"}, "password": {"type": "http", "scheme": "basic", "description": "The key, of any user."}}


def describe(app: FastAPI, keyed: bool, public: Collection[str]) -> None:
    """Have ``app`` say of every route how it refuses, instead of how the framework would; ``public`` are those that need no key where it is ``keyed``."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = whole(made())
            parts = document.setdefault("components", {})
            schemas = parts.setdefault("schemas", {})
            schemas.update(ERRORS.values(), **PARTS)
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            if keyed:
                parts["securitySchemes"] = KEYS
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    asks = keyed and path not in public and not path.startswith(SECRET)
                    operation["responses"].pop("422", None)
                    operation["responses"] |= {str(status): refusal(status, path, method.upper()) for status in statuses(path, method, operation, asks)}
                    if asks:
                        operation["security"] = [{name: []} for name in KEYS]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def statuses(path: str, method: str, operation: dict[str, Any], asks: bool) -> set[int]:
    """With which an operation may refuse; ``asks`` is whether for a key."""
    a1111 = path.startswith(A1111)
    found = {403, 421, 500} | ({401, 429} if asks else set())
    if method == "post":
        found |= {400, 404, 408, 413, 429, 503} | ({422} if a1111 else set())
    elif operation.get("parameters"):
        found |= {404, 422 if a1111 else 400, 429}
    return found | ({503} if path == "/readyz" else set())


def refusal(status: int, path: str, method: str) -> dict[str, Any]:
    """One of them, in the shape of its API."""
    name, _ = ERRORS[api_of({"path": path, "method": method})]
    told = {"description": SAID[status], "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}
    return told | ({"headers": RETRY} if status == 429 else {})


def whole(value: Any) -> Any:
    """``value`` with the framework's bounds as whole numbers again: as a float 2^63 is told with digits that it does not have."""
    if isinstance(value, dict):
        for key, inner in value.items():
            value[key] = whole(inner)
    elif isinstance(value, list):
        value[:] = map(whole, value)
    elif isinstance(value, float) and value.is_integer():
        return int(value)
    return value
