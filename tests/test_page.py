"""The report in a real browser: what its script does, and that it does nothing else."""

import csv
import io
import json
import os
import re
import shutil
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest

from consilience import report
from consilience.localization import OFFSETS
from consilience.report_explanations import name_file
from test_report import NASTY, Page, make_content, targets_of

webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory, downloads):
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_window_size(1200, 900)
    yield browser
    browser.quit()


def rename(content, old, new):
    """The content with a picture's name exchanged in every table."""
    keys = ("name", "picture")
    tables = (
        "pictures",
        "predictions",
        "heatmaps",
        "lime",
        "thumbnails",
        "agreement",
        "localization",
    )
    tables += ("effects", "faithfulness", "sanity")
    return replace(
        content,
        **{
            table: [
                {key: new if key in keys and value == old else value for key, value in row.items()}
                for row in getattr(content, table)
            ]
            for table in tables
        },
    )


@pytest.fixture(scope="module")
def content():
    return make_content(explained=("object-net", "scene-net"))


@pytest.fixture(scope="module")
def address(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.render_report(content), encoding="utf-8")
    return path.as_uri()


def visit(browser, address):
    """Open an address anew, whatever was open before."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)


@pytest.fixture
def page(browser, address):
    visit(browser, address)
    yield browser
    # Whatever a test did: no error, and no request but for the page itself.
    assert browser.get_log("browser") == []
    for url in requested(browser):
        assert url.startswith(("file:", "data:", "blob:", "about:")), url


def requested(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def find(browser, selector):
    return browser.find_element("css selector", selector)


def find_all(browser, selector):
    return browser.find_elements("css selector", selector)


def set_value(browser, selector, value):
    """Set a control as a hand would: its value, and the event that tells of it."""
    browser.execute_script(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}));",
        selector,
        value,
    )


def shown(browser):
    """(model, picture) of the cards that are shown, from top to bottom."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.card')].filter(c => c.offsetParent)"
        ".map(c => JSON.parse(c.dataset.card)).map(c => [c.model, c.name])"
    )


def status(browser):
    return find(browser, ".tools [role=status]").text


def predicted(content, **where):
    return [
        [row["model"], row["picture"]]
        for row in content.predictions
        if all(row[key] == value for key, value in where.items())
    ]


def test_page_opens_with_its_controls_and_without_errors(page, content, address):
    assert find(page, ".tools").is_displayed()
    assert len(shown(page)) == len(content.predictions)
    assert status(page) == f"{len(content.predictions)} of {len(content.predictions)} shown"
    assert len(find_all(page, "button.csv")) > 80
    assert requested(page)[0] == address


def test_page_is_whole_without_its_script(content):
    """Controls are hidden in the page itself; nothing else is."""
    html = report.render_report(content)
    parsed = Page(html)
    hidden = [a for _, a in parsed.elements if "hidden" in a]
    assert [a["class"] for a in hidden] == ["tools"]
    dialogs = [a for tag, a in parsed.elements if tag == "dialog"]
    assert len(dialogs) == 1
    assert "open" not in dialogs[0]
    outside = re.sub(r'<div class="tools".*?</dialog>', "", html, flags=re.S)
    assert "<button" not in outside
    assert "<select" not in outside


def test_filters_show_what_they_name(page, content):
    clutter = {row["name"]: row["clutter"] for row in content.pictures}
    for name, value, expected in (
        ("correct", "right", predicted(content, correct=True)),
        ("correct", "wrong", predicted(content, correct=False)),
        ("model", "scene-net", predicted(content, model="scene-net")),
        ("clutter", "2", [key for key in predicted(content) if clutter[key[1]] == 2]),
    ):
        assert 0 < len(expected) < len(content.predictions)
        set_value(page, f".tools [name={name}]", value)
        assert sorted(shown(page)) == sorted(expected), (name, value)
        assert status(page).startswith(f"{len(expected)} of {len(content.predictions)} shown")
        find(page, "[data-reset]").click()
    assert len(shown(page)) == len(content.predictions)


