"""Frames of the lab's page while two networks train, and its first paint, measured in Chromium.

`sigmoid-core lab` serves the page; a Chromium without a window, 1280 x 720, opens it and starts the training. After two
seconds, its trace is recorded for five: the frames that are presented (at most 60 a second; the page asks for one at
every refresh), the server's messages that it draws (at most 15 a second), and the processor time of the page's main
thread and of all threads of the browser. Processor time depends little on what else the machine does; 60 frames a
second leave 16.7 ms a frame. The first paint is the first contentful one of a new page. Five rounds, in which the
set-ups take turns: the median of each number, and the worst.

Server and browser share the processors of the script. `--real-time` gives the browser real-time priority, for a machine
that is busy with other programs (Linux, as root); the server, which trains, keeps its priority.
"""

import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from _report import Report, arguments

SETUPS = {
    "100 layers": "depth=100",
    "100 layers, digits": "depth=100&data=digits",
    "1,000 layers": "depth=1000",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TASKS = ("ThreadControllerImpl::RunTask", "ThreadPool_RunTask")
ROUNDS, SECONDS, WARM = 5, 5.0, 2.0
ALWAYS = "() => { const ask = () => requestAnimationFrame(ask); ask(); }"
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"

Event = dict[str, Any]


@contextmanager
def serving() -> Iterator[str]:
    """The address of a lab, which ends with the block."""
    command = [sys.executable, "-m", "sigmoidcore", "lab", "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield re.findall(r"http://\S+", server.stdout.readline())[0]
        finally:
            server.terminate()


@contextmanager
def tracing(browser: Browser) -> Iterator[list[Event]]:
    """The events of Chromium's trace, complete when the block has ended."""
    events: list[Event] = []
    ended: list[Event] = []
    session = browser.new_browser_cdp_session()
    session.on("Tracing.dataCollected", lambda message: events.extend(message["value"]))
    session.on("Tracing.tracingComplete", lambda message: ended.append(message))
    session.send("Tracing.start", {"traceConfig": {"includedCategories": ["toplevel", "devtools.timeline"]}})
    yield events
    session.send("Tracing.end")
    while not ended:
        session.send("Browser.getVersion")  # messages arrive while an answer is waited for
    session.detach()


def evaluated(events: list[Event]) -> dict[str, float]:
    """Frames a second and milliseconds of processor time a frame."""
    threads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        threads[event["pid"], event["tid"]].append(event)

    def drawn(thread: list[Event]) -> list[Event]:
        return [event for event in thread if event["name"] == "FireAnimationFrame"]

    page = max(threads.values(), key=lambda thread: len(drawn(thread)))
    presented = sorted(event["ts"] / 1e6 for event in page if event["name"] == "AnimationFrame::Presentation")
    gaps = [later - earlier for earlier, later in itertools.pairwise(presented)]

    updates = sum(event["name"] == "WebSocketReceive" for event in page)
    if not updates:
        raise RuntimeError("the server sent nothing in this time: the machine is too busy for this measurement")

    def a_frame(thread: list[Event]) -> float:
        return sum(event.get("tdur", 0) for event in thread if event["name"] in TASKS) / 1e3 / len(gaps)

    return {
        "fps": len(gaps) / sum(gaps),
        "updates_per_s": updates / sum(gaps),
        "longest_gap_ms": 1e3 * max(gaps),
        "main_thread_ms": a_frame(page),
        "browser_ms": a_frame(events),
        "longest_drawing_ms": max(event.get("tdur", 0) for event in drawn(page)) / 1e3,
    }


def measure(browser: Browser, address: str, query: str, seconds: float) -> dict[str, float]:
    """One set-up in a new page."""
    with browser.new_context(viewport={"width": 1280, "height": 720}, locale="en-US") as context:
        page = context.new_page()
        page.goto(f"{address}?{query}")
        page.locator("#clock", has_text="step 0").wait_for(timeout=120_000)
        page.click("#start")
        page.evaluate(ALWAYS)
        page.wait_for_timeout(WARM * 1000)
        before = steps(page.inner_text("#clock"))
        with tracing(browser) as events:
            page.wait_for_timeout(seconds * 1000)
        after = steps(page.inner_text("#clock"))
        return {**evaluated(events), "first_paint_ms": page.evaluate(PAINTED), "steps": after - before}


def steps(clock: str) -> int:
    """The step that the page shows."""
    return int(re.sub(r"\D", "", clock))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--real-time", action="store_true", help="give the browser real-time priority (root, Linux)")
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (ROUNDS, SECONDS)
    settings = {"rounds": rounds, "seconds": seconds, "viewport": "1280 x 720", "real_time": options.real_time}
    program = next(filter(None, map(shutil.which, BROWSERS)))
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with serving() as address:
        if options.real_time:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # the browser has it from this process
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
            settings["browser"] = browser.version
            report = Report("lab_frames", options, key=("setup",), seeds=[0], settings=settings)
            wanted = {name: query for name, query in SETUPS.items() if report.wants(setup=name)}
            for _ in range(rounds):
                for name, query in wanted.items():
                    found[name].append(measure(browser, address, query, seconds))
            browser.close()
    for name, measured in found.items():
        columns = {key: [round(row[key], 2) for row in measured] for key in measured[0]}
        row: dict[str, Any] = {key: statistics.median(values) for key, values in columns.items()}
        row |= {"lowest_fps": min(columns["fps"]), "latest_paint_ms": max(columns["first_paint_ms"]), "rounds": columns}
        report.add(setup=name, **row)
    report.finish()


if __name__ == "__main__":
    main()
