"""Print the page: a PDF of the same content, set by Typst from the page itself.

The page is what is read, so that nothing stands in one and not in the other; what it folds away
follows as an appendix. Its text goes to the typesetter as data, never as Typst's own language, and
Typst reads no file but those written here: a name may be anything.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from .errors import ConsilienceError
from .files import write_atomically

TEMPLATE = Path(__file__).parent.parent / "report" / "report.typ"
"""How it looks; a step that prints a page depends on it."""

_SVG = "http://www.w3.org/2000/svg"
_FONT = "DejaVu Sans"  # of charts: matplotlib brings it
_SMALL = 128  # pixels of a picture's longer side up to which it is enlarged without smoothing
_QUALITY = 90  # of JPEG

_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

_VOID = frozenset(("meta", "link", "img", "br", "input"))
_INLINE = frozenset(("a", "b", "br", "code", "data", "em", "i", "small", "span", "strong"))
_UNPRINTED = frozenset(("head", "nav", "script", "style", "dialog", "button"))
_UNPRINTED_CLASSES = frozenset(("screen", "skip", "tools", "unseen"))
_HEADINGS = {"h2": 1, "h3": 2, "h4": 3, "h5": 4}
_SIGNS = {"right": "yes", "wrong": "no"}


@dataclass
class Element:
    """An element of the page, its children elements or text."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(self.attributes.get("class", "").split())

    def iterate(self) -> Iterator[Element]:
        """Go through the element and all within it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.iterate()

    def find(self, tag: str, name: str = "") -> Element | None:
        """Return the first element within of a tag and, where given, a class."""
        found = (e for e in self.iterate() if e.tag == tag and (not name or name in e.classes))
        return next(found, None)

    @property
    def elements(self) -> list[Element]:
        return [child for child in self.children if isinstance(child, Element)]


class _Reader(HTMLParser):
    """Builds the tree of a page whose every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("page", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attributes})
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1].tag != tag:
            raise ConsilienceError(f"the page's </{tag}> closes <{self.open[-1].tag}>")
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(html: str) -> tuple[Element, list[str]]:
    """Return the page's tree, and its drawings as they stand there.

    An ``svg`` of the tree is empty and has the place of its drawing as ``data-drawing``: HTML's
    parser would write the names in it small.
    """
    drawings = re.findall(r"<svg\b.*?</svg>", html, flags=re.S)
    numbers = iter(range(len(drawings)))
    reader = _Reader()
    reader.feed(
        re.sub(
            r"<svg\b.*?</svg>",
            lambda _: f'<svg data-drawing="{next(numbers)}"></svg>',
            html,
            flags=re.S,
        )
    )
    reader.close()
    return reader.root, drawings


def print_page(page: str | Path, path: str | Path, most: int = 200) -> int:
    """Write the PDF of a page to ``path``, atomically; the same page gives the same bytes.

    Parameters
    ----------
    page
        What :func:`consilience.report.write_report` wrote. Pictures that lie beside it are read.
    path
        Of the PDF.
    most
        Cards of the gallery that are printed at most; of more, those whose explanations agree
        least.

    Returns
    -------
    int
        The number of pages.

    Raises
    ------
    ConsilienceError
        If there is no page, it is not one of ours, or it cannot be set.
    """
    page = Path(page)
    try:
        html = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConsilienceError(f"{page}: the page cannot be read ({error})") from None
    with tempfile.TemporaryDirectory(prefix="consilience-pdf-") as folder:
        lay_out(html, page.parent, Path(folder), most)
        shutil.copy(TEMPLATE, folder)
        pdf, pages = _typeset(Path(folder), page)
    write_atomically(path, lambda part: Path(part).write_bytes(pdf))
    return pages


def _typeset(folder: Path, page: Path) -> tuple[bytes, int]:
    """Let Typst set ``document.json`` in ``folder``; return the PDF and its number of pages."""
    try:
        import matplotlib
        import typst
    except ImportError as error:
        raise ConsilienceError(
            f"{page}: {error.name} is not installed, which prints it; `pip install {error.name}`, "
            "or set report.pdf to false and print the page from a browser"
        ) from None

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    compiler = typst.Compiler(
        str(folder / TEMPLATE.name),
        root=str(folder),
        font_paths=[str(fonts)],
        package_path=str(folder),
        package_cache_path=str(folder),
    )
    try:
        pdf = compiler.compile(format="pdf")
        pages = json.loads(compiler.query("<pages>", field="value", one=True))
    except typst.TypstError as error:
        raise ConsilienceError(
            f"{page}: could not be printed ({error.message}); the page itself is whole: print it "
            "from a browser, or set report.pdf to false"
        ) from None
    return pdf, pages