def test_a_class_is_found_as_predicted_and_as_label(page, content):
    for name in ("ball", "box"):
        keys = ("predicted_class", "label_class", "target_class")
        expected = [
            [row["model"], row["picture"]]
            for row in content.predictions
            if name in [row[key] for key in keys]
        ]
        set_value(page, ".tools [name=class]", name)
        assert sorted(shown(page)) == sorted(expected)


def test_a_name_is_typed_and_filters_combine(page, content):
    name = content.pictures[0]["name"]
    field = find(page, ".tools [name=name]")
    field.send_keys(name.upper())
    assert {picture for _, picture in shown(page)} == {name}
    set_value(page, ".tools [name=model]", "object-net")
    assert shown(page) == [["object-net", name]]
    field.send_keys("no such picture")
    assert shown(page) == []
    assert status(page) == f"0 of {len(content.predictions)} shown: no picture is like this"


def test_a_method_leaves_its_thumbnails_beside_picture_and_mask(page):
    set_value(page, ".tools [name=method]", "lime")
    cards = find_all(page, ".card")
    for card in cards[:3]:
        labels = [name.text for name in card.find_elements("css selector", ".name") if name.text]
        assert labels == ["Picture", "LIME", "Known mask"]


def test_order_by_agreement_puts_the_greatest_disagreement_first(page, content):
    """In every model's part; those without a value come last."""
    values = {
        (row["model"], row["picture"]): row["value"]
        for row in content.agreement
        if row["control"] is None
        and row["metric"] == "spearman"
        and (row["method_a"], row["method_b"]) == ("grad-cam", "lime")
    }
    before = shown(page)
    set_value(page, ".tools [name=sort]", "disagreement")
    for model in ("object-net", "scene-net"):
        found = [values[tuple(key)] for key in shown(page) if key[0] == model]
        assert found == sorted(found)
        assert found[0] < found[-1]
        assert len(found) == len(content.pictures)
    assert not [one for one in find_all(page, "#gallery .level") if one.is_displayed()]
    set_value(page, ".tools [name=sort]", "name")
    names = [name for model, name in shown(page) if model == "object-net"]
    assert names == sorted(names)
    assert names != [name for model, name in before if model == "object-net"]
    set_value(page, ".tools [name=sort]", "")
    assert shown(page) == before
    assert [one for one in find_all(page, "#gallery .level") if one.is_displayed()]


def test_a_link_shows_the_same_again(page, address):
    set_value(page, ".tools [name=correct]", "right")
    set_value(page, ".tools [name=sort]", "disagreement")
    set_value(page, ".tools [name=name]", "clutter-2&x=%")
    set_value(page, ".tools [name=name]", "clutter")
    link, found = page.current_url, shown(page)
    assert link.startswith(f"{address}#gallery?")
    visit(page, link)
    assert shown(page) == found
    assert find(page, ".tools [name=sort]").get_property("value") == "disagreement"
    visit(page, f"{address}#gallery?model=no-such&sort=constructor&{quote('<b>')}=1")
    assert find(page, ".tools [name=model]").get_property("value") == ""
    assert find(page, ".tools [name=sort]").get_property("value") == ""


def test_a_picture_that_a_link_names_is_shown_whatever_the_filters_say(page, content):
    right = find(page, ".card").get_attribute("id")
    name = json.loads(find(page, ".card").get_attribute("data-card"))["name"]
    set_value(page, ".tools [name=name]", "no such picture")
    assert shown(page) == []
    page.execute_script("location.hash = arguments[0]", right)
    deadline = time.monotonic() + 10
    while not shown(page) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert shown(page) == [["object-net", name]]
    assert "because a link names it" in status(page)
    assert find(page, ".card:target").is_displayed()
    set_value(page, ".tools [name=name]", "no such picture either")
    assert shown(page) == []


def opacities(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('.stage img')].slice(1).map(i => +i.style.opacity)"
    )


def greyness(browser):
    return browser.execute_script("return document.querySelector('.stage img').style.filter")


