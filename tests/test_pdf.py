"""The page on paper: all of its content, as text, whatever the names."""

import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest

from consilience import figures, pdf, report
from consilience.errors import ConsilienceError
from test_report import NASTY, make_content, targets_of
from test_report_benchmark import make_whole

typst = pytest.importorskip("typst", reason="typst is not installed")

# What Typst would take for its own language.
SCRIPT = '#panic("run") #read("/etc/passwd") *b* $x$ `r` @l <m> \\ [ ] " // /* {place} \a'


@pytest.fixture(scope="module")
def content():
    return make_content(1, (0, 4))


@pytest.fixture(scope="module")
def html(content):
    return report.render_report(content)


def gallery_of(content):
    """The content without what takes long to draw."""
    names = ("accuracy", "agreement_summary", "localization_summary", "faithfulness_summary")
    names += ("faithfulness", "sanity_summary", "neurons", "concepts", "comparison")
    return replace(content, **dict.fromkeys(names, ()))


@pytest.fixture
def lay_out(tmp_path):
    def lay_out(html, **kwargs):
        (tmp_path / "set").mkdir(exist_ok=True)
        return pdf.lay_out(html, tmp_path, tmp_path / "set", **kwargs)

    return lay_out


def print_page(html, folder, **kwargs):
    page, path = folder / "report.html", folder / "report.pdf"
    page.write_text(html, encoding="utf-8")
    pages = pdf.print_page(page, path, **kwargs)
    return path.read_bytes(), pages


def texts(value):
    """All strings of a document that are set as text, in order."""
    if isinstance(value, dict):
        keys = ("text", "name", "missing", "title")
        yield from (value[key] for key in keys if isinstance(value.get(key), str))
        yield from (text for note in value.get("notes", ()) for text in note)
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def blocks(value, kind):
    if isinstance(value, dict):
        if value.get("is") == kind:
            yield value
        for item in value.values():
            yield from blocks(item, kind)
    elif isinstance(value, list):
        for item in value:
            yield from blocks(item, kind)


def words(text):
    return re.findall(r"[^\s\N{NO-BREAK SPACE}]+", text)


def printed_text(element):
    """The text of the page itself, without its controls."""
    if isinstance(element, str):
        return element
    if element.tag in ("nav", "script", "style", "dialog", "head", "svg"):
        return ""
    if {"tools", "unseen", "skip"} & element.classes:
        return ""
    return " ".join(map(printed_text, element.children))


@pytest.mark.parametrize("page", ["whole", "benchmark"])
def test_nothing_that_the_page_says_is_lost(html, lay_out, page):
    if page == "benchmark":
        html = report.render_report(make_whole())
    document = lay_out(html)
    root, drawings = pdf.read_page(html)
    assert len(drawings) > {"whole": 80, "benchmark": 3}[page]
    said = words(" ".join(texts(document["blocks"])) + " " + " ".join(texts(document["appendix"])))
    have = {}
    for word in said:
        have[word] = have.get(word, 0) + 1
    lost = []
    # Some words are in pieces on either side (a bold part): compare without their edges.
    for word in words(printed_text(root.find("main"))):
        if have.get(word, 0) > 0:
            have[word] -= 1
        else:
            lost.append(word)
    ends = {"lowest", "highest:", "value", "of", "the", "map:", "least", "most", "for", "class"}
    assert [word for word in lost if word not in ends | {".", ",", "·", ":"}] == []
    # The ends of the colour bar stand at it.
    for scale in blocks(document, "scale"):
        assert scale["ends"][0].startswith("lowest value")


def test_all_pictures_and_charts_are_there(content, html, lay_out):
    document = lay_out(html)
    cards = list(blocks(document, "card"))
    assert len(cards) == len(content.predictions)
    for card in cards:
        (row,) = card["rows"]
        assert [thumb["name"] for thumb in row["thumbs"]] == [
            "Picture",
            "Grad-CAM",
            "Score-CAM",
            "Ablation-CAM",
            "LIME",
            "Known mask",
        ]
        for thumb in row["thumbs"]:
            assert bool(thumb["picture"]) != bool(thumb["missing"])
            assert thumb["picture"] is None or thumb["picture"]["alt"]
    charts = list(blocks(document, "drawing"))
    assert len(charts) == html.count("data-csv=")
    assert all(chart["alt"] for chart in charts)


def test_what_is_folded_away_is_the_appendix(html, lay_out):
    document = lay_out(html)
    references = [block["label"] for block in blocks(document["blocks"], "reference")]
    assert references == [entry["label"] for entry in document["appendix"]]
    assert html.count("<details") > len(references) > 15  # what lies within another stays there
    sections = [entry["section"] for entry in document["appendix"]]
    assert "How far they agree" in sections
    assert len(list(blocks(document["appendix"], "table"))) > 20
    (code,) = blocks(document["appendix"], "code")
    assert code["text"].startswith("study: fixture\ntitle:")


def test_a_page_is_printed_the_same_twice(html, tmp_path):
    data, pages = print_page(html, tmp_path)
    assert data.startswith(b"%PDF-")
    assert pages > 10
    assert data.count(b"/Type/Page\n") + data.count(b"/Type /Page\n") in (0, pages)
    assert b"Why does the classifier decide as it does?" in data
    assert b"/Interpolate true" not in data  # the world's pictures are shown pixel by pixel
    again, _ = print_page(html, tmp_path)
    assert again == data


