"""The site of this project, walked through with a browser, as wide as a desk's screen and as a phone's."""

import shutil
from pathlib import Path

import pytest

from qrpo_lib.suite import site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 600_000  # milliseconds, for any one thing: the machine may have much to do
WIDTHS = {"desk": 1440, "phone": 390}
# Of each kind of page one, for what is slow: the rest is of the same templates.
KINDS = ["index.html", "method.html", "ledger.html", "figures.html", "walk.html", "your-own.html"]
KINDS += ["notebooks/theory-noise.html", "notebooks/theory-target-error.html"]
# On a page: images that did not load, elements beyond its right edge though the page does not scroll, its width.
LOOK = """() => ({
  images: [...document.images].filter(image => image.loading !== "lazy" && !image.naturalWidth).map(image => image.src),
  width: document.documentElement.scrollWidth,
  formulas: document.querySelectorAll("math").length,
})"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `qrpo report` makes in a fresh clone: docs, committed figures and verdicts, no executed notebook."""
    patch = pytest.MonkeyPatch()
    patch.setenv("QRPO_RUNS", str(tmp_path_factory.mktemp("runs")))
    page = site.build("tiny", tmp_path_factory.mktemp("made") / "site é")
    patch.undo()
    return page.parent


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--allow-file-access-from-files"]
        yield started.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)


@pytest.fixture(params=WIDTHS)
def page(browser, request):
    """A new window; what its console complains of and what it asks a network for fails the test."""
    context = browser.new_context(viewport={"width": WIDTHS[request.param], "height": 900})
    context.set_default_timeout(PATIENCE)
    opened, complaints = context.new_page(), []
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)

    def note_failure(asked):
        if not asked.url.endswith("favicon.png"):  # the window may move on before it has come
            complaints.append(asked.url)

    opened.on("requestfailed", note_failure)
    yield opened
    context.close()
    assert complaints == []


def test_every_page_fits_and_shows_its_pictures(folder, page):
    formulas = 0
    for path in sorted(folder.rglob("*.html")):
        page.goto(path.as_uri())
        found = page.evaluate(LOOK)
        assert found["images"] == [], path
        assert found["width"] <= page.viewport_size["width"], path
        formulas += found["formulas"]
    assert formulas > 50


def test_pictures_that_load_late_load(folder, page):
    page.goto((folder / "figures.html").as_uri())
    pictures = page.locator("article img")
    for i in range(pictures.count()):
        pictures.nth(i).scroll_into_view_if_needed()
        loaded = "image => image.complete && image.naturalWidth > 0"
        page.wait_for_function(loaded, arg=pictures.nth(i).element_handle())
    assert pictures.count() > 20


def test_the_search_works_from_disk(folder, page):
    page.goto((folder / "walk.html").as_uri())
    if page.viewport_size["width"] < 600:
        page.locator("label.md-header__button[for=__search]").click()
    page.locator("input.md-search__input").press_sequentially("quantile")
    page.locator("a.md-search-result__link").first.wait_for()
    assert "quantile" in page.locator("a.md-search-result__link").first.inner_text().lower()


def test_verdicts_can_be_filtered(folder, page):
    page.goto((folder / "index.html").as_uri())
    count = int(page.locator("a.count.contradicted strong").inner_text())
    page.locator("a.count.contradicted").click()
    page.locator("form.filters").wait_for()
    shown = page.locator(".verdict:visible")
    assert shown.count() == count > 0
    assert set(shown.evaluate_all("cards => cards.map(card => card.dataset.verdict)")) == {"contradicted"}
    page.locator("input[value=supported]").check()
    assert shown.count() > count
    page.locator("input[name=words]").fill("partition function")
    assert 0 < shown.count() < 30
    assert all("partition" in text.lower() for text in shown.all_text_contents())
    assert page.locator(".filters output").inner_text().startswith(f"{shown.count()} of ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_serious_fault_of_accessibility(folder, browser, scheme):
    """The rules of axe-core, in both colour schemes."""
    import axe_playwright_python

    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    for name in KINDS:
        opened.goto((folder / name).as_uri())
        opened.add_style_tag(content="* { transition: none !important; }")  # no colour on its way to another
        opened.evaluate(script)
        found = opened.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [
            (fault["id"], fault["nodes"][0]["html"][:200], len(fault["nodes"]))
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert serious == [], name
    context.close()