def test_explanations_lie_over_the_same_picture(page):
    card = find(page, ".card")
    sources = [one.get_attribute("src") for one in card.find_elements("css selector", "img")]
    card.find_element("css selector", ".tool").click()
    assert find(page, "#compare").is_displayed()
    images = find_all(page, ".stage img")
    heats = [one.get_attribute("data-heat") for one in card.find_elements("css selector", "img")]
    assert [bool(heat) for heat in heats] == [False, True, True, True, False, False]
    # Of a heatmap the colours alone lie over the picture, else what is drawn on it.
    laid = [heat or source for heat, source in zip(heats, sources, strict=True)]
    assert [one.get_attribute("src") for one in images] == laid
    assert len({(one.rect["width"], one.rect["height"]) for one in images}) == 1
    assert len({(one.rect["x"], one.rect["y"]) for one in images}) == 1
    assert opacities(page) == [0.55, 0, 0, 0, 0]
    assert find(page, "[data-shown]").text == "Shown: Grad-CAM"
    # The slider moves by keyboard, from the picture alone to the heatmap alone.
    slider = find(page, "[name=opacity]")
    slider.send_keys(Keys.END)
    assert opacities(page) == [1, 0, 0, 0, 0]
    assert greyness(page) == "grayscale(1)"
    slider.send_keys(Keys.HOME)
    assert opacities(page) == [0, 0, 0, 0, 0]
    assert greyness(page) == "grayscale(0)"
    slider.send_keys(Keys.ARROW_RIGHT * 40)
    assert opacities(page) == [0.4, 0, 0, 0, 0]
    assert greyness(page) == "grayscale(0.8)"
    assert find(page, "#compare output").text == "40 %"
    # Flipped by keyboard, to what is chosen.
    set_value(page, "[name=second]", "3")
    assert find(page, "[data-shown]").text == "Shown: LIME"
    flip = find(page, "[data-flip]")
    flip.send_keys(Keys.SPACE)
    assert opacities(page) == [0.4, 0, 0, 0, 0]
    assert flip.get_attribute("aria-pressed") == "false"
    flip.send_keys(Keys.ENTER)
    assert opacities(page) == [0, 0, 0, 0.8, 0]  # outlines are there in full from 50 %
    assert greyness(page) == "none"
    assert flip.get_attribute("aria-pressed") == "true"
    # The next picture keeps the two methods; back again by the other button.
    title = find(page, "#compare h3").text
    assert title == "picture-000-clutter-0, object-net"
    find(page, "[data-next]").click()
    assert find(page, "#compare h3").text != title
    assert find(page, "[name=second]").get_property("value") == "3"
    find(page, "[data-previous]").click()
    assert find(page, "#compare h3").text == title
    find(page, "#compare").send_keys(Keys.ESCAPE)
    assert not find(page, "#compare").is_displayed()
    assert page.switch_to.active_element == card.find_element("css selector", ".tool")


def test_a_mouse_on_the_picture_shows_the_second(page):
    # A click on a thumbnail opens it as the first.
    thumb = find(page, '.card [data-method="score-cam"] img')
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", thumb)
    thumb.click()
    # The dialog comes up under the mouse.
    ActionChains(page).move_to_element(find(page, "#compare h3")).perform()
    assert find(page, "[name=first]").get_property("value") == "1"
    set_value(page, "[name=second]", "2")
    find(page, "[data-flip]").click()
    assert find(page, "[data-shown]").text == "Shown: Score-CAM"
    ActionChains(page).move_to_element(find(page, ".stage")).perform()
    assert find(page, "[data-shown]").text == "Shown: Ablation-CAM"
    ActionChains(page).move_to_element(find(page, "#compare h3")).perform()
    assert find(page, "[data-shown]").text == "Shown: Score-CAM"


def test_every_target_of_a_picture_can_be_compared(browser, tmp_path):
    path = tmp_path / "two.html"
    path.write_text(report.render_report(targets_of(make_content(1))), "utf-8")
    visit(browser, path.as_uri())
    find(browser, ".card .tool").click()
    options = [one.text for one in find_all(browser, "[name=first] option")]
    assert len(options) == 9
    assert "LIME, for second class" in options
    assert browser.get_log("browser") == []


# ---- Tables


