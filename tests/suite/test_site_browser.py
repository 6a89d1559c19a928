"""The site of this project, walked through with a browser, as wide as a desk's screen and as a phone's."""

import base64
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import nbformat
import pandas as pd
import pytest

from qrpo_lib.paper import claim_views, claims, frontend
from qrpo_lib.runs import folders, paths
from qrpo_lib.suite import notebooks, site

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 600_000  # milliseconds, for any one thing: the machine may have much to do
WIDTHS = {"desk": 1440, "phone": 390}
# Of each kind of page one, for what is slow: the rest is of the same templates.
KINDS = ["index.html", "method.html", "ledger.html", "figures.html", "walk.html", "your-own.html"]
KINDS += ["notebooks/theory-noise.html", "notebooks/theory-target-error.html", "choosing.html"]
# Notebooks that are executed here: profile, id, and their page.
EXECUTED = {
    ("tiny", "results/tables[chat]"): "notebooks/results-tables-chat.html",
    ("tiny-beyond", "results/beyond_online[chat]"): "notebooks/tiny-beyond/results-beyond-online-chat.html",
}
KINDS += EXECUTED.values()
# On a page: images that did not load, elements beyond its right edge though the page does not scroll, its width.
LOOK = """() => ({
  images: [...document.images].filter(image => image.loading !== "lazy" && !image.naturalWidth).map(image => image.src),
  width: document.documentElement.scrollWidth,
  formulas: document.querySelectorAll("math").length,
})"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


def shown(job, figures):
    """A notebook with the outputs that its cells would have: committed pictures, tables, verdicts, printed lines."""
    v4, notebook = nbformat.v4, nbformat.read(job.source, as_version=4)
    judged = [one for one in claims.recorded(figures) if claims.get(one.id).notebook == job.path]
    assert judged
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        for name in re.findall(r'style\.save\([^"]*"([\w-]+)"', cell.source):
            if (figures / f"{name}.csv").is_file():
                data = pd.read_csv(figures / f"{name}.csv")
                picture = base64.b64encode((figures / f"{name}.png").read_bytes()).decode()
                below = frontend.folded(data, figures / f"{name}.csv", linked=False)
                cell.outputs += [v4.new_output("display_data", {"image/png": picture})]
                cell.outputs += [v4.new_output("display_data", {"text/html": below})]
                cell.outputs += [v4.new_output("display_data", {"text/html": data.to_html()})]
        if "ledger.judge(" in cell.source:
            cards = "".join(claim_views.card(one) for one in judged)
            cell.outputs = [v4.new_output("display_data", {"text/html": cards})]
        if "learnt" in cell.source:
            cell.outputs = [v4.new_output("display_data", {"text/html": claim_views.lessons(judged)})]
        if "print(" in cell.source:
            cell.outputs = [v4.new_output("stream", text="a line that is long enough to need more than one " * 6)]
    return notebook


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `qrpo report` makes in a clone where two notebooks were executed, one of them of another profile."""
    patch = pytest.MonkeyPatch()
    patch.setenv("QRPO_RUNS", str(tmp_path_factory.mktemp("runs")))
    for profile, name in EXECUTED:
        job = next(job for job in notebooks.jobs(profile) if job.id == name)
        figures = paths.PACKAGE.parent / "figures" / profile / job.parameters["arm"]
        made = shown(job, figures)
        folders.complete(job.step, lambda new, made=made: nbformat.write(made, new / notebooks.EXECUTED))
    page = site.build("tiny", tmp_path_factory.mktemp("made") / "site é")
    patch.undo()
    return page.parent


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--allow-file-access-from-files"]
        yield started.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)


def complaints_about(opened):
    """What a window's console complains of, what it asks a network for, and what it asks for and does not get: a list
    that grows. A window that moves on, or closes, gives up what has not come yet: a fault only if it is not there.
    """
    complaints = []

    def note_failure(asked):
        given_up = asked.failure == "net::ERR_ABORTED"
        if not (given_up and Path(url2pathname(urlsplit(asked.url).path)).is_file()):
            complaints.append(asked.url)

    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
    opened.on("requestfailed", note_failure)
    return complaints


@pytest.fixture(params=WIDTHS)
def page(browser, request):
    """A new window; what there is to complain of fails the test."""
    context = browser.new_context(viewport={"width": WIDTHS[request.param], "height": 900})
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    complaints = complaints_about(opened)
    yield opened
    context.close()
    assert complaints == []


@pytest.mark.parametrize(
    "wanted", ['<img src="none.png">', '<script src="none.js"></script>', '<script>new Worker("none.js")</script>']
)
def test_what_a_page_asks_for_and_does_not_get_is_complained_of(browser, tmp_path, wanted):
    (tmp_path / "page é.html").write_text(wanted, encoding="utf-8")
    opened = browser.new_page()
    complaints = complaints_about(opened)
    with opened.expect_event("requestfailed", timeout=PATIENCE):
        opened.goto((tmp_path / "page é.html").as_uri())
    opened.close()
    assert any("none" in complaint for complaint in complaints)


