"""A server on a port of its own, in a thread, for clients that open connections themselves."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image
from tests.unit.serve.fake import PATIENCE, FakeEngine

from fewstep.serve.app import open_app
from fewstep.serve.checker import Checker
from fewstep.serve.guard import Access
from fewstep.serve.patience import Impatient
from fewstep.serve.run import bind, url
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.wire import LARGEST_UPLOAD


@contextmanager
def listening(engine: Any = None, access: Access | None = None, checker: Checker | None = None) -> Iterator[tuple[str, Scheduler]]:
    """The address of a server that is ready, and its scheduler."""
    engine = engine or FakeEngine()
    app, scheduler = open_app(engine, ("full", "tiny"), access or Access(), checker)
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(app, http=Impatient, log_config=None, access_log=False, ws_max_size=LARGEST_UPLOAD, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not scheduler.ready.is_set():
            assert time.monotonic() < deadline and thread.is_alive()
            time.sleep(0.005)
        yield url(listener), scheduler
    finally:
        engine.release()
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
        assert not thread.is_alive()


def png(size: tuple[int, int] = (64, 64), colour: Any = (200, 30, 30), mode: str = "RGB") -> bytes:
    """A picture to begin from."""
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()