def table_of(browser, caption):
    tables = browser.execute_script(
        "return [...document.querySelectorAll('table')].filter("
        "t => t.caption && t.caption.textContent.startsWith(arguments[0]))",
        caption,
    )
    assert tables, caption
    return tables[0]


def column(browser, table, index):
    return browser.execute_script(
        "return [...arguments[0].querySelectorAll('tbody tr:not(.group)')].map(r => "
        "(r.cells[arguments[1]].querySelector('data') || {}).value "
        "?? r.cells[arguments[1]].textContent.trim())",
        table,
        index,
    )


def press(browser, table, index):
    browser.execute_script("arguments[0].closest('details')?.setAttribute('open', '')", table)
    head = table.find_elements("css selector", "thead th")[index]
    head.find_element("css selector", "button.sort").send_keys(Keys.ENTER)
    return head.get_attribute("aria-sort")


def test_tables_sort_by_number_by_text_and_back(page):
    table = table_of(page, "Paired differences from a random order")
    before = [column(page, table, index) for index in range(10)]
    assert press(page, table, 5) == "ascending"
    values = [float(value) for value in column(page, table, 5)]
    assert values == sorted(values)
    assert min(values) < 0 < max(values)
    assert press(page, table, 5) == "descending"
    values = [float(value) for value in column(page, table, 5)]
    assert values == sorted(values, reverse=True)
    assert press(page, table, 1) == "ascending"
    assert column(page, table, 1) == sorted(column(page, table, 1), key=str.lower)
    sorts = [one.get_attribute("aria-sort") for one in table.find_elements("css selector", "th")]
    assert sorts.count("ascending") == 1
    assert "descending" not in sorts
    press(page, table, 1)
    assert press(page, table, 1) == "none"
    assert [column(page, table, index) for index in range(10)] == before


def test_missing_values_come_last_either_way(page):
    table = table_of(page, "Primary")
    place = [one.text for one in table.find_elements("css selector", "thead th")].index("Estimate")
    for direction in ("ascending", "descending"):
        assert press(page, table, place) == direction
        assert column(page, table, place)[-1] == "–"
        assert "–" not in column(page, table, place)[:-1]


def test_rows_that_share_a_head_keep_it_when_sorted(page):
    """A pair's name spans its levels; sorted by the mean each row has to carry it."""
    table = table_of(page, "Spearman’s ρ: mean with its 95 % interval, between")
    rows = "return [...arguments[0].querySelectorAll('tbody tr')].map(r => r.cells.length)"
    assert len(set(page.execute_script(rows, table))) == 2
    ragged = {}
    for row in csv.reader(io.StringIO(download_text(page, table))):
        ragged[row[2]] = row[:2]
    press(page, table, 2)
    assert len(set(page.execute_script(rows, table))) == 1
    means = column(page, table, 2)
    assert [float(x) for x in means] == sorted(float(x) for x in means)
    pairs = zip(column(page, table, 0), column(page, table, 1), means, strict=True)
    assert all(ragged[mean] == [pair, level] for pair, level, mean in pairs)


def test_groups_stay_together_when_sorted(page):
    table = table_of(page, "From simple to cluttered pictures")
    groups = [one.text for one in table.find_elements("css selector", "tr.group")]
    press(page, table, 1)
    assert [one.text for one in table.find_elements("css selector", "tr.group")] == groups
    for body in table.find_elements("css selector", "tbody"):
        rows = body.find_elements("css selector", "tr")
        assert rows[0].get_attribute("class") == "group"


# ---- CSV


def download_text(browser, element):
    """Press the button beside a table or chart; return what is saved, without saving it."""
    return browser.execute_async_script(
        "const [element, done] = arguments;"
        "const old = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { URL.createObjectURL = old;"
        "  blob.text().then(done); return old.call(URL, blob); };"
        "const box = element.closest('.scroll') ?? element.parentNode;"
        "addEventListener('click', (e) => e.target.download && e.preventDefault(),"
        "  {once: false, capture: true});"
        "box.querySelector('button.csv').click();",
        element,
    )