def lay_out(html: str, beside: Path, folder: Path, most: int = 200) -> dict:
    """Write what Typst is to set into ``folder``: ``document.json`` and the pictures it names.

    Parameters
    ----------
    html
        The page.
    beside
        Folder that the page lies in.
    most
        As for :func:`print_page`.

    Returns
    -------
    dict
        What ``document.json`` holds.

    Raises
    ------
    ConsilienceError
        If it is not one of our pages, or a picture is missing beside it.
    """
    root, drawings = read_page(html)
    head, main = root.find("header"), root.find("main")
    if head is None or main is None or head.find("h1") is None:
        raise ConsilienceError("the page to print is none of ours: write the report anew")
    printer = _Printer(root, drawings, beside, folder, most)
    document = {
        "title": _text(head.find("h1")),
        "kicker": [_text(p) for p in head.elements if "kicker" in p.classes],
        "asked": [_text(p) for p in head.elements if "asked" in p.classes],
        "blocks": printer.flow(main.children),
    }
    document["appendix"] = printer.appendix
    text = json.dumps(document, ensure_ascii=False)
    (folder / "document.json").write_text(text, encoding="utf-8")
    return document


def _text(element: Element | str) -> str:
    """Return the text of an element, a space for any run of spaces."""
    if isinstance(element, str):
        return element
    return _collapse("".join(map(_text, element.children))).strip()


def _collapse(text: str) -> str:
    return re.sub(r"[ \t\r\n\f]+", " ", text)


