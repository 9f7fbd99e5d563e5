"""Every page of the console in a real browser, against a gateway under traffic: widths, themes, accessibility."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.console_gateway import ADMIN_KEY, HOSTILE, ConsoleGateway, console_gateway

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright (the dev extra)")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the browser tests need axe (the dev extra)")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need chromium on the path"),
    pytest.mark.timeout(300),
]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = (360, 1024, 1920)
THEMES = ("light", "dark")
PAGES = (
    "/",
    "/playground",
    "/models",
    "/cache",
    "/artifacts",
    "/accounts",
    "/events",
    "/events?kind=decision",
    "/events?kind=outcome",
)
PICTURES = os.environ.get("CONSOLE_PICTURES")
"""Folder for pictures of every page; none are taken without it."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleGateway]:
    """A gateway that has answered some fifty requests, with contents captured."""
    with console_gateway(tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest.fixture(scope="module")
def idle_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleGateway]:
    """A gateway that nobody has asked anything."""
    with console_gateway(tmp_path_factory.mktemp("idle"), has_traffic=False) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window and with a profile of its own."""
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield launched
        launched.close()


class Visit:
    """One signed-in browser page that notes what its console says."""

    def __init__(self, browser: Any, gateway: ConsoleGateway, width: int, theme: str) -> None:
        self.base, self.width, self.theme = gateway.console, width, theme
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.said.append(f"{kind}: {text}")

    def sign_in(self) -> None:
        """Sign in as an operator does, by keyboard."""
        self.page.goto(f"{self.base}/sign-in")
        self.page.wait_for_function("document.activeElement.name === 'key'")  # it is given the focus when it is drawn
        self.page.keyboard.type(ADMIN_KEY)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("h1:has-text('Overview')")

    def faults(self, name: str) -> list[str]:
        """Return what is wrong with the page that is shown."""
        found = [f"{name} says {text}" for text in self.said]
        self.said.clear()
        overflow = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if overflow > 0:
            found.append(f"{name} is {overflow} pixels too wide")
        for violation in axe.Axe().run(self.page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                found.append(f"{name}: {violation['id']} {[node['html'][:120] for node in violation['nodes'][:3]]}")
        if PICTURES:
            file = f"{name.strip('/').replace('/', '-').replace('?', '-') or 'overview'}-{self.width}-{self.theme}.png"
            self.page.screenshot(path=str(Path(PICTURES) / file))
        return found


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_console_pages_at_every_width_and_theme_have_no_fault(
    browser: Any, gateway: ConsoleGateway, width: int, theme: str
) -> None:
    """No page says an error, is wider than the window, or breaks a serious rule of accessibility."""
    visit = Visit(browser, gateway, width, theme)
    visit.page.goto(f"{visit.base}/sign-in")
    faults = visit.faults("sign-in")
    visit.sign_in()
    for path in PAGES:
        visit.page.goto(visit.base + path)
        assert visit.page.locator("h1").count() == 1
        faults += visit.faults(path)
    visit.page.goto(f"{visit.base}/events")
    visit.page.locator("tbody a").nth(5).click()
    visit.page.wait_for_selector("h1:has-text('Decision')")
    faults += visit.faults("/decision")
    visit.page.goto(f"{visit.base}/playground")
    visit.page.fill("#prompt", "A train covers 180 km in 2.5 hours. How fast is it?")
    visit.page.click("button[value=send]")
    visit.page.wait_for_selector("#answer-title")
    assert visit.page.locator("svg .dot.chosen").count() == 1
    assert visit.page.locator("#near-title ~ ol li").count() == 5
    faults += visit.faults("/playground-sent")
    visit.context.close()
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("theme", THEMES)
def test_console_pages_of_an_idle_gateway_have_no_fault(browser: Any, idle_gateway: ConsoleGateway, theme: str) -> None:
    """Empty pages hold the same rules, and the overview says what to do next."""
    visit = Visit(browser, idle_gateway, 360, theme)
    visit.sign_in()
    faults = []
    assert visit.page.locator(".empty a[href='/console/playground']").is_visible()
    for path in PAGES:
        visit.page.goto(visit.base + path)
        faults += visit.faults(path)
    visit.context.close()
    assert not faults, "\n".join(faults)


def test_console_overview_that_stays_open_shows_new_requests(browser: Any, idle_gateway: ConsoleGateway) -> None:
    """The overview follows the traffic while it is looked at, and asks for nothing when it is told not to."""
    visit = Visit(browser, idle_gateway, 1024, "light")
    visit.sign_in()
    assert visit.page.locator(".empty-title").count() == 1
    idle_gateway.chat("Which river flows through Prague?")
    visit.page.wait_for_selector("#live .chart", timeout=20_000)
    visit.context.close()


def test_console_events_with_a_hostile_prompt_run_nothing_of_it(browser: Any, gateway: ConsoleGateway) -> None:
    """A captured prompt that is markup is shown as text."""
    visit = Visit(browser, gateway, 1024, "light")
    visit.sign_in()
    visit.page.goto(f"{visit.base}/events?kind=decision")
    assert visit.page.locator(f"td:has-text({HOSTILE[:40]!r})").count() >= 1
    assert visit.page.title() == "Events · Penstock"
    assert visit.page.locator("td script, td img").count() == 0
    visit.context.close()


def test_console_theme_that_is_chosen_outlives_a_page(browser: Any, gateway: ConsoleGateway) -> None:
    """The button switches the theme, and the next page comes in it."""
    visit = Visit(browser, gateway, 1024, "light")
    visit.sign_in()
    visit.page.click("#theme")
    visit.page.goto(f"{visit.base}/models")
    assert visit.page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    visit.context.close()