def test_a_table_is_saved_as_its_rows(page, content, downloads):
    table = table_of(page, "Paired differences from a random order")
    page.execute_script("arguments[0].closest('details').open = true", table)
    box = table.find_element("xpath", "..")
    box.find_element("css selector", "button.csv").send_keys(Keys.ENTER)
    deadline = time.monotonic() + 20
    while not list(downloads.glob("*.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    (path,) = downloads.glob("*.csv")
    assert path.name.startswith("fixture-faithfulness-model-object-net-paired-differences")
    text = path.read_bytes().decode()
    path.unlink()
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header[:6] == [
        "Method",
        "Metric and fill",
        "Clutter",
        "Pictures",
        "Missing",
        "Mean difference",
    ]
    own = [row for row in content.faithfulness_summary if row["model"] == "object-net"]
    assert len(rows) == len(own)
    expected = sorted((row["clutter"], row["n"], row["mean"], row["value"]) for row in own)
    places = [header.index(name) for name in ("Clutter", "Pictures", "Mean difference")]
    places.append(header.index("Mean score"))
    found = sorted(tuple(float(row[place]) for place in places) for row in rows)
    assert found == [pytest.approx(row, abs=0, rel=1e-15) for row in expected]


def test_an_interval_is_a_column_of_its_own(page, content):
    table = table_of(page, "Primary")
    rows = list(csv.DictReader(io.StringIO(download_text(page, table))))
    own = [row for row in content.questions if row["role"] == "primary"]
    assert sorted(row["Estimate"] for row in rows) == sorted(
        "" if row["estimate"] is None else str(row["estimate"]) for row in own
    )
    assert "−0.444 to −0.198" in [row["Estimate (beside)"] for row in rows]


def test_groups_become_a_column(page):
    rows = list(
        csv.DictReader(
            io.StringIO(download_text(page, table_of(page, "From simple to cluttered pictures")))
        )
    )
    assert len({row["Group"] for row in rows}) == 3
    assert all(row["clutter 0"] for row in rows)


def test_every_figure_has_its_data(page, content):
    charts = find_all(page, "main svg[data-csv]")
    # Every chart of the page: those that have axes to read.
    assert len(charts) == len(find_all(page, ".chart > svg[role=img]"))
    assert len(find_all(page, ".chart > button.csv")) == len(charts) > 40
    chart = next(
        one
        for one in charts
        if one.get_attribute("aria-label").startswith("LIME – Grad-CAM. Spearman")
    )
    rows = list(csv.DictReader(io.StringIO(download_text(page, chart))))
    where = {"model": "object-net", "method_a": "grad-cam", "method_b": "lime"}
    where |= {"metric": "spearman", "control": None}
    own = [row for row in content.agreement if all(row[k] == v for k, v in where.items())]
    found = {row["name"]: float(row["value"]) for row in rows if row["kind"] == "picture"}
    assert found == {row["picture"]: row["value"] for row in own}
    means = {row["at"]: float(row["value"]) for row in rows if row["kind"] == "mean"}
    assert len(means) == 3


# ---- Untrusted names


def nasty_page(content):
    name = content.pictures[0]["name"]
    changed = rename(content, name, NASTY)
    return replace(
        changed,
        study=content.study | {"title": NASTY, "study": "nasty"},
        predictions=[
            row | {"predicted_class": NASTY, "target_class": NASTY} for row in changed.predictions
        ],
        faithfulness_summary=[
            row | {"fill": f'={NASTY},"\n'} for row in content.faithfulness_summary
        ],
        concepts=[row | {"concept": NASTY} for row in content.concepts[:1]],
    )


def test_names_never_become_markup(browser, tmp_path):
    content = nasty_page(make_content())
    path = tmp_path / "nasty.html"
    path.write_text(report.render_report(content), encoding="utf-8")
    visit(browser, path.as_uri())
    count = len(find_all(browser, "img"))
    set_value(browser, ".tools [name=class]", NASTY)
    set_value(browser, ".tools [name=name]", NASTY)
    assert [name for _, name in shown(browser)] == [NASTY]
    link = browser.current_url
    visit(browser, link)
    assert [name for _, name in shown(browser)] == [NASTY]
    find(browser, ".card:not([hidden]) .tool").click()
    assert find(browser, "#compare h3").text == NASTY
    find(browser, "[data-close]").click()
    set_value(browser, ".tools [name=sort]", "name")
    for button in find_all(browser, "button.sort")[:60]:
        browser.execute_script("arguments[0].click()", button)
    table = table_of(browser, "Paired differences from a random order")
    rows = list(csv.DictReader(io.StringIO(download_text(browser, table), newline="")))
    assert any(NASTY in row["Metric and fill"] for row in rows)
    stage = len(find_all(browser, ".stage img"))
    assert len(find_all(browser, "img")) == count + stage
    assert not find_all(browser, "img[src=x], [onerror]")
    # An alert would have stopped every command above; nor was anything refused.
    assert browser.get_log("browser") == []


def test_csv_quotes_what_needs_it(page):
    table = table_of(page, "Paired differences from a random order")
    texts = ['a,"b"', "two words", " edge", "=1+1", NASTY]
    page.execute_script(
        "const [table, texts] = arguments;"
        "texts.forEach((t, i) => { table.tBodies[0].rows[i].cells[0].textContent = t })",
        table,
        texts,
    )
    rows = list(csv.reader(io.StringIO(download_text(page, table)), strict=True))
    assert [row[0] for row in rows[1 : len(texts) + 1]] == [text.strip() for text in texts]
    assert len({len(row) for row in rows}) == 1


# ---- Pictures beside the page


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A page whose pictures lie beside it, one with a nasty name, in a folder with another."""
    content = make_content(4, (0, 1, 2, 3, 4))
    names = ("agreement_summary", "localization_summary", "faithfulness_summary", "faithfulness")
    content = replace(content, **dict.fromkeys((*names, "sanity_summary", "neurons"), ()))
    folder = tmp_path_factory.mktemp("be side#&%41")
    changed = rename(content, content.pictures[-1]["name"], NASTY)
    report.write_report(changed, folder / "report.html", folder / "report_pictures")
    return changed, folder


@pytest.fixture(scope="module", params=["file", "http"])
def lazy(request, beside):
    """Its address: as a file, and from a server."""
    if request.param == "file":
        yield (beside[1] / "report.html").as_uri()
        return
    handler = partial(QuietHandler, directory=beside[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/report.html"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_pictures_load_as_they_come_into_sight(browser, beside, lazy):
    content, folder = beside
    visit(browser, lazy)
    pictures = find_all(browser, "#gallery img")
    assert len(pictures) == 6 * len(content.predictions) - 1  # one map is zero
    base = lazy.removesuffix("report.html") + "report_pictures/"
    asked = [url for url in requested(browser) if not url.startswith(("data:", "about:"))]
    assert asked[0] == lazy
    early = [url for url in asked[1:] if url.startswith(base)]
    assert len(early) < len(pictures) / 2
    assert "keep that folder with the page" in find(browser, "#gallery").text
    # The filters know all of them, loaded or not; a link leads to the last.
    set_value(browser, ".tools [name=clutter]", "4")
    assert len(shown(browser)) == 4
    set_value(browser, ".tools [name=sort]", "disagreement")
    assert len(shown(browser)) == 4
    find(browser, "[data-reset]").click()
    set_value(browser, ".tools [name=name]", NASTY)
    assert [name for _, name in shown(browser)] == [NASTY]
    card = find(browser, ".card:not([hidden])")
    visit(browser, f"{lazy}#{card.get_attribute('id')}")
    loaded = (
        "return [...document.querySelectorAll(arguments[0])].filter(i => i.complete)"
        ".map(i => i.naturalWidth)"
    )
    target = ".card:target img"
    assert wait_for(lambda: browser.execute_script(loaded, target) == [96] * 5)
    find(browser, ".card:target .tool").click()
    assert wait_for(lambda: browser.execute_script(loaded, ".stage img") == [96] * 5)
    # No error, nothing refused, and no request but for the page and its own pictures.
    assert browser.get_log("browser") == []
    for url in requested(browser):
        if not url.startswith(("data:", "about:")) and url.partition("#")[0] != lazy:
            assert url.startswith(base), url
            assert (folder / "report_pictures" / url.removeprefix(base)).is_file()


def test_files_beside_the_page_have_plain_names(beside):
    content, folder = beside
    files = [path.name for path in (folder / "report_pictures").iterdir()]
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.webp", name) for name in files)
    maps = sum(row["heat"] is not None for row in content.thumbnails)
    assert len(files) == maps + sum(row["image"] is not None for row in content.thumbnails)
    names = ["../../x", ".hidden", "", "a" * 300, "a\0b", "a/b", "a-b", NASTY, "ä", "ae"]
    found = [name_file("..", name, 0) for name in names] + [name_file("m", names[0], 0)]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name) for name in found)


# ---- For everyone


def test_page_has_no_serious_accessibility_violation(browser, tmp_path):
    """On a page that has every kind of thing, but few of each: axe looks at every element."""
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    content = make_content(1, (0, 4), neurons=6)
    rows = [row for row in content.agreement_summary if row["metric"] in ("spearman", "emd")]
    located = [row for row in content.localization_summary if row["metric"] in ("iou", *OFFSETS)]
    content = replace(content, agreement_summary=rows, localization_summary=located)
    path = tmp_path / "report.html"
    path.write_text(report.render_report(content), encoding="utf-8")
    visit(browser, path.as_uri())
    browser.set_script_timeout(110)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    browser.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    # A chart is one picture to whoever cannot see it; while the dialog is open it is all there is.
    # What does not hang on colours is asked once.
    ask = (
        "const [dialog, again, done] = arguments;"
        "const where = dialog ? {include: [['#compare']]} : {exclude: [['svg *']]};"
        "const only = again ? {runOnly: {type: 'rule', values: ['color-contrast']}} : {};"
        "axe.run(where, {resultTypes: ['violations'], ...only}).then(r => done(r.violations.map("
        "v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))])))"
    )
    for again, scheme in enumerate(("light", "dark")):
        emulate(browser, scheme)
        for opened in (False, True):
            if opened:
                browser.execute_script("document.querySelector('.card .tool').click()")
            found = browser.execute_async_script(ask, opened, bool(again))
            assert [one for one in found if one[0] in ("serious", "critical")] == []
            if opened:
                find(browser, "[data-close]").click()
    emulate(browser, "")


def emulate(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.mark.parametrize("width", [390, 1200, 1900])
def test_page_fits_its_window(page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        page.execute_script("document.querySelector('.card .tool').click()")
        box = find(page, "#compare").rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        if folder := os.environ.get("CONSILIENCE_SCREENSHOTS"):
            for scheme in ("light", "dark"):
                emulate(page, scheme)
                page.save_screenshot(f"{folder}/compare-{width}-{scheme}.png")
                find(page, "[data-close]").click()
                for part in (".tools", "#answer", "#neurons", "#questions", "#faithfulness"):
                    page.execute_script(
                        "document.querySelector(arguments[0]).scrollIntoView()", part
                    )
                    time.sleep(0.4)
                    page.save_screenshot(f"{folder}/{part.strip('.#')}-{width}-{scheme}.png")
                page.execute_script("document.querySelector('.card .tool').click()")
            emulate(page, "")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_is_reached_by_keyboard(page):
    """From the gallery's first filter on, Tab comes to every control and to a card's button."""
    page.execute_script("document.querySelector('.tools [name=name]').focus()")
    reached = []
    for _ in range(14):
        element = page.switch_to.active_element
        reached.append(element.get_attribute("name") or element.text)
        outline = element.value_of_css_property("outline-style")
        assert outline != "none", reached
        ActionChains(page).send_keys(Keys.TAB).perform()
    assert reached[:7] == ["name", "model", "class", "correct", "clutter", "method", "sort"]
    assert reached[7] == "Show all"
    assert "Compare" in reached


def test_forty_pictures_stay_small():
    html = report.render_report(make_content(8, (0, 1, 2, 3, 4)))
    assert html.count('<article class="card"') == 40
    assert len(html.encode()) < 3e6