def test_what_a_window_gives_up_is_not_complained_of(browser, tmp_path):
    """A picture, or a worker of the search, that was still on its way when the next page was opened."""
    (tmp_path / "picture é.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    (tmp_path / "page.html").write_text('<img src="picture é.svg">', encoding="utf-8")
    opened = browser.new_page()
    complaints = complaints_about(opened)
    opened.route("**/picture*", lambda route: route.abort("aborted"))
    with opened.expect_event("requestfailed", timeout=PATIENCE) as failed:
        opened.goto((tmp_path / "page.html").as_uri())
    opened.close()
    assert failed.value.failure == "net::ERR_ABORTED"
    assert complaints == []


def test_executed_notebooks_are_read_without_scrolling_sideways(folder, page):
    printed = 0
    for name in EXECUTED.values():
        page.goto((folder / name).as_uri())
        assert page.locator("article img").count() > 0
        assert (
            page.locator("article a > img").count() == page.locator("article img").count()
        )  # each in full, one click away
        assert page.locator("details", has_text="The numbers under this figure").count() > 0
        assert page.get_by_text("contradicted").or_(page.get_by_text("undecided")).count() > 0
        wide = "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth + 1).length"
        assert page.locator(".printed code").evaluate_all(wide) == 0
        printed += page.locator(".printed code").count()
        for picture in page.locator("article img").all():
            words = picture.get_attribute("alt")
            assert len(words) > 40, words
            assert "Figure of the section" not in words, words
    assert printed > 0


def test_words_of_the_counts_are_whole(folder, page):
    page.goto((folder / "index.html").as_uri())
    lines = "box => { const range = document.createRange(); range.selectNodeContents(box.lastChild);"
    lines += " return new Set([...range.getClientRects()].map(line => line.top)).size; }"
    for box in page.locator("a.count").all():
        assert box.evaluate(lines) == 1, box.inner_text()


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
    headings = page.locator("article h2:visible")
    assert headings.count() < page.locator("article h2").count()  # those of sections without a verdict left are gone
    page.locator("input[name=words]").fill("no verdict says this")
    assert shown.count() == 0
    assert "none of" in page.locator(".filters output").inner_text()
    page.locator("input[name=words]").fill("")
    page.locator("select[name=origin]").select_option("ours")
    page.locator("select[name=profile]").select_option("tiny-beyond, chat")
    assert set(shown.evaluate_all("cards => cards.map(card => card.dataset.profile)")) == {"tiny-beyond, chat"}


def test_a_verdict_leads_to_its_figure(folder, page):
    page.goto((folder / "ledger.html").as_uri())
    anchor = page.locator(".verdict a[href*='figures.html#']").last.get_attribute("href").partition("#")[2]
    page.locator(".verdict a[href*='figures.html#']").last.click()
    page.wait_for_url(f"**/figures.html#{anchor}")
    page.wait_for_function("[...document.images].some(image => image.loading === 'lazy' && image.complete)")
    above = page.locator("article img").first
    above.evaluate("image => { image.loading = 'eager'; return image.decode(); }")  # what comes late moves nothing
    top = page.locator(f"h3#{anchor}").evaluate("heading => heading.getBoundingClientRect().top")
    assert 0 <= top < page.viewport_size["height"] / 2


def test_the_keyboard_reaches_filters_rules_and_wide_tables(folder, page):
    page.goto((folder / "ledger.html").as_uri())
    page.locator("input[value=supported]").focus()
    page.keyboard.press("Space")
    assert page.locator(".verdict.supported:visible").count() == 0
    summary = page.locator(".verdict:visible summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".verdict:visible details[open]").count() == 1
    page.goto((folder / "protocol.html").as_uri())
    page.keyboard.press("Tab")  # the first stop leads past the navigation
    assert "skip" in page.evaluate("document.activeElement.className")
    page.goto((folder / "notebooks" / "results-tables-chat.html").as_uri())
    scrolling = page.locator("article .output, .md-typeset__scrollwrap")
    assert scrolling.evaluate_all(
        "boxes => boxes.every(box => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)"
    )


def test_on_paper_what_is_folded_is_open_and_folded_again_after(folder, page):
    page.goto((folder / "ledger.html").as_uri())
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert page.locator(".filters").is_hidden()
    assert page.locator(".verdict dl").first.is_visible()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


@pytest.mark.parametrize(("scheme", "width"), [("light", "desk"), ("dark", "desk"), ("light", "phone")])
def test_pages_have_no_serious_fault_of_accessibility(folder, browser, scheme, width):
    """The rules of axe-core, in both colour schemes."""
    import axe_playwright_python

    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    context = browser.new_context(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme)
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
