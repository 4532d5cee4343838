"""The log of a server: a line of JSON for everything that is said, with the id of the request that it is about."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

REQUEST: ContextVar[str | None] = ContextVar("request", default=None)
"""The id of the request that is answered here, which its answer has as X-Request-Id; None where there is none."""


class Lines(logging.Formatter):
    """Each record as one line: time, level and request, then its ``facts`` if it has any, else what it says; and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. Only ASCII, and whatever was quoted is one JSON text: nothing can pass for a line of its own."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "request": REQUEST.get()}
        line |= getattr(record, "facts", {"said": record.getMessage().strip()})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_in_lines() -> None:
    """Have this process log so, to standard error, from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
