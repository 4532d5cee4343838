"""Rooms are loaded when they are first wanted, also by somebody who goes back and forth, and by one whose server is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.browser.stage import Studio, free_port, serving, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
APPLE, OWL = "a red apple on a blue background", "an owl on a yellow background"
AWAY = "This room is not here yet"


@pytest.fixture
def alone(browser: Any) -> Iterator[Studio]:
    """A studio whose server is the test's affair."""
    context = browser.new_context(reduced_motion="reduce")
    yield Studio(context.new_page(), "")
    context.close()


def test_a_room_that_was_left_while_it_was_loaded_and_wanted_again_is_built_once(studio: Studio) -> None:
    sent: list[Any] = []
    held: list[Any] = []
    page = studio.page
    page.on("websocket", lambda socket: socket.on("framesent", lambda message: sent.append(message)))
    page.route("**/canvas-room.js", lambda route: held.append(route))
    studio.open()
    studio.write(APPLE)
    page.get_by_role("link", name="Canvas").click()
    until(lambda: page.wait_for_timeout(10) or held)
    page.go_back()
    page.go_forward()
    held[0].continue_()
    until(lambda: page.locator("#result").get_attribute("data-final") == "true")
    page.get_by_role("link", name="Create").click()
    sent.clear()
    studio.write(OWL)
    page.wait_for_timeout(500)
    assert sent and not [message for message in sent if isinstance(message, bytes) or '"image"' in message], "nobody is at the canvas any more"


def test_a_room_that_did_not_come_says_so_and_comes_when_it_is_chosen_again(studio: Studio) -> None:
    studio.open()
    studio.page.route("**/canvas-room.js", lambda route: route.abort())
    canvas = studio.page.get_by_role("link", name="Canvas")
    canvas.click()
    studio.page.get_by_text(AWAY).wait_for()
    studio.page.unroute("**/canvas-room.js")
    canvas.click()
    studio.page.locator("#board").wait_for()
    assert not studio.page.get_by_text(AWAY).count()


def test_a_batch_goes_on_when_its_server_is_started_anew(alone: Studio) -> None:
    """What is under way is asked for again; what was stopped or refused can be made later, with the seeds that it would have had."""
    studio, port = alone, free_port()
    page, seen, hold = studio.page, list[str](), [True]

    def refuse(route: Any) -> None:
        seen.append(route.request.post_data)
        if hold[0] and "penguin" in seen[-1]:
            route.fulfill(status=400, content_type="application/json", body='{"error": {"code": "bad", "message": "no penguins today"}}')
        else:
            route.continue_()

    with serving(port=port) as studio.url:
        studio.open("batch")
        page.locator("#batch-text").fill("\n".join([APPLE, OWL, "a penguin on a white background"]))
        page.locator("#batch-count").fill("4")
        page.route("**/v1/generate", refuse)
    page.get_by_role("button", name="Make 12 pictures").click()
    page.get_by_text("The server does not answer. Trying again").first.wait_for()
    assert page.locator("#batch-cells img").count() == 0
    with serving(port=port):
        page.get_by_text("8 pictures in").wait_for()
        assert page.get_by_text("4 failed").count() == 1
        assert page.locator("#batch-cells figcaption").count() == 4
        hold[0] = False
        page.get_by_role("button", name="Make the other 4").click()
        page.get_by_text("12 pictures in").wait_for()
        assert page.locator("#batch-cells img").count() == 12
        assert page.locator("#batch-cells figcaption").count() == 0
        assert not page.get_by_role("button", name="Make the other").is_visible()
        seeds = {sorted(json.loads(sent)["seed"] for sent in seen if subject in sent)[0] for subject in ("apple", "owl", "penguin")}
        assert len(seeds) == 1, "each prompt has the same seeds, the first of which is the batch's"


def test_a_comparison_that_was_begun_while_the_server_was_away_is_made_when_it_is_back(alone: Studio) -> None:
    studio, port = alone, free_port()
    with serving(port=port) as studio.url:
        studio.open()
        studio.write(APPLE)
        studio.finished(APPLE)
    studio.keys("c")
    studio.page.get_by_text("The server does not answer. Trying again").first.wait_for()
    with serving(port=port):
        studio.page.get_by_text("as fast").wait_for()
        assert [side.get_attribute("data-prompt") for side in studio.page.locator(".side canvas").all()] == [APPLE, APPLE]


def test_a_room_that_was_opened_while_the_server_was_away_comes_with_it(alone: Studio) -> None:
    studio, port = alone, free_port()
    with serving(port=port) as studio.url:
        studio.open()
    studio.page.get_by_role("link", name="Batch").click()
    studio.page.get_by_text(AWAY).wait_for()
    with serving(port=port):
        studio.page.locator("#batch-text").wait_for()
        assert not studio.page.get_by_text(AWAY).count()
    assert not studio.complaints
