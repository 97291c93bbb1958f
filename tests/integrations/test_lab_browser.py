"""The lab in a browser: start, pause, change, tour, share, export, and a server that is started again.

Needs a Chromium or Chrome; the one that Playwright would download is not used. Without one, these tests are skipped.
"""

import re
import shutil
import signal
import subprocess
import sys

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

pytestmark = pytest.mark.integration

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SMALL = "?depth=4&width=8&lang=en"
PATIENCE = 60_000


class Server:
    """`sigmoid-core lab` in a process, which can be started again on its port."""

    def __init__(self, *arguments):
        self.port, self.arguments = 0, arguments
        self.start()

    def start(self):
        command = [sys.executable, "-m", "sigmoidcore", "lab", "--no-browser", "--port", str(self.port)]
        command += self.arguments
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = re.search(r"http://[\d.:]+/", self.process.stdout.readline())[0]
        self.port = int(self.address.rpartition(":")[2].strip("/"))

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the lab; at the end nothing may have been asked of another server, and no error been logged."""
    wrong, contexts = [], []

    def open_page(query=SMALL, server=server, **options):
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 720}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on(
            "request", lambda request: request.url.startswith((server.address, "blob:")) or wrong.append(request.url)
        )
        page.on("console", lambda message: "WebSocket" in message.text or wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(server.address + query)
        wait_for_clock(page, lambda step: step >= 0)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def step_of(page):
    text = page.inner_text("#clock")
    return int(re.sub(r"\D", "", text)) if re.search(r"\d", text) else -1


def wait_for_clock(page, condition):
    for _ in range(PATIENCE // 100):
        if condition(step_of(page)):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"the clock shows {page.inner_text('#clock')!r}")


def colours(page, canvas):
    """How many colours a canvas has."""
    return page.evaluate(
        """(id) => {
            const canvas = document.getElementById(id), context = canvas.getContext("2d");
            return new Set(new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
        }""",
        canvas,
    )


def test_a_training_starts_pauses_steps_and_resets(open_page):
    page = open_page()
    assert step_of(page) == 0
    page.click("#start")
    wait_for_clock(page, lambda step: step > 30)
    assert page.inner_text("#start") == "Pause"
    page.click("#start")
    page.locator("#start", has_text="Start").wait_for()
    page.wait_for_timeout(500)
    step = step_of(page)
    page.click("#step")
    wait_for_clock(page, lambda now: now == step + 1)
    for name in ("profile", "heat-0", "heat-1", "strip-0", "surface-1", "loss", "score", "slopes"):
        assert colours(page, name) > 3, name
    page.click("#reset")
    wait_for_clock(page, lambda step: step == 0)


def test_a_change_of_the_set_up_changes_the_address_which_opens_the_same_set_up(open_page):
    page = open_page()
    page.select_option("[name=data]", "digits")
    page.locator("#surface-title", has_text="Answers to test digits").wait_for()
    page.select_option("[name='b.kind']", "resnet")
    page.locator(".legend .b", has_text="ResNet").wait_for()
    assert page.locator("[name='b.rate'] ~ output").inner_text() == "0.001"
    page.locator("[name=depth]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("[name=depth] ~ output", has_text="5").wait_for()
    page.locator("body").click(position={"x": 2, "y": 2})
    page.click("#share")
    address = page.input_value("#dialog-text")
    assert "data=digits" in address
    assert "b.kind=resnet" in address
    other = open_page("?" + address.partition("?")[2])
    other.locator(".legend .b", has_text="ResNet").wait_for()
    assert other.input_value("[name=data]") == "digits"
    assert other.evaluate("location.search") == page.evaluate("location.search")


def test_a_layer_is_chosen_by_pointer_and_by_keyboard_and_its_slope_dragged(open_page):
    page = open_page()
    box = page.locator("#profile").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 40)
    page.locator("#lens-title", has_text="Layer 4").wait_for()
    page.locator("#profile").focus()
    page.keyboard.press("Home")
    page.locator("#lens-title", has_text="Layer 1").wait_for()
    assert page.locator("#profile").get_attribute("aria-valuenow") == "1"
    slider = page.locator(".lens input").first
    before = page.locator("#profile").get_attribute("aria-valuetext")
    slider.fill("0.5")
    page.locator(".lens span", has_text="α = 3.16").wait_for()
    assert page.locator("#profile").get_attribute("aria-valuetext") != before
    strip = page.locator("#strip-0").bounding_box()
    page.mouse.move(strip["x"] + strip["width"] / 2, strip["y"] + strip["height"] - 2)
    page.locator("#lens-title", has_text="neuron 8").wait_for()
    page.click("#whole")
    page.locator("#lens-title", has_text=re.compile("Layer [23]$")).wait_for()


def test_the_tour_has_five_steps_in_both_languages_and_escape_brings_the_set_up_back(open_page):
    for language, word, layer in (("en", "Thirty layers", "Layer 15"), ("zh", "三十层", "第 15 层")):
        page = open_page(f"?depth=4&width=8&lang={language}", viewport={"width": 390, "height": 844})
        page.click("#tour")
        titles = [page.inner_text("#guide-title")]
        for place in range(2, 6):
            page.click("#guide-next")
            page.locator("#guide-place", has_text=f"{place} / 5").wait_for()
            titles.append(page.inner_text("#guide-title"))
            if place == 3:
                page.locator("#lens-title", has_text=layer).wait_for()
                slider, guide = page.locator(".lens input").first.bounding_box(), page.locator("#guide").bounding_box()
                assert slider["y"] + slider["height"] < guide["y"]  # the guide covers nothing that it speaks of
        assert len(set(titles)) == 5
        assert word in titles[1]
        assert page.locator("#guide-next").is_hidden()
        wait_for_clock(page, lambda step: step > 0)  # the last step trains
        page.keyboard.press("Escape")
        assert page.locator("#guide").is_hidden()
        wait_for_clock(page, lambda step: step == 0)
        page.locator("#start:enabled").wait_for()
        assert "depth=4" in page.evaluate("location.search")


def test_the_guide_lies_beside_the_panels_of_both_networks(open_page):
    page = open_page(viewport={"width": 1366, "height": 768})
    page.click("#tour")
    panels = [page.locator("fieldset.network").nth(which).bounding_box() for which in (0, 1)]
    guide = page.locator("#guide").bounding_box()
    assert all(panel["x"] + panel["width"] <= guide["x"] for panel in panels)


def test_the_code_and_the_reports_are_offered(open_page, tmp_path):
    page = open_page()
    page.click("#code")
    page.locator("#dialog-title", has_text="Code").wait_for()
    assert "sc.prepare(model" in page.input_value("#dialog-text")
    page.click("#dialog-choice button >> nth=0")
    page.locator("#dialog-choice [aria-pressed=true]", has_text="Network A").wait_for()
    assert "model = sigmoid(" in page.input_value("#dialog-text")
    with page.expect_download() as code:
        page.click("#dialog-save")
    assert code.value.suggested_filename == "training_a.py"
    page.click("#dialog-close")
    with page.expect_download() as report:
        page.click("#report")
    assert re.fullmatch(r"diagnosis-[AB]\.html", report.value.suggested_filename)


def test_the_page_comes_back_with_its_set_up_after_the_server_was_started_again(open_page, server):
    page = open_page("?depth=7&width=8&lang=en&a.kind=tanh")
    page.click("#step")
    wait_for_clock(page, lambda step: step == 1)
    server.stop()
    page.locator("#status", has_text="trying again").wait_for()
    server.start()
    page.locator("#status", has_text="which was at step 1, is lost").wait_for()
    wait_for_clock(page, lambda step: step == 0)
    assert page.locator("[name=depth] ~ output").inner_text() == "7"
    assert page.input_value("[name='a.kind']") == "tanh"
    page.click("#step")
    wait_for_clock(page, lambda step: step == 1)


def test_a_wrong_value_in_the_address_is_named_until_the_next_set_up(open_page):
    page = open_page("?depth=many&width=8&lang=en")
    page.locator("#status", has_text="No option of this address is used").wait_for()
    page.select_option("[name='a.kind']", "tanh")
    page.locator("#status").wait_for(state="hidden")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_or_collapsed(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 720}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for canvas in page.locator("canvas").all():
        box = canvas.bounding_box()
        assert min(box["width"], box["height"]) > 25, canvas.get_attribute("id")
    dark = page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") == "rgb(16, 21, 27)"
    assert dark == (scheme == "dark")


def test_every_control_and_every_picture_has_a_name(open_page):
    page = open_page()
    page.click("#step")
    wait_for_clock(page, lambda step: step == 1)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, nav, [role], canvas")]
            .filter((element) => {
                const text = (element.closest("label") ?? element).textContent;
                return !(element.getAttribute("aria-label") ?? text).trim() && !element.closest("[hidden]");
            })
            .map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert [name for name in nameless if "status" not in name and "lang=" not in name] == []
    summary = page.locator("#summary").inner_text()
    assert summary.startswith("Step 1. Network A, Sigmoid: loss ")


@pytest.fixture
def other_server():
    """Starts a server with other arguments."""
    servers = []

    def start(*arguments):
        servers.append(Server(*arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_a_table_of_ones_own_is_trained_on_and_drawn(open_page, other_server, tmp_path):
    path = tmp_path / "squares.csv"
    path.write_text("x,y\n" + "".join(f"{i / 10},{i * i}\n" for i in range(100)))
    page = open_page(f"{SMALL}&data=own", other_server("--data", str(path), "--target", "y"))
    assert page.input_value("[name=data]") == "own"
    page.click("#step")
    wait_for_clock(page, lambda step: step == 1)
    assert page.inner_text("#surface-title") == "Fit of the points"
    assert page.inner_text("#score-title") == "Test R²"
    assert colours(page, "surface-0") > 3
