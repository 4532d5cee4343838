"""What every route over HTTP does: settle what is asked, wait for it as long as somebody is there, and hand out the pictures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Receive

from fewstep.engine.request import Limits, Picture, RequestError, Settled
from fewstep.engine.request import Request as Wish
from fewstep.serve.orders import Closed, Order, Refused, Update
from fewstep.serve.wire import error, event

MOST_STEPS = 64
MOST_PIXELS = 16  # of all pictures of a request, as a multiple of one of the model's own size
PING = 15.0  # seconds after which a stream that has nothing to say says so
NOBODY = 499  # the status of an answer that nobody reads
STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # headers of one
log = logging.getLogger("fewstep.serve")
SORRY = "something went wrong here; the server's log says what"


def settle(limits: Limits, wishes: Sequence[Wish]) -> list[Settled]:
    """What ``wishes``, of one size and step count, come to. Raises RequestError on what the model or this server does not do."""
    settled = [limits.settle(wish) for wish in wishes]
    first, native = settled[0], limits.native
    if first.steps > MOST_STEPS:
        raise RequestError(f"steps = {first.steps}: this server makes at most {MOST_STEPS}")
    if len(settled) * first.width * first.height > MOST_PIXELS * native**2:
        raise RequestError(f"{len(settled)} pictures of {first.width}x{first.height}: one request may have {MOST_PIXELS} of {native}x{native} in all")
    return settled


async def finished(order: Order, request: Request, on_update: Callable[[Update], None] = lambda update: None) -> list[Picture] | None:
    """The pictures of ``order`` by their index, as many as were finished; None if whoever asked went away first. The order is over then."""

    async def made() -> list[Picture]:
        pictures = {}
        async for update in order:
            on_update(update)
            if update.picture is not None:
                pictures[update.index] = update.picture
        return [pictures[index] for index in sorted(pictures)]

    making, leaving = asyncio.create_task(made()), asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait((making, leaving), return_when=asyncio.FIRST_COMPLETED)
        return making.result() if making.done() else None
    finally:
        making.cancel()
        leaving.cancel()
        order.cancel()


async def events(order: Order, say: Callable[[Update], Awaitable[bytes | None]], last: bytes | None = None) -> AsyncIterator[bytes]:
    """``order`` as server-sent events: what ``say`` makes of each update, and ``last``; or an error. Whoever stops reading stops the work."""
    try:
        while True:
            try:
                async with asyncio.timeout(PING):
                    update = await anext(order, None)
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            if update is None:
                break
            if (said := await say(update)) is not None:
                yield said
        if last is not None:
            yield last
    except Closed as problem:
        yield event("error", error(str(problem), 503, None, "shutting_down"))
    except Refused as problem:
        yield event("error", error(str(problem), 400, "prompt", problem.code))
    except Exception:
        log.exception("a stream of events broke off")
        yield event("error", error(SORRY, 500))
    finally:
        order.cancel()


async def gone(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
