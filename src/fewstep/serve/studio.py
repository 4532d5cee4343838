"""The files of the studio, from the package. A request's path is looked up among their names, and never made into a path."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

WEB = Path(__file__).parent / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self'",
        "connect-src 'self' blob:",
        "worker-src 'self' blob:",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


def files_of(folder: Path = WEB) -> dict[str, Path]:
    """The files of the studio by their address; index.html is "/". None where there is no folder."""
    found = {f"/web/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*")) if path.suffix in TYPES and path.is_file()}
    return {"/" if address == "/web/index.html" else address: path for address, path in found.items()}


def add_studio(app: FastAPI, files: dict[str, Path]) -> None:
    """A route for each file."""
    for address, path in files.items():
        told: dict[str, Any] = {"response_class": HTMLResponse, "summary": "The studio.", "responses": {304: {"description": "It has not changed."}}}
        here: dict[str, Any] = told if address == "/" else {"include_in_schema": False}
        for method in ("GET", "HEAD"):
            app.add_api_route(address, answer(path), methods=[method], name=f"{method} {address}", response_model=None, **here)


def answer(path: Path) -> Callable[[Request], Awaitable[Response]]:
    """What answers a request for one file: the file, or that it has not changed."""

    async def send(request: Request) -> Response:
        content = path.read_bytes()
        headers = {**HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if headers["ETag"] in known:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=TYPES[path.suffix], headers=headers)

    return send
