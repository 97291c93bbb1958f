"""The page of a diagnosis in a browser without network: it shows, its controls work, and nothing is asked for.

Needs a Chromium or Chrome; the one that Playwright would download is not used. Without one, these tests are skipped.
"""

import io
import shutil
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from unstuck_support import diagnoses

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

pytestmark = pytest.mark.integration

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a diagnosis; at the end nothing may have been requested but the page, and no error been logged."""
    wrong, contexts = [], []

    def open_page(diagnosis, anchor="", **options):
        path = diagnosis.to_html(tmp_path / "page.html")
        context = browser.new_context(offline=True, reduced_motion="reduce", **options)
        contexts.append(context)

        def allow(route):
            if route.request.url.split("#")[0] == path.as_uri():
                route.continue_()
            else:
                wrong.append(route.request.url)
                route.abort()

        context.route("**/*", allow)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri() + anchor)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(open_page):
    return open_page(replace(diagnoses.broken(20), history=diagnoses.trained(20).history))


def names(page):
    return page.locator("#table tbody th").all_inner_texts()


def column(page, key):
    place = page.locator("#table thead th").evaluate_all(f"heads => heads.findIndex(h => h.dataset.key === '{key}')")
    return page.locator(f"#table tbody tr > :nth-child({place + 1})").all_inner_texts()


def colours(page):
    """How many different colours a screenshot has."""
    image = matplotlib.image.imread(io.BytesIO(page.screenshot(full_page=True)))
    return len(np.unique(image[::5, ::5, :3].reshape(-1, 3), axis=0))


def test_the_page_opens_offline_and_is_not_blank(page):
    assert page.locator("h1").inner_text().lower() == "1 error, 1 warning, 1 note in 40 layers"
    assert page.locator("section:visible").count() == 7
    assert page.locator(".chart svg:visible").count() == 4
    assert colours(page) > 20


def test_every_figure_is_drawn_as_wide_as_its_axis(page):
    for plot in page.locator(".plot").all():
        box, picture = plot.bounding_box(), plot.locator("svg").bounding_box()
        assert picture["width"] == pytest.approx(box["width"], abs=1)
        assert picture["height"] > 50


def test_a_layer_of_a_finding_is_marked_in_every_figure_and_in_the_table(page):
    link = page.locator("#finding-1 a.layer", has_text="layers.2.linear")
    link.click()
    figures = page.locator("[data-depth]").all()
    assert len(figures) == 4
    for figure in figures:
        mark, plot = figure.locator(".at.chosen").bounding_box(), figure.locator(".plot").bounding_box()
        middle = (mark["x"] + mark["width"] / 2 - plot["x"]) / plot["width"]
        assert middle == pytest.approx(4.5 / 40, abs=0.01)
    assert page.locator("tr.selected").get_attribute("id") == "layer-5"
    assert "selected" in link.get_attribute("class")
    assert page.locator("#card-name").inner_text() == "layers.2.linear"
    assert "gradient" in page.locator("#card-numbers").inner_text()
    assert page.url.endswith("#layer-5")
    profile = page.locator("#chart-profile").bounding_box()
    assert 0 <= profile["y"] < page.viewport_size["height"]
    value = page.locator("#chart-profile .plot").get_attribute("aria-valuetext")
    assert value.startswith("layer 5 of 40: layers.2.linear, Linear, gradient ")


def test_the_link_of_a_layer_opens_the_page_at_that_layer(open_page):
    page = open_page(diagnoses.broken(200, decay=1.1), "#layer-333")
    assert page.locator("tr.selected").get_attribute("id") == "layer-333"
    assert page.locator("#card").is_visible()


def test_a_filtered_layer_is_found_again(page):
    page.fill("#search", "nothing is called this")
    assert names(page) == []
    page.locator("#finding-2 a.layer").first.click()
    assert page.input_value("#search") == ""
    assert page.locator("tr.selected").count() == 1


def test_figures_can_be_walked_through_with_the_keyboard_and_escape_clears(page):
    page.locator("#chart-slopes .plot").focus()
    for key, place in (("End", 40), ("ArrowLeft", 39), ("Home", 1), ("ArrowRight", 2), ("PageUp", 4)):
        page.keyboard.press(key)
        assert page.locator("tr.selected").get_attribute("id") == f"layer-{place}", key
        assert page.locator("#chart-slopes .plot").get_attribute("aria-valuenow") == str(place)
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()
    assert page.locator(".at.chosen:visible").count() == 0
    assert "#layer" not in page.url


def test_a_click_in_a_figure_selects_a_layer_and_a_pointer_shows_it(page):
    plot = page.locator("#chart-profile .plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 10.5 / 40, box["y"] + 20)
    assert page.locator("#tip").is_visible()
    assert page.locator("#tip .name").inner_text() == "layers.5.linear"
    assert "gradient" in page.locator("#tip").inner_text()
    page.mouse.click(box["x"] + box["width"] * 10.5 / 40, box["y"] + 20)
    assert page.locator("tr.selected").get_attribute("id") == "layer-11"
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


def test_columns_sort_in_both_directions_with_aria_sort(page):
    head = page.locator("[data-key=gradient]")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    rising = [float(text) for text in column(page, "gradient")]
    assert rising == sorted(rising)
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(page, "gradient")] == sorted(rising, reverse=True)
    page.click("[data-key=name] button")
    assert names(page)[:4] == ["layers.0.act", "layers.0.linear", "layers.1.act", "layers.1.linear"]
    assert head.get_attribute("aria-sort") is None


def test_the_table_is_filtered_by_name_by_rule_by_kind_and_by_findings(page):
    page.fill("#search", "LAYERS.1")
    assert names(page)[0] == "layers.1.linear"
    assert page.locator("#count").inner_text() == "22 of 40 layers"
    page.fill("#search", "us201")
    assert len(names(page)) == 10
    page.fill("#search", "")
    page.select_option("#kind", "Sigmoid")
    assert set(column(page, "kind")) == {"Sigmoid"}
    page.check("#found")
    assert page.locator("#count").inner_text() == "10 of 40 layers"
    page.select_option("#kind", "")
    assert page.locator("#count").inner_text() == "15 of 40 layers"


def test_the_theme_follows_the_system_and_can_be_changed(open_page):
    white, black = "rgb(255, 255, 255)", "rgb(21, 24, 28)"
    for scheme, first, second in (("light", white, black), ("dark", black, white)):
        page = open_page(diagnoses.broken(3), color_scheme=scheme)
        paper = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(paper) == first
        page.click("#theme")
        assert page.evaluate(paper) == second
        page.click("#theme")
        assert page.evaluate(paper) == first


def test_paper_is_always_light_and_without_controls(open_page):
    page = open_page(diagnoses.broken(3), color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for control in ("nav", "#theme", "#tools", ".copy >> nth=0"):
        assert page.locator(control).is_hidden()
    assert page.locator(".chart svg:visible").count() == 3


def test_a_call_is_copied(open_page):
    page = open_page(diagnoses.broken(3), permissions=["clipboard-read", "clipboard-write"])
    page.locator(".copy").first.click()
    page.locator(".copy", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "sigmoidcore.prepare(model, inputs)"


def test_ten_thousand_layers_open_and_their_table_has_pages(open_page):
    page = open_page(diagnoses.broken(5_000, decay=1.001))
    assert page.locator("#count").inner_text() == "10,000 layers"
    assert page.locator("#table tbody tr").count() == 100
    assert page.locator("#page").inner_text() == "1 of 100"
    assert page.locator("#before").is_disabled()
    page.click("#after")
    assert names(page)[0] == "layers.50.linear"
    page.locator("#finding-2 a.layer").first.click()
    assert page.locator("tr.selected").get_attribute("id") == "layer-10000"
    assert page.locator("#page").inner_text() == "100 of 100"
    assert page.locator("svg *").count() < 1_000
    assert colours(page) > 20


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(open_page, width):
    diagnosis = replace(diagnoses.broken(5_000, decay=1.001, name="encoder.layers.{}.a.rather.long.path.linear"))
    page = open_page(diagnosis, viewport={"width": width, "height": 700})
    page.locator("#finding-1 a.layer").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    call = "pre => pre.scrollWidth <= pre.clientWidth"
    assert page.locator(".call pre").evaluate_all(f"calls => calls.every({call})")  # it is not cut off
    assert page.locator(".call pre").count() > 0


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "'\"`$x&lt;"],
)
def test_a_module_of_any_name_is_shown_by_that_name_and_runs_nothing(open_page, name):
    diagnosis = diagnoses.broken(3, name="{}." + name)
    diagnosis = replace(diagnosis, findings=tuple(replace(f, message=name, remedy=name) for f in diagnosis.findings))
    page = open_page(diagnosis)
    assert names(page)[0] == f"0.{name}"
    page.locator("#finding-1 a.layer").first.click()
    assert page.locator("#card-name").inner_text() == f"0.{name}"
    assert page.locator("img").count() == 0


def test_without_javascript_there_are_findings_figures_and_table_and_no_controls(open_page):
    page = open_page(diagnoses.broken(20), java_script_enabled=False)
    assert page.locator(".finding").count() == 3
    assert page.locator(".chart svg:visible").count() == 3
    assert len(names(page)) == 40
    assert page.locator("button:visible, input:visible, select:visible").count() == 0
    page.locator("#finding-1 a.layer").first.click()
    assert page.url.endswith("#layer-1")


def test_an_empty_page_opens(open_page):
    measurement = replace(diagnoses.measurement(1), layers=(), weights=())
    page = open_page(replace(diagnoses.broken(1), measurement=measurement, findings=()))
    assert page.locator("h1").inner_text().lower() == "no layers were seen, nothing found"
    assert page.locator("#count").inner_text() == "0 layers"


def test_every_control_and_every_region_has_a_name(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, nav, section, aside, [role]")]
            .filter(({id}) => id !== "tip")
            .filter((element) => {
                const label = document.getElementById(element.getAttribute("aria-labelledby"));
                const text = (label ?? element.closest("label") ?? element).textContent;
                return !(element.getAttribute("aria-label") ?? text).trim();
            })
            .map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
