"""A picture that follows the keyboard, without a server: someone types, and what is shown is always the newest.

    python examples/live.py

Prints when each picture came and what it answers, and writes the last one to live.png.
"""

import asyncio

from fewstep import Engine, Request
from fewstep.serve.session import Session

TEXT = "a red apple on a blue background"


async def typing(session: Session) -> None:
    """Ask anew with every word, as a person would with every key."""
    words = TEXT.split()
    for count in range(2, len(words) + 1):
        session.ask(Request(" ".join(words[:count]), seed=7, steps=1))
        await asyncio.sleep(0.1)


async def main() -> None:
    """Type, and look at what comes."""
    async with Session.of(Engine.load("emoji")) as session:
        hands = asyncio.create_task(typing(session))
        async for shown in session:
            print(f"{shown.intent.settled.prompt!r}: {shown.timings['total']:.0f} ms, {shown.decoder} decoder")
            if shown.final and hands.done():
                shown.image.save("live.png")
                break


asyncio.run(main())
