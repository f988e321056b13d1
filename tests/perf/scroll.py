"""How smoothly the page of 10,000 cells scrolls: ``python -m tests.perf.report scroll``.

A page is made for each shape of ``tests/perf/report.py``, and for the cells in 2, 10 and 100 tables. Headless Chromium
scrolls each from top to bottom, 120 pixels a frame, beginning as soon as it is loaded. Of three such passes that with
the shortest longest frame is kept in ``results/perf/scroll.json``: the longest frame and the 99th percentile by the
clock, and the most processor time that the page's main thread takes for a frame. Without Chromium or playwright one
line says so, and nothing is measured.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.report.leaderboard.tables import build
from bench.report.render.html import write_report
from bench.types import CellResult
from tests.perf.kept import Limits, keep, missed
from tests.perf.report import CELLS, IMAGES, SHAPES
from tests.report.fabricate import result

PASSES = 3
PROMISED: Limits = {"longest_ms": (None, 100), "percentile_99_ms": (None, 50), "main_thread_ms": (None, 50)}
#: What Chromium needs to run as root in a container, without a network.
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
SCROLL = """(step) => new Promise((done) => {
  const frames = [];
  let last = null;
  const frame = (now) => {
    if (last !== null) frames.push(now - last);
    last = now;
    const root = document.documentElement;
    if (frames.length && scrollY + innerHeight >= root.scrollHeight - 1) return done(frames);
    scrollBy({top: step, behavior: "instant"});
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})"""


def tables(count: int, cells: int, images: int, finished: str) -> Iterator[CellResult]:
    """Yield the cells in so many tables of twenty rows, every second result with a flag."""
    rng = random.Random(count)
    for table in range(count):
        for row in range(20):
            for steps in range(1, 1 + cells // count // 20):
                yield result(
                    f"defense-{row}",
                    clean=[True] * images,
                    adversarial=[rng.random() < 0.5 for _ in range(images)],
                    recipe=f"recipe-{row}",
                    attack_params={"steps": steps},
                    dataset=f"data-{table}",
                    flags=("no-op",) if rng.random() < 0.5 else (),
                    finished=finished,
                )


PAGES: Mapping[str, Callable[[int, int, str], Iterator[CellResult]]] = {
    **SHAPES,
    **{f"{count} tables": partial(tables, count) for count in (2, 10, 100)},
}


def scroll() -> list[str]:
    """Scroll every page, keep the figures, and return what was not as promised."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("scroll: not measured, since Chromium or playwright is not installed")
        return []
    measured, late = {}, []
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=FLAGS)
        for name, shape in PAGES.items():
            page = write_report(build(shape(CELLS, IMAGES, "2026-11-22T00:00:00+00:00")), Path(folder) / name)
            passes = [_scrolled(browser, page.as_uri()) for _ in range(PASSES)]
            measured[name] = min(passes, key=lambda figures: figures["longest_ms"])
            late += [f"scroll: {name}: {line}" for line in missed(measured[name], PROMISED)]
            print(f"{name:10}", *(f"{figure} {value:.0f}" for figure, value in measured[name].items()), flush=True)
        browser.close()
    about = {"load_before": busy, "processors": os.cpu_count()}
    keep("scroll", {name: {**figures, **about} for name, figures in measured.items()})
    return late


def _scrolled(browser: Any, address: str) -> dict[str, float]:
    """Return the figures of one pass over a page that is loaded anew."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    session = page.context.new_cdp_session(page)
    events, ended = [], []
    session.on("Tracing.dataCollected", lambda part: events.extend(part["value"]))
    session.on("Tracing.tracingComplete", lambda _: ended.append(True))
    session.send("Tracing.start", {"transferMode": "ReportEvents", "categories": "cc,toplevel"})
    frames = sorted(page.evaluate(SCROLL, 120))
    session.send("Tracing.end")
    while not ended:
        page.wait_for_timeout(20)
    figures = {
        "nodes": page.evaluate("document.querySelectorAll('*').length"),
        "frames": len(frames),
        "longest_ms": frames[-1],
        "percentile_99_ms": frames[math.ceil(0.99 * len(frames)) - 1],
        "main_thread_ms": max(
            event.get("tdur", 0) / 1e3 for event in events if event["name"] == "ProxyMain::BeginMainFrame"
        ),
    }
    page.close()
    return figures