class _Printer:
    """Turns elements into blocks: dictionaries with ``is`` and what the template needs of each."""

    def __init__(
        self,
        root: Element,
        drawings: list[str],
        beside: Path,
        folder: Path,
        most: int,
    ) -> None:
        self.drawings, self.beside, self.folder = drawings, beside, folder
        self.cards, self.count = _choose_cards(root, most)
        self.appendix: list[dict] = []
        self.folded = False  # whether what is being printed stands in the appendix
        self.label: str | None = None  # of the next heading
        self.section = ""
        # What a link can lead to: sections (by their heading) and the gallery's cards.
        self.targets = {
            element.attributes["id"]
            for element in root.iterate()
            if "id" in element.attributes
            and (
                element.attributes["id"] in self.cards
                or (element.tag == "section" and _has_heading(element))
            )
        }

    # --- blocks

    def flow(self, nodes: Iterable[Element | str]) -> list[dict]:
        """Return the blocks of some nodes; text between them becomes a paragraph."""
        blocks: list[dict] = []
        waiting: list[Element | str] = []

        def finish() -> None:
            if runs := self.runs(waiting):
                blocks.append({"is": "paragraph", "style": "", "runs": runs})
            waiting.clear()

        for node in nodes:
            if isinstance(node, str) or (node.tag in _INLINE and not _unprinted(node)):
                waiting.append(node)
                continue
            finish()
            if not _unprinted(node):
                blocks += self.block(node)
        finish()
        return blocks

    def block(self, element: Element) -> list[dict]:
        tag, classes = element.tag, element.classes
        if tag in _HEADINGS:
            return [self.heading(element)]
        if tag == "p":
            runs = self.runs(element.children)
            styles = ("lead", "finding", "quiet", "off", "target")
            style = next((name for name in styles if name in classes), "")
            return [{"is": "paragraph", "style": style, "runs": runs}] if runs else []
        if tag == "table":
            return [self.table(element)]
        if tag == "details":
            return self.details(element)
        if tag == "svg":
            image, alt = self.draw(element)
            return [{"is": "drawing", "image": image, "alt": alt}]
        if tag == "img":
            return [{"is": "picture", **self.picture(element)}]
        if tag == "ul":
            return [self.bullets(element)]
        if tag == "dl":
            return [self.terms(element)]
        if tag == "pre":
            text = "".join(_raw(element)).strip("\n")
            return [{"is": "code", "text": text}]
        if tag == "article":
            return [self.card(element)] if element.attributes["id"] in self.cards else []
        if "colourbar" in classes:
            return [self.colour_bar(element)]
        if "charts" in classes or "columns" in classes:
            items = [self.block(child) for child in element.elements if not _unprinted(child)]
            items = [item for item in items if item]
            return [{"is": "columns", "columns": _columns(classes, len(items)), "items": items}]
        if "strip" in classes:
            pictures = [self.picture(one) for one in element.elements if one.tag == "img"]
            return [{"is": "strip", "pictures": pictures}]
        name = element.attributes.get("id") if tag == "section" else None
        if name in self.targets:
            self.label = name
        blocks = self.flow(element.children)
        if name == "gallery" and len(self.cards) < self.count:
            return _drop_bare_headings([blocks[0], self.left_out(), *blocks[1:]])
        return blocks

    def heading(self, element: Element) -> dict:
        level, label, self.label = _HEADINGS[element.tag], self.label, None
        if level == 1:
            self.section = _text(element)
        return {
            "is": "heading",
            "level": level,
            "runs": self.runs(element.children),
            "label": None if self.folded else label,
        }

    def details(self, element: Element) -> list[dict]:
        """What the page folds away goes into the appendix, and a reference takes its place."""
        summary = next(one for one in element.elements if one.tag == "summary")
        rest = [child for child in element.children if child is not summary]
        runs = self.runs(summary.children)
        if self.folded:
            heading = {"is": "heading", "level": 3, "runs": runs, "label": None}
            return [heading, *self.flow(rest)]
        label = f"appendix-{len(self.appendix) + 1}"
        entry = {"section": self.section, "runs": runs, "label": label}
        self.appendix.append(entry)
        self.folded = True
        entry["blocks"] = self.flow(rest)
        self.folded = False
        return [{"is": "reference", "runs": runs, "label": label}]

    def table(self, element: Element) -> dict:
        caption = next((one for one in element.elements if one.tag == "caption"), None)
        head, body = [], []
        for part in element.elements:
            if part.tag not in ("thead", "tbody") or _unprinted(part):
                continue
            rows = [row for row in part.elements if row.tag == "tr"]
            (head if part.tag == "thead" else body).extend(
                [self.cell(cell, row) for cell in row.elements] for row in rows
            )
        width = max(
            (sum(cell["colspan"] for cell in row) for row in [*head, *body] if row), default=1
        )
        named = caption is not None and not _unprinted(caption)
        return {
            "is": "table",
            "caption": self.runs(caption.children) if named else [],
            "columns": width,
            "head": [row for row in head if row],
            "body": [row for row in body if row],
            "kind": next((k for k in ("bars", "samples") if k in element.classes), ""),
        }

    def cell(self, element: Element, row: Element) -> dict:
        pictures = [self.picture(one) for one in element.iterate() if one.tag == "img"]
        bars = [
            bar
            for one in element.iterate()
            if one.tag == "svg"
            for bar in _read_bars(self.drawings[_place(one)])
        ]
        right = "n" in element.classes
        return {
            "runs": self.runs(element.children, small_below=right),
            "right": right,
            "head": element.tag == "th",
            "group": "group" in row.classes,
            "bold": "group" in row.classes or "highest" in element.classes,
            "absent": "absent" in row.classes,
            "colspan": int(element.attributes.get("colspan", 1)),
            "rowspan": int(element.attributes.get("rowspan", 1)),
            "pictures": pictures,
            "bars": bars,
        }

    def bullets(self, element: Element) -> dict:
        items = [one for one in element.elements if one.tag == "li"]
        if "legend" in element.classes:
            return {
                "is": "legend",
                "items": [
                    {"image": self.draw(one.find("svg"))[0], "runs": self.runs(one.children)}
                    for one in items
                ],
            }
        marked = not {"plain", "neurons"} & element.classes
        return {"is": "list", "marked": marked, "items": [self.flow(one.children) for one in items]}

    def terms(self, element: Element) -> dict:
        items = []
        for one in element.iterate():
            if one.tag == "dt":
                items.append({"term": self.runs(one.children), "runs": []})
            elif one.tag == "dd":
                items[-1]["runs"] = self.runs(one.children)
        return {"is": "terms", "items": items}

    def card(self, element: Element) -> dict:
        header = element.find("header")
        rows, target = [], []
        for child in element.elements:
            if "target" in child.classes:
                target = self.runs(child.children)
            elif "thumbs" in child.classes:
                rows.append({"target": target, "thumbs": list(map(self.thumb, child.elements))})
        return {
            "is": "card",
            "label": element.attributes["id"],
            "said": [self.runs(p.children) for p in header.elements if p.tag == "p"],
            "rows": rows,
        }

    def thumb(self, figure: Element) -> dict:
        image, missing = figure.find("img"), figure.find("p", "missing")
        notes = [
            [_text(one) for one in pair.elements]
            for pair in figure.iterate()
            if pair.tag == "div" and pair.find("dt")
        ]
        return {
            "picture": None if image is None else self.picture(image),
            "missing": "" if missing is None else _text(missing),
            "name": _text(figure.find("span", "name")),
            "notes": notes,
        }

    def left_out(self) -> dict:
        """Say how many cards are not printed."""
        text = (
            f"Printed: {len(self.cards)} of {self.count} pictures, those on which LIME and the "
            "first of the class activation maps agree least. All are on the page itself."
        )
        return {"is": "paragraph", "style": "", "runs": [{"text": text}]}

    def colour_bar(self, element: Element) -> dict:
        image, alt = self.draw(element.find("svg"), width=200, height=10)
        ends = [_text(one) for one in element.iterate() if one.tag == "span"]
        return {"is": "scale", "image": image, "alt": alt, "ends": ends}

    # --- text

    def runs(self, nodes: Iterable[Element | str], small_below: bool = False) -> list[dict]:
        """Return text in pieces of one look each, without space at either end."""
        found = list(self._runs(nodes, {}, small_below))
        runs: list[dict] = []
        for run in found:
            last = runs[-1]["text"] if runs else " "
            if last.endswith((" ", "\n")):
                run["text"] = run["text"].lstrip(" ")
            if run["text"]:
                runs.append(run)
        while runs and not runs[-1]["text"].rstrip():
            runs.pop()
        if runs:
            runs[-1]["text"] = runs[-1]["text"].rstrip()
        return runs

    def _runs(
        self, nodes: Iterable[Element | str], look: dict, small_below: bool
    ) -> Iterator[dict]:
        for node in nodes:
            if isinstance(node, str):
                yield {"text": _collapse(node), **look}
                continue
            if _unprinted(node) or node.tag not in _INLINE:
                continue
            if node.tag == "br":
                yield {"text": "\n", **look}
                continue
            own, classes = dict(look), node.classes
            if node.tag in ("b", "strong"):
                own["bold"] = True
            if node.tag == "code":
                own["code"] = True
            if node.tag == "small" or classes & {"quiet", "none"}:
                own["quiet"] = True
            if "tag" in classes:
                own["tag"] = "plain" if "plain" in classes else "warn"
            if classes & {"verdict", "mark"}:
                names = ("yes", "no", "open", "off", "right", "wrong")
                sign = next((name for name in names if name in classes), "off")
                own["sign"] = _SIGNS.get(sign, sign)
            target = node.attributes.get("href", "").removeprefix("#")
            if node.tag == "a" and target in self.targets:
                own["to"] = target
            if node.tag == "small" and small_below:
                yield {"text": "\n", **look}
            yield from self._runs(node.children, own, small_below)

    # --- pictures

    def picture(self, element: Element) -> dict:
        """Write a picture of the page as a file; return its name, alternative text and kind."""
        source = element.attributes["src"]
        if source.startswith("data:"):
            data = base64.b64decode(source.partition(",")[2])
        else:
            try:
                data = (self.beside / unquote(source)).read_bytes()
            except OSError as error:
                raise ConsilienceError(
                    f"{self.beside / source}: a picture of the page cannot be read "
                    f"({error.strerror}); write the report anew"
                ) from None
        name = f"{hashlib.sha256(data).hexdigest()[:24]}.jpg"
        with Image.open(io.BytesIO(data)) as image:
            small = max(image.size) <= _SMALL
            if not (self.folder / name).exists():
                image.convert("RGB").save(
                    self.folder / name, "JPEG", quality=_QUALITY, subsampling=0 if small else 2
                )
        return {"image": name, "alt": element.attributes.get("alt", ""), "small": small}

    def draw(
        self, element: Element, width: float | None = None, height: float | None = None
    ) -> tuple[str, str]:
        """Write a drawing of the page as a file; return its name and its alternative text."""
        # HTML takes characters that XML does not; a file's name may hold them.
        text = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", self.drawings[_place(element)])
        if "xmlns=" not in text.partition(">")[0]:
            text = text.replace("<svg", f'<svg xmlns="{_SVG}"', 1)
        root = ET.fromstring(text)
        for name in ("data-csv", "class", "role", "aria-hidden"):
            root.attrib.pop(name, None)
        alt = root.attrib.pop("aria-label", "")
        for name, value in (("width", width), ("height", height)):
            if value is not None:
                root.set(name, str(value))
        for one in root.iter():
            if "class" in one.attrib:  # the style sheet's colours
                for name in one.attrib.pop("class").split():
                    if name in PARTS:
                        one.set("fill", PARTS[name])
            if one is root or "font-family" in one.attrib:
                one.set("font-family", _FONT)
        data = ET.tostring(root)
        name = f"{hashlib.sha256(data).hexdigest()[:24]}.svg"
        (self.folder / name).write_bytes(data)
        return name, alt


