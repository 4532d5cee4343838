"""A server that wants a key, and somebody who mistypes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.browser.stage import Studio, serving, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
KEY = "a-long-key"
KEPT = "() => sessionStorage.getItem('fewstep.key')"


@pytest.fixture(scope="module")
def keyed() -> Iterator[str]:
    with serving("--api-key", KEY) as url:
        yield url


@pytest.fixture
def locked(browser: Any, keyed: str) -> Iterator[Studio]:
    """The studio, which asks for the key."""
    context = browser.new_context(reduced_motion="reduce")
    studio = Studio(context.new_page(), keyed)
    studio.page.goto(keyed)
    studio.page.get_by_label("Key", exact=True).wait_for()
    yield studio
    context.close()
    assert not studio.complaints


def give(studio: Studio, key: str) -> None:
    studio.page.get_by_label("Key", exact=True).fill(key)
    studio.page.get_by_role("button", name="Go on").click()


def test_a_wrong_key_is_said_to_be_wrong_and_only_the_right_one_is_kept(locked: Studio) -> None:
    give(locked, "not-the-key")
    locked.page.get_by_text("That was not the key.").wait_for()
    assert locked.run(KEPT) is None
    give(locked, f" {KEY} ")
    locked.page.locator("html[data-ready]").wait_for()
    assert locked.run(KEPT) == KEY


@pytest.mark.parametrize("key", ["“a-long-key”", "sésame", "鍵"])
def test_a_key_that_no_server_has_is_refused_where_it_is_given(locked: Studio, key: str) -> None:
    give(locked, key)
    field = locked.page.get_by_label("Key", exact=True)
    assert field.evaluate("one => one.validationMessage").startswith("A key is of letters")
    assert locked.page.locator("#key").evaluate("one => one.open") and locked.run(KEPT) is None
    give(locked, KEY)
    locked.page.locator("html[data-ready]").wait_for()


def test_a_key_that_no_server_has_and_was_kept_is_asked_for_again(locked: Studio) -> None:
    locked.run("() => sessionStorage.setItem('fewstep.key', '“curly”')")
    locked.page.reload()
    give(locked, KEY)
    locked.page.locator("html[data-ready]").wait_for()
    code = "async () => (await import('/web/fewstep.js')).get('/v1/models', { key: '“curly”' }).catch(({ status, code }) => [status, code])"
    assert locked.run(code) == [401, "wrong_key"]


def test_escape_does_not_lose_the_sheet(locked: Studio) -> None:
    for _ in range(4):
        locked.page.keyboard.press("Escape")
        locked.page.wait_for_timeout(100)
    until(lambda: locked.page.locator("#key").evaluate("one => one.open"))
    give(locked, KEY)
    locked.page.locator("html[data-ready]").wait_for()
