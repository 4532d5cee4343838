"""A live session: the newest intent, something at all times, nothing old after something new."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.serve.fake import FakeEngine, run, settled

from fewstep.engine.request import Request, RequestError
from fewstep.serve.orders import Closed
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.session import Session, Shown

NEVER, ALWAYS = 1e9, 0.0  # of a pause that does not come, and of one that is over at once; of a hunger likewise
Test = Callable[[FakeEngine, Session], Coroutine[Any, Any, None]]


def live(test: Test, held: bool = True, pause: float = NEVER, hunger: float = NEVER, **options: Any) -> None:
    async def main() -> None:
        engine = FakeEngine(held=held)
        async with Scheduler(engine, **options) as scheduler:
            session = Session(scheduler, pause, hunger)
            try:
                await test(engine, session)
            finally:
                session.close()
                engine.release()

    run(main())


def ask(session: Session, prompt: str, steps: int = 1, previews: bool = False) -> int:
    return session.ask(Request(prompt, 1, steps, 64, 64), previews=previews)


def look(session: Session) -> asyncio.Task[Shown]:
    """The next picture, waited for beside the test."""
    return asyncio.create_task(session.__anext__())


async def first(engine: FakeEngine, session: Session) -> None:
    """Show something, so that there is a last picture shown."""
    ask(session, "first")
    shown = look(session)
    await engine.reach()
    engine.go()
    assert (await shown).generation == 1


def test_of_what_waits_only_the_newest_is_kept() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        ask(session, "running")
        shown = look(session)
        await engine.reach()
        for number in range(5):
            ask(session, f"waiting {number}")
        engine.go()
        assert (await shown).generation == 1, "nothing was shown yet, so the first is let finish"
        shown = look(session)
        assert await engine.reach() == (["waiting 4"], 1)
        engine.go()
        assert (await shown).generation == session.generation == 6
        assert session.replaced == session.scheduler.counts.replaced == 4
        assert [prompts for prompts, _ in engine.walks] == [["running"], ["waiting 4"]]

    live(test)


def test_what_runs_is_stopped_at_its_next_step_by_something_newer() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        await first(engine, session)
        ask(session, "old", steps=8)
        shown = look(session)
        assert await engine.reach() == (["old"], 1)
        engine.go()
        assert await engine.reach() == (["old"], 2)
        ask(session, "new")
        engine.go()
        assert await engine.reach() == (["new"], 1)
        engine.go()
        assert (await shown).generation == 3
        assert (engine.abandoned, session.replaced, engine.steps) == ([["old"]], 1, 4)

    live(test)


def test_something_is_shown_however_fast_the_person_types() -> None:
    """With no patience at all whatever runs is let finish; the newest comes right after it."""

    async def test(engine: FakeEngine, session: Session) -> None:
        await first(engine, session)
        for number in range(5):
            ask(session, f"old {number}", steps=4)
            shown = look(session)
            for step in range(1, 5):
                assert await engine.reach() == ([f"old {number}"], step)
                ask(session, f"lost {number}")
                engine.go()
            assert (await shown).intent.settled.prompt == f"old {number}"
        assert engine.abandoned == []

    live(test, hunger=ALWAYS)


def test_a_stop_leaves_time_for_the_newer_one_to_be_shown() -> None:
    """It is not enough that the last picture is young: the newer one must come before it is old."""

    async def test(engine: FakeEngine, session: Session) -> None:
        await first(engine, session)
        session._takes = 100.0
        ask(session, "slow")
        shown = look(session)
        await engine.reach()
        ask(session, "newer")
        engine.go()
        assert (await shown).intent.settled.prompt == "slow"

    live(test, hunger=60.0)


def test_the_full_decoder_comes_when_the_person_pauses() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        ask(session, "apple")
        looks = [await anext(session) for _ in range(2)]
        assert [(one.generation, one.decoder, one.final) for one in looks] == [(1, "tiny", False), (1, "full", True)]
        assert engine.walks == [(["apple"], "tiny"), (["apple"], "full")]

    live(test, held=False, pause=ALWAYS)


def test_a_second_look_gives_way_to_something_new() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        await first(engine, session)
        shown = look(session)
        assert await engine.reach() == (["first"], 1)
        assert engine.walks[-1] == (["first"], "full")
        ask(session, "new")
        engine.go()
        assert await engine.reach() == (["new"], 1)
        engine.go()
        assert ((await shown).generation, (await shown).decoder) == (2, "tiny")
        assert (session.replaced, session.scheduler.counts.cancelled) == (0, 1), "what it was asked for had been shown"

    live(test, pause=ALWAYS, hunger=ALWAYS)


def test_without_a_reduced_decoder_the_first_look_is_final() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        ask(session, "apple")
        shown = await anext(session)
        assert (shown.decoder, shown.final) == ("full", True)
        ask(session, "pear")
        assert (await anext(session)).generation == 2
        assert len(engine.walks) == 2

    live(test, held=False, pause=ALWAYS, decoders=("full",))


def test_steps_on_the_way_are_shown_if_asked_for() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        ask(session, "apple", steps=4, previews=True)
        seen = []
        for _ in range(4):
            shown = look(session)
            await engine.reach()
            engine.go()
            seen.append(await shown)
        assert [(one.step, one.steps, one.picture is None, one.final) for one in seen] == [(n, 4, n < 4, False) for n in range(1, 5)]
        assert set(seen[0].timings) == {"total"}
        assert set(seen[3].timings) == {"text", "denoise", "decode", "total"}

    live(test)


def test_while_others_run_a_request_is_exchanged_in_its_place() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        session.scheduler.submit([settled("other", steps=2)], "other")
        await engine.reach()
        ask(session, "one")
        shown = look(session)
        await asyncio.sleep(0)
        session.scheduler.submit([settled("behind", steps=2)], "behind")
        for number in range(3):
            ask(session, f"newer {number}")
        engine.go(2)
        await engine.reach()
        assert await engine.reach() == (["newer 2"], 1)
        engine.go()
        assert (await shown).generation == 4
        assert session.replaced == session.scheduler.counts.replaced == 3

    live(test, hunger=ALWAYS)


def test_a_full_queue_is_tried_again() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        session.scheduler.submit([settled("runs")], "other")
        await engine.reach()
        waiting = session.scheduler.submit([settled("waits", steps=2)], "other")
        ask(session, "mine")
        shown = look(session)
        await asyncio.sleep(0)
        assert session.scheduler.counts.rejected == 1
        waiting.cancel()
        engine.release()
        assert (await shown).generation == 1

    live(test, most_waiting=1)


def test_who_reads_slowly_makes_little_work() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        for number in range(100):
            ask(session, f"{number}")
            if number % 10 == 0:
                await asyncio.sleep(0)
        assert (await anext(session)).generation == 100
        assert len(engine.walks) == 1
        assert session.replaced == 99

    live(test, held=False)


def test_closing_stops_the_work_within_a_step_and_ends_the_iteration() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        ask(session, "apple", steps=8)
        shown = look(session)
        await engine.reach()
        session.close()
        with pytest.raises(StopAsyncIteration):
            await shown
        session.scheduler.submit([settled("next")], "other")
        engine.go()
        assert await engine.reach() == (["next"], 1)
        assert (engine.steps, engine.abandoned) == (1, [["apple"]])

    live(test)


def test_an_idle_session_ends_when_it_is_closed() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        shown = look(session)
        await asyncio.sleep(0)
        session.close()
        with pytest.raises(StopAsyncIteration):
            await shown

    live(test)


def test_a_session_outlives_a_picture_that_fails_and_not_its_scheduler() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        engine.broken = "bad"
        ask(session, "bad")
        with pytest.raises(RuntimeError, match="broken"):
            await anext(session)
        ask(session, "good")
        assert (await anext(session)).generation == 2
        await session.scheduler.close()
        ask(session, "late")
        with pytest.raises(Closed):
            await anext(session)

    live(test, held=False)


def test_an_older_generation_or_a_bad_request_changes_nothing() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        session.ask(Request("apple", 1, 1), generation=7)
        for generation in (7, 1):
            with pytest.raises(RequestError, match="the last was 7"):
                session.ask(Request("pear"), generation)
        with pytest.raises(RequestError, match="3 steps"):
            session.ask(Request("pear", steps=3), 8)
        assert (await anext(session)).generation == session.generation == 7

    live(test, held=False)


@given(
    st.lists(st.one_of(st.just("read"), st.just("yield"), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=40),
    st.sampled_from([ALWAYS, 0.003, NEVER]),
    st.booleans(),
)
@settings(max_examples=60)
def test_generations_never_go_down_and_the_last_request_is_always_shown(actions: list[Any], hunger: float, previews: bool) -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        ask(session, "begin")
        seen: list[Shown] = []
        unread = True
        for action in actions:
            if action == "yield":
                await asyncio.sleep(0)
            elif action == "read" and unread:
                seen.append(await anext(session))
                unread = not (seen[-1].final and seen[-1].generation == session.generation)
            elif action != "read":
                ask(session, "more", action, previews)
                unread = True
        while unread:
            seen.append(await anext(session))
            unread = not (seen[-1].final and seen[-1].generation == session.generation)
        order = [(one.generation, one.decoder == "full", one.step) for one in seen]
        assert order == sorted(order)
        assert len(set(order)) == len(order)
        assert seen[-1].generation == session.generation
        whole = {one.generation for one in seen if one.picture}
        assert len(whole) + session.replaced == session.generation, "every request was shown or counted"

    live(test, held=False, pause=ALWAYS, hunger=hunger)


def test_it_lives_apart_from_any_web_code() -> None:
    code = "import sys, fewstep.serve.session; print(sorted({'fastapi', 'starlette', 'uvicorn', 'websockets', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3] / "src", capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_who_wants_nothing_hears_too_that_the_server_leaves() -> None:
    async def test(engine: FakeEngine, session: Session) -> None:
        waits = look(session)
        await asyncio.sleep(0)
        await session.scheduler.close()
        with pytest.raises(Closed):
            await waits

    live(test)