def inflate(data):
    """A PDF with its streams as they read."""
    parts = [data]
    for found in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", data, flags=re.S):
        try:
            parts.append(zlib.decompress(found[1]))
        except zlib.error:
            continue
    return b"\n".join(parts)


def nasty(content, name):
    """The content with a name for whatever a study's files may name."""
    old = content.pictures[0]["name"]
    keys = ("name", "picture")

    def rename(rows):
        return [{k: name if k in keys and v == old else v for k, v in r.items()} for r in rows]

    tables = ("pictures", "predictions", "heatmaps", "lime", "thumbnails", "agreement", "effects")
    tables += ("localization", "faithfulness", "sanity")
    changed = {table: rename(getattr(content, table)) for table in tables}
    changed["predictions"] = [
        row | {"predicted_class": name, "target_class": name} for row in changed["predictions"]
    ]
    changed["concepts"] = [row | {"concept": name} for row in content.concepts[:1]]
    changed["claims"] = [row | {"says": name, "reason": name} for row in content.claims]
    changed["correctness"] = [row | {"model": name} for row in content.correctness]
    models = [content.study["models"][0] | {"name": name}, content.study["models"][1]]
    study = content.study | {"title": name, "models": models}
    return replace(content, study=study, **changed)


@pytest.mark.parametrize("name", [NASTY, SCRIPT], ids=["markup", "typst"])
def test_names_are_text(content, tmp_path, name):
    kept = {"concepts": content.concepts, "neurons": content.neurons}
    kept["localization_summary"] = content.localization_summary[:24]  # charts that name pictures
    html = report.render_report(nasty(replace(gallery_of(content), **kept), name))
    data, _ = print_page(html, tmp_path)
    read = inflate(data)
    for action in (b"/JavaScript", b"/JS", b"/Launch", b"/URI", b"/SubmitForm", b"/EmbeddedFile"):
        assert action not in read
    assert b"root:x:" not in read
    folder = tmp_path / "set"
    folder.mkdir()
    document = pdf.lay_out(html, tmp_path, folder)
    assert document["title"] == name
    said = list(texts(document))
    assert sum(text == name for text in said) > 5
    # As Typst has it: a heading that names the model is that very text.
    (folder / "report.typ").write_text(pdf.TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    compiler = typst.Compiler(str(folder / "report.typ"), root=str(folder))
    found = json.dumps(json.loads(compiler.query("heading")), ensure_ascii=False)
    assert json.dumps(name, ensure_ascii=False)[1:-1] in found


def test_of_too_many_pictures_those_that_agree_least_are_printed(content, html, lay_out):
    document = lay_out(html, most=1)
    (card,) = blocks(document, "card")
    where = {"method_a": "grad-cam", "method_b": "lime", "metric": "spearman", "control": None}
    rows = [row for row in content.agreement if where.items() <= row.items()]
    assert card["label"] == min(rows, key=lambda row: row["value"])["picture"]
    said = " ".join(texts(document["blocks"]))
    assert "Printed: 1 of 2 pictures" in said
    assert said.count("Clutter level") == 1  # no heading over nothing
    assert "Printed: " not in " ".join(texts(lay_out(html, most=2)["blocks"]))


def test_pictures_beside_the_page_are_printed(content, tmp_path):
    content = gallery_of(content)
    report.write_report(content, tmp_path / "report.html", tmp_path / "its pictures")
    whole = pdf.lay_out(report.render_report(content), tmp_path, tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'src="its%20pictures/' in html
    assert pdf.lay_out(html, tmp_path, tmp_path)["blocks"] == whole["blocks"]
    next((tmp_path / "its pictures").glob("*-0.webp")).unlink()
    with pytest.raises(ConsilienceError, match="a picture of the page cannot be read"):
        pdf.lay_out(html, tmp_path, tmp_path)


def test_large_pictures_are_printed_smoothly(content, tmp_path, lay_out):
    """As of photographs; those of the world are printed pixel by pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (192, 160, 3), dtype=np.uint8)
    size = {"height": 192, "width": 160, "image": figures.encode_webp(pixels)}
    kept = content.predictions[0]["picture"]
    thumbnails = [
        row if row["picture"] == kept or row["image"] is None else row | size
        for row in content.thumbnails
    ]
    html = report.render_report(replace(gallery_of(content), thumbnails=thumbnails))
    cards = {card["label"]: card for card in blocks(lay_out(html), "card")}
    for name, card in cards.items():
        pictures = [thumb["picture"] for row in card["rows"] for thumb in row["thumbs"]]
        assert {one["small"] for one in pictures if one} == {name == kept}
    data, _ = print_page(html, tmp_path)
    assert b"/Interpolate true" in data


def test_every_target_is_printed(content, lay_out):
    document = lay_out(report.render_report(gallery_of(targets_of(content))))
    card = next(blocks(document, "card"))
    assert [len(row["thumbs"]) for row in card["rows"]] == [6, 4]
    assert "second class" in " ".join(texts(card["rows"][1]["target"]))


def test_what_is_no_page_of_ours_is_refused(tmp_path):
    with pytest.raises(ConsilienceError, match=r"nowhere\.html: the page cannot be read"):
        pdf.print_page(tmp_path / "nowhere.html", tmp_path / "x.pdf")
    other = tmp_path / "other.html"
    other.write_text("<html><body><p>something else</p></body></html>")
    with pytest.raises(ConsilienceError, match="none of ours"):
        pdf.print_page(other, tmp_path / "x.pdf")
    other.write_text("<html><p>never closed</html>")
    with pytest.raises(ConsilienceError, match="</html> closes <p>"):
        pdf.print_page(other, tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()
