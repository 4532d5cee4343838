"""The OpenAPI document: the framework's, with the refusals as they are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from fewstep.serve.huggingface import PARTS
from fewstep.serve.shapes import api_of

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


def describe(app: FastAPI) -> None:
    """Have ``app`` say of every route in which shape it refuses, instead of how the framework would."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(ERRORS.values(), **PARTS)
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    name, _ = ERRORS[api_of({"path": path, "method": method.upper()})]
                    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
                    operation["responses"].pop("422", None)
                    operation["responses"]["default"] = {"description": "Refused; the body says why.", "content": content}
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