PARTS = {
    "part-0": "#0a9a70",
    "part-1": "#d55e00",
    "part-2": "#8a8f98",
    "part-3": "#2b7fc0",
    "part-4": "#c0659a",
}
"""Colours of the parts of a bar, as the style sheet has them."""


def _choose_cards(root: Element, most: int) -> tuple[set[str], int]:
    """Return which of the gallery's cards are printed, and how many there are."""
    cards = [element for element in root.iterate() if element.tag == "article"]
    known = {card.attributes["id"]: json.loads(card.attributes["data-card"]) for card in cards}
    order = sorted(
        known,
        key=lambda name: (known[name]["agreement"] is None, known[name]["agreement"] or 0),
    )
    return set(order[:most]), len(cards)


def _drop_bare_headings(blocks: list[dict]) -> list[dict]:
    """Leave out headings that nothing stands under any more."""
    kept: list[dict] = []
    for block in [*blocks, {"is": "heading", "level": 1}]:
        while (
            block["is"] == "heading"
            and kept
            and kept[-1]["is"] == "heading"
            and kept[-1]["level"] >= block["level"]
        ):
            kept.pop()
        kept.append(block)
    return kept[:-1]


def _unprinted(element: Element) -> bool:
    return element.tag in _UNPRINTED or bool(_UNPRINTED_CLASSES & element.classes)


