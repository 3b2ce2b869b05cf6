"""Make the pictures of the dashboard anew: `python docs/images/make.py [VIEW ...]`, with Chromium and playwright.

The model recites (demo.py), so that nothing is downloaded, and every picture is of the same invented people.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent))

import demo

from tests.api.conftest import Service

HERE = Path(__file__).resolve().parent
PATIENCE = 120_000
"""Milliseconds for something to be drawn."""

DESKTOP = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


async def live(page: Page, service: Service) -> None:
    """A reply in the middle, behind its recall."""
    await page.wait_for_selector(".exchange")
    saying = asyncio.create_task(demo.say(service, demo.NOW[0]))
    await page.locator(".exchange.running .reply", has_text=re.compile(".{24}")).wait_for()
    await _taken(page, "live")
    await saying


async def conversations(page: Page, service: Service) -> None:
    """A conversation with the trace of a turn."""
    wide = (page.viewport_size or {"width": 0})["width"] > 760
    await page.wait_for_selector("[data-conversation]" if wide else ".messages [data-message]")
    await page.locator("[data-action=trace]").last.click()
    await page.wait_for_selector(".messages [data-chosen]")
    await page.wait_for_timeout(600)


async def ready(page: Page, service: Service, selector: str) -> None:
    """Something is drawn."""
    await page.wait_for_selector(selector)
    await page.wait_for_timeout(1500)


async def training(page: Page, service: Service) -> None:
    """A run in its second stage."""
    await page.wait_for_selector(".loss + .loss canvas")
    await page.wait_for_selector("[data-release='0001']")
    await page.wait_for_selector(".measure-track")
    await page.wait_for_timeout(1500)


Prepared = Callable[[Page, Service], Awaitable[None]]

VIEWS: dict[str, tuple[str, Prepared]] = {
    "live": ("#/live", live),
    "conversations": ("#/conversations/private:10005", conversations),
    "memories": ("#/memories/5?q=点心里不能放什么", lambda page, service: ready(page, service, ".source")),
    "map": ("#/memories/13?show=map", lambda page, service: ready(page, service, ".map-legend li")),
    "training": ("#/training", training),
    "system": ("#/system", lambda page, service: ready(page, service, "[data-setting]")),
}
ON_PHONE = {"memories": "#/memories?kind=fact", "map": "#/memories?show=map"}


async def _taken(page: Page, name: str) -> None:
    phone = "-phone" if (page.viewport_size or {"width": 0})["width"] < 760 else ""
    await page.screenshot(path=HERE / f"{name}{phone}.png")


async def take(browser: Browser, service: Service, name: str) -> None:
    """Both pictures of a view."""
    for options in (DESKTOP, PHONE):
        is_phone = options is PHONE
        context = await browser.new_context(**options, locale="zh-CN", timezone_id="Asia/Shanghai")  # type: ignore[arg-type]
        page = await context.new_page()
        page.set_default_timeout(PATIENCE)
        where, prepare = VIEWS[name]
        await page.goto(f"http://127.0.0.1:{service.port}/{ON_PHONE.get(name, where) if is_phone else where}")
        if is_phone and name in ON_PHONE:
            await ready(page, service, "[data-memory]" if name == "memories" else ".map-legend li")
        else:
            await prepare(page, service)
        if name != "live":
            await _taken(page, name)
        await context.close()


async def main(names: list[str]) -> None:
    """Pictures of these views."""
    folder = Path(tempfile.mkdtemp())
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    try:
        os.chdir(folder)  # the settings then show no path of this machine
        async with demo.demo(Path("data")) as (service, _), async_playwright() as play:
            browser = await play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for line in demo.NOW[1:]:
                await demo.say(service, line)
            await demo.begin_run(service, Path("data"))
            for name in names:
                await take(browser, service, name)
            await browser.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or list(VIEWS)))
