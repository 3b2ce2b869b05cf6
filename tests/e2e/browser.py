"""Debian's Chromium, driven by Playwright: a page as a person has it, that is loud about whatever goes wrong in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

Theme = Literal["light", "dark"]

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SECONDS = 1000.0
"""Playwright counts milliseconds."""
PATIENCE = 30 * SECONDS


def program() -> str:
    """Where Chromium is. Skips the test where there is none; in CI that is a failure."""
    found = shutil.which("chromium")
    if found is not None:
        return found
    sentence = "The tests of the dashboard need the program chromium (Debian: apt-get install chromium)."
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test as `program` does."""
    path = program()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


class Faults:
    """What went wrong in a page: errors of its scripts, what its policy has blocked, and what it logs as an error.

    expected: parts of messages that are none.
    """

    def __init__(self, page: Page) -> None:
        self.expected: list[str] = []
        self._found: list[str] = []
        page.on("pageerror", lambda error: self._found.append(f"error: {error}"))
        page.on("console", self._note)
        page.on("request", lambda request: self._foreign(request.url))

    @property
    def found(self) -> list[str]:
        return [fault for fault in self._found if not any(part in fault for part in self.expected)]

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._found.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _foreign(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self._found.append(f"asks for {url}")


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, Faults]]:
    """A page of a person who has never been here; at the end nothing may have gone wrong in it."""
    settings: dict[str, Any] = {"base_url": url, "locale": "zh-CN", "viewport": DESKTOP, **options}
    context = browser.new_context(**settings)
    context.set_default_timeout(PATIENCE)
    try:
        page = context.new_page()
        faults = Faults(page)
        yield page, faults
        assert not faults.found, faults.found
    finally:
        context.close()


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps people from using the page, with an example each."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found: Mapping[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} ({len(one['nodes'])}): {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def walk(page: Page, most: int) -> list[str]:
    """What Tab comes to, until it is back where it began; one must see where one is."""
    reached: list[str] = []
    first = None
    for _ in range(most):
        page.keyboard.press("Tab")
        if first is None:
            first = page.evaluate_handle("document.activeElement")
        elif page.evaluate("(first) => document.activeElement === first", first):
            break
        here = _focus(page)
        assert _is_focus_visible(page) or here in ("BODY", ""), here
        reached.append(here)
    return reached


def _focus(page: Page) -> str:
    """What has the focus, in a few words."""
    return str(
        page.evaluate(
            """() => {
                const one = document.activeElement;
                if (one.id) return `#${one.id}`;
                if (one.dataset.action) return `[${one.dataset.action}]`;
                return one.getAttribute("href") ?? (one.className || one.tagName);
            }"""
        )
    )


def _is_focus_visible(page: Page) -> bool:
    """Whether one can see where the focus is: an outline or a ring around the element, or around one that holds it."""
    return bool(
        page.evaluate(
            """() => {
                const ringed = (one) => {
                    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(one);
                    return (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none";
                };
                for (let one = document.activeElement, n = 0; one && n < 3; one = one.parentElement, n += 1) {
                    if (ringed(one)) return true;
                }
                return false;
            }"""
        )
    )
