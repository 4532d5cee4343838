"""The scheduler: turns are fair, the like are made together, and nothing is computed that nobody wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.serve.fake import TIMINGS, FakeEngine, run, settled

from fewstep.engine.request import MOST_BATCH, Picture, Settled
from fewstep.serve.orders import Busy, Closed, Order, Update
from fewstep.serve.scheduler import Batch, Scheduler

Test = Callable[[FakeEngine, Scheduler], Coroutine[Any, Any, None]]


def held(test: Test, **options: Any) -> None:
    """Run ``test`` while a job of the owner "blocker" is at its only step, so that what is submitted waits."""

    async def main() -> None:
        engine = FakeEngine(held=True)
        async with Scheduler(engine, **options) as scheduler:
            try:
                scheduler.submit([settled("block")], "blocker")
                await engine.reach()
                for steps in (1, 2, 4, 8):
                    scheduler._learn((settled(steps=steps).kind, "full"), TIMINGS)  # a kind that it never made is first made alone
                await test(engine, scheduler)
            finally:
                engine.release()

    run(main())


async def pictures(order: Order) -> list[Picture]:
    return [update.picture async for update in order if update.picture]


def after_the_block(engine: FakeEngine) -> list[list[str]]:
    return [prompts for prompts, _ in engine.walks[1:]]


def test_one_eager_client_does_not_starve_ten_others() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        eager = scheduler.submit([settled("eager", seed, 2) for seed in range(30)], "eager")
        others = [scheduler.submit([settled(f"other {n}", steps=1)], f"other {n}") for n in range(10)]
        engine.release()
        await asyncio.gather(*map(pictures, [eager, *others]))
        turns = after_the_block(engine)
        assert turns[0] == ["eager"]
        assert sorted(sum(turns[1:3], [])) == sorted(f"other {n}" for n in range(10)), "ten others of a kind are two batches, and their turn is next"

    held(test)


def test_the_like_of_different_owners_are_made_together() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        orders = [scheduler.submit([settled(f"{n}")], n, decoder) for n in range(10) for decoder in ["tiny" if n % 5 == 4 else "full"]]
        orders.append(scheduler.submit([settled("wide", width=128)], "w"))
        engine.release()
        await asyncio.gather(*map(pictures, orders))
        sizes = {(len(prompts), decoder) for prompts, decoder in engine.walks[1:]}
        assert max(size for size, _ in sizes) == MOST_BATCH
        assert [prompts for prompts, decoder in engine.walks if decoder == "tiny"] == [["4", "9"]]
        assert ["wide"] in after_the_block(engine)

    held(test, most_waiting=100)


def test_a_second_look_is_not_starved_by_those_who_go_on_typing() -> None:
    """Each of 31 asks again as soon as it has its picture; the one who waits for another decoder has its turn after what waited before it."""

    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        typing = True

        async def type_on(owner: int) -> None:
            while typing:
                await pictures(scheduler.submit([settled("typed")], owner, "tiny"))

        scheduler._learn((settled().kind, "tiny"), TIMINGS)
        people = [asyncio.create_task(type_on(owner)) for owner in range(31)]
        await asyncio.sleep(0)
        paused = scheduler.submit([settled("paused")], "paused", "full")
        engine.release()
        for _ in range(5):
            assert len(await pictures(paused)) == 1
            turns = [decoder for _, decoder in engine.walks].count("tiny")
            assert turns <= 4, "31 in batches of eight"
            engine.walks.clear()
            paused = scheduler.submit([settled("paused")], "paused", "full")
        typing = False
        await asyncio.gather(*people)

    held(test)


def test_an_owner_alone_fills_the_batch_and_beside_others_gives_one() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        mine = scheduler.submit([settled("mine", seed, 4) for seed in range(9)], "me")
        other = scheduler.submit([settled("other", steps=4)], "other")
        engine.release()
        await asyncio.gather(pictures(mine), pictures(other))
        assert after_the_block(engine) == [["mine", "other"], ["mine"] * 8]

    held(test)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1, 2, 4])), min_size=1, max_size=40))
@settings(max_examples=25)
def test_turns_whatever_is_asked(asked: list[tuple[int, int]]) -> None:
    """All are made once; a batch is of one kind and of one picture an owner, or of one owner; nobody gets a second turn before who waited."""

    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        names = [f"{owner} {steps} {number}" for number, (owner, steps) in enumerate(asked)]
        orders = [scheduler.submit([settled(name, steps=steps)], owner) for name, (owner, steps) in zip(names, asked, strict=True)]
        engine.release()
        await asyncio.gather(*map(pictures, orders))
        batches = after_the_block(engine)
        assert sorted(sum(batches, [])) == sorted(names)
        left = {name: name.split()[0] for name in names}
        line = list(dict.fromkeys(left.values()))
        for batch in batches:
            owners = [left[name] for name in batch]
            assert len({name.split()[1] for name in batch}) == 1
            assert len(batch) <= MOST_BATCH
            assert len(set(owners)) == len(owners) or len(set(left.values())) == 1
            assert owners[0] == line[0]
            for name in batch:
                left.pop(name)
            line = [owner for owner in [one for one in line if one not in owners] + list(dict.fromkeys(owners)) if owner in left.values()]

    held(test, most_waiting=1000)


def test_a_batch_that_should_take_too_long_is_made_smaller() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        scheduler._seconds[settled().kind, "full"] = 0.3
        order = scheduler.submit([settled("slow", seed) for seed in range(3)], "me")
        engine.go()
        await engine.reach()
        assert after_the_block(engine) == [["slow"] * 3]
        order.cancel()

    held(test)


def test_what_is_cancelled_while_it_waits_is_never_begun() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        order, other = (scheduler.submit([settled(name)], name) for name in ("no", "yes"))
        assert order.cancel()
        assert not order.cancel()
        engine.release()
        assert await pictures(order) == []
        assert len(await pictures(other)) == 1
        assert after_the_block(engine) == [["yes"]]
        assert (scheduler.counts.cancelled, scheduler.counts.done, scheduler.queued) == (1, 2, 0)

    held(test)


def test_what_is_cancelled_while_it_runs_ends_with_the_step() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        order = scheduler.submit([settled("long", steps=8)], "me")
        engine.go()
        assert await engine.reach() == (["long"], 1)
        engine.go()
        assert await engine.reach() == (["long"], 2)
        order.cancel()
        scheduler.submit([settled("next")], "you")
        engine.go()
        assert await engine.reach() == (["next"], 1)
        assert engine.abandoned == [["long"]]
        assert engine.steps == 3

    held(test)


def test_what_is_cancelled_in_the_last_step_is_not_decoded() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        order = scheduler.submit([settled("mine", steps=1)], "me")
        engine.go()
        await engine.reach()
        order.cancel()
        scheduler.submit([settled("next")], "you")
        engine.go()
        await engine.reach()
        assert (engine.decodes, engine.steps) == (1, 2)

    held(test)


def test_a_batch_goes_on_for_whoever_still_wants_it() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        gone, stays = (scheduler.submit([settled(name, steps=2)], name) for name in ("gone", "stays"))
        engine.go()
        assert await engine.reach() == (["gone", "stays"], 1)
        gone.cancel()
        engine.release()
        assert await pictures(gone) == []
        assert [made.steps for made in await pictures(stays)] == [2]
        assert engine.abandoned == []

    held(test)


def test_a_full_queue_refuses_all_of_an_order_and_says_when_to_come_back() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        scheduler.submit([settled()] * 4, "eager")
        with pytest.raises(Busy) as refused:
            scheduler.submit([settled()], "eager")
        assert refused.value.retry_after >= 1
        scheduler.submit([settled()] * 2, "other")
        with pytest.raises(Busy):
            scheduler.submit([settled()] * 3, "third")
        scheduler.submit([settled()], "third")
        assert (scheduler.queued, scheduler.running, scheduler.counts.rejected) == (7, 1, 4)

    held(test, most_waiting=8)


def test_the_queue_never_grows_past_its_bound_and_room_is_left_for_who_comes_new() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        for owner in range(3):
            for _ in range(100):
                with suppress(Busy):
                    scheduler.submit([settled()], owner)
            assert scheduler.queued < 16
        for owner in range(100, 200):
            with suppress(Busy):
                scheduler.submit([settled()], owner)
            assert scheduler.queued <= 16

    held(test, most_waiting=16)


def test_closing_ends_the_step_and_fails_the_rest() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        running, waiting = (scheduler.submit([settled(name, steps=steps)], name) for name, steps in (("running", 8), ("waiting", 2)))
        engine.go()
        assert await engine.reach() == (["running"], 1)
        closing = asyncio.create_task(scheduler.close())
        with pytest.raises(Closed):
            await pictures(waiting)
        engine.go()
        with pytest.raises(Closed):
            await pictures(running)
        await closing
        assert not scheduler.left_behind
        with pytest.raises(Closed):
            scheduler.submit([settled()], "late")
        assert engine.steps == 2
        assert engine.abandoned == [["running"]]

    held(test)


def test_closing_does_not_wait_for_a_step_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.serve.scheduler.GRACE", 0.01)

    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        order = scheduler.submit([settled("endless")], "me")
        engine.go()
        await engine.reach()
        await scheduler.close()
        assert scheduler.left_behind
        with pytest.raises(Closed):
            await pictures(order)

    held(test)


def test_a_picture_that_cannot_be_made_fails_alone() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        engine.broken = "bad"
        good, bad, fine = (scheduler.submit([settled(name)], name) for name in ("good", "bad", "fine"))
        engine.release()
        with pytest.raises(RuntimeError, match="broken"):
            await pictures(bad)
        assert len(await pictures(good)) == len(await pictures(fine)) == 1
        assert (scheduler.counts.failed, scheduler.counts.done) == (1, 3)

    held(test)


def test_who_reads_slowly_misses_steps_and_no_picture() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        order = scheduler.submit([settled("slow", steps=8)] * 2, "me", previews=True)
        engine.go()
        assert await engine.reach() == (["slow", "slow"], 1)
        scheduler.submit([settled("next", width=128)], "you")
        engine.go(8)
        while await engine.reach() != (["next"], 1):
            pass
        updates = [update async for update in order]
        assert [(update.index, update.step, update.picture is not None) for update in updates] == [(0, 8, True), (1, 8, True)]

    held(test)


def test_previews_are_made_for_those_who_asked() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        seen, blind = (scheduler.submit([settled(name, steps=4)], name, previews=name == "seen") for name in ("seen", "blind"))
        engine.go()
        steps: list[Update] = []
        for _ in range(4):
            await engine.reach()
            engine.go()
            steps.append(await anext(seen))
        assert [(update.step, update.image is not None) for update in steps[:3]] == [(1, True), (2, True), (3, True)]
        assert len(await pictures(blind)) == 1
        assert engine.previews == 3

    held(test)


def test_an_exchanged_order_keeps_its_place() -> None:
    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        mine = scheduler.submit([settled("old", steps=2)], "me")
        scheduler.submit([settled("other", steps=1)], "other")
        assert scheduler.exchange(mine, settled("new", steps=4), "tiny", False, replaced=True)
        engine.go()
        assert await engine.reach() == (["new"], 1)
        assert not scheduler.exchange(mine, settled("late"), "tiny", False, replaced=True)
        assert (engine.walks[1], scheduler.counts.replaced) == ((["new"], "tiny"), 1)

    held(test)


def test_whoever_measures_hears_of_every_batch() -> None:
    batches: list[Batch] = []

    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        orders = [scheduler.submit([settled()], owner) for owner in "ab"]
        engine.release()
        await asyncio.gather(*map(pictures, orders))

    held(test, on_batch=batches.append)
    assert [len(batch.waits) for batch in batches] == [1, 2]
    assert all(batch.timings == TIMINGS and min(batch.waits) >= 0 for batch in batches)


def test_the_best_batch_is_measured_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair is made, which begs the question; it is answered once there was nothing to do for a while, and from then on batches are of that size."""
    measured: list[int] = []

    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        monkeypatch.setattr(FakeEngine, "best_batch", lambda *_: measured.append(scheduler.queued + scheduler.running) or 2)
        engine.release()
        for _ in range(20):  # whoever asks again as soon as he has his pictures
            await pictures(scheduler.submit([settled("busy", seed) for seed in range(4)], "me"))
        assert not measured and {len(prompts) for prompts in after_the_block(engine)} == {4}
        await asyncio.sleep(5 * REST)
        assert measured == [0]
        await pictures(scheduler.submit([settled("after", seed) for seed in range(4)], "me"))
        assert after_the_block(engine)[-2:] == [["after"] * 2] * 2

    monkeypatch.setattr("fewstep.serve.scheduler.REST", REST := 0.2)
    held(test)


def test_what_cannot_be_measured_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settled] = []

    def fail(_: FakeEngine, one: Settled) -> int:
        asked.append(one)
        raise RuntimeError("no memory for it")

    async def test(engine: FakeEngine, scheduler: Scheduler) -> None:
        engine.release()
        await pictures(scheduler.submit([settled("one", seed) for seed in range(2)], "me"))
        while not asked:
            await asyncio.sleep(0.01)
        assert len(await pictures(scheduler.submit([settled("after", seed) for seed in range(MOST_BATCH)], "me"))) == MOST_BATCH
        assert after_the_block(engine)[-1] == ["after"] * MOST_BATCH and len(asked) == 1

    monkeypatch.setattr("fewstep.serve.scheduler.REST", 0.01)
    monkeypatch.setattr(FakeEngine, "best_batch", fail)
    held(test)


def test_a_model_that_cannot_be_used_is_not_ready() -> None:
    async def main() -> None:
        async with Scheduler(FakeEngine(broken="")) as scheduler:
            assert len(await pictures(scheduler.submit([settled()], "me"))) == 1
            assert not scheduler.ready.is_set()

    run(main())