def _place(drawing: Element) -> int:
    """Return which of the page's drawings stands here."""
    return int(drawing.attributes["data-drawing"])


def _has_heading(section: Element) -> bool:
    return any(one.tag in _HEADINGS for one in section.iterate())


def _raw(element: Element) -> Iterator[str]:
    """Text of an element with all its spaces."""
    for child in element.children:
        if isinstance(child, str):
            yield child
        else:
            yield from _raw(child)


def _columns(classes: frozenset[str], items: int) -> int:
    """How many columns a row of the page's blocks has on paper."""
    if "loose" in classes:  # of tables that the page sets side by side where there is room
        return 1
    if "small" in classes:
        return 4
    return 3 if "charts" in classes and (items == 3 or items > 4) else 2


def _read_bars(drawing: str) -> list[dict]:
    """Parts of a bar that a table's cell holds: where each begins and ends, in percent."""
    bars = []
    for rect in re.findall(r"<rect\b([^>]*)>", drawing):
        known = dict(re.findall(r'([\w-]+)="([^"]*)"', rect))
        start = float(known.get("x", "0").rstrip("%"))
        names = [name for name in known.get("class", "").split() if name in PARTS]
        bars.append(
            {
                "start": start,
                "width": float(known["width"].rstrip("%")),
                "colour": PARTS[names[0]] if names else None,
            }
        )
    return bars
