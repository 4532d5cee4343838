"""One call of ``fewstep serve``: load, bind, serve until a signal, leave in good order."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from fewstep.engine.engine import Engine
from fewstep.engine.request import RequestError
from fewstep.engine.words import read_words
from fewstep.serve.app import open_app
from fewstep.serve.checker import load_checker
from fewstep.serve.guard import Access
from fewstep.serve.logs import log_in_lines
from fewstep.serve.patience import Impatient, patient
from fewstep.serve.rack import Rack
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.wire import LARGEST_UPLOAD

MOST_CONNECTIONS = 512
DRAIN = 1  # seconds that answers have to be sent in after the scheduler is closed


class Server(uvicorn.Server):
    """Closes the scheduler first, so that whoever waits is answered, and then the connections."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler) -> None:
        super().__init__(config)
        self.scheduler = scheduler

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leave in good order: within five seconds whatever is going on."""
        await self.scheduler.close()
        await super().shutdown(sockets)


def run(
    port: int,
    model: str,
    access: Access,
    checker: str | None = None,
    base: str | None = None,
    few_step: str | None = None,
    lora_dir: Path | None = None,
    controlnet: str | None = None,
) -> None:
    """Serve ``model``, or ``few_step`` weights on a ``base``, with the LoRAs in ``lora_dir`` and ``controlnet`` for control images, until SIGINT or SIGTERM.

    Raises RequestError on a port, checker or folder that cannot be had, and what Engine.load raises.
    """
    rack = Rack(lora_dir)
    check = load_checker(checker) if checker is not None else None
    listener = bind(access.host, port)
    with listener:
        engine = Engine.load(model, base=base, few_step=few_step, controlnets=None if controlnet is None else [controlnet])
        app, scheduler = open_app(engine, engine.model.decoders(), access, check, read_words(engine.model.folder), rack, controlnet=controlnet)
        log_in_lines()
        config = uvicorn.Config(
            app,
            http=Impatient,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=LARGEST_UPLOAD,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=DRAIN,
            limit_concurrency=MOST_CONNECTIONS,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        server = Server(config, scheduler)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)  # before uvicorn does so itself; it raises the signal again when all is done, which ends nothing more
        print(f"{engine.limits.name} is served on {url(listener)}", flush=True)
        server.run([listener])
    if scheduler.left_behind:
        sys.stderr.flush()
        os._exit(0)  # everybody was answered, and Python would wait for the step to end


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises RequestError, saying why, where there is none."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return patient(socket.create_server((host, port), family=family, backlog=512))
    except (OSError, OverflowError) as problem:
        number = getattr(problem, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(problem, "strerror", None) or problem
        raise RequestError(f"port {port} of {host} cannot be had ({reason}): give another with --port, or another --host") from None


def url(listener: socket.socket) -> str:
    """Where a browser finds ``listener``."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
