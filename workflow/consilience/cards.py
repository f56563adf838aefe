"""Draw the neurons of a layer as cards: the pictures that activate each most, and its label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .files import fill_folder
from .images import read_picture
from .progress import track

PICTURES = 5
SIDE = 48
COLUMNS = 8
CARDS = 256

_GAP = 3
_MARGIN = 16
_WIDTH = PICTURES * SIDE + (PICTURES - 1) * _GAP
_TEXT = 33
_HEIGHT = _TEXT + SIDE
_HEAD = 30
_PAPER, _EMPTY, _INK, _QUIET, _DOUBT = "#ffffff", "#eeeeee", "#111111", "#5c5c5c", "#a03c00"


def write_cards(
    neurons: Iterable[Mapping], pictures: Iterable[Mapping], folder: str | Path
) -> list:
    """Draw all layers of one model into ``folder``, as ``<layer>-<page>.png``, pages from 1.

    Parameters
    ----------
    neurons
        Rows of the table ``NEURONS`` of one model.
    pictures
        Rows of the table ``PICTURES``: the probe pictures. One that did not decode leaves its
        place empty, as does one that is not there.
    folder
        Made, or replaced, as a whole. Characters of a layer's name that a file name cannot hold are
        percent-encoded.

    Returns
    -------
    list of pathlib.Path
        The files.
    """
    thumbnails = Thumbnails(pictures)
    layers: dict[str, list[Mapping]] = {}
    for row in neurons:
        layers.setdefault(row["layer"], []).append(row)
    names = []

    def draw(part: Path) -> None:
        for layer, rows in layers.items():
            for number, page in enumerate(draw_cards(rows, thumbnails), start=1):
                names.append(f"{quote(layer, safe='')}-{number}.png")
                page.save(part / names[-1])

    fill_folder(folder, draw)
    return [Path(folder, name) for name in names]


def draw_cards(neurons: Sequence[Mapping], thumbnails: Mapping[str, Image.Image]) -> Iterator:
    """Draw the neurons of one layer of one model, the most similar to its label first.

    A card says the unit, its label and, as far as the row has them, similarity, margin and
    p-value (``p_value``); a label that never occurs in the pictures, or does not stand
    (``stands``), is marked. Neurons without a label come last, with the reason.

    Parameters
    ----------
    neurons
        Rows of the table ``NEURONS``, at least one.
    thumbnails
        By the picture's name; RGB, :data:`SIDE` pixels square.

    Yields
    ------
    PIL.Image.Image
        Pages of at most :data:`CARDS` cards, RGB.
    """
    rows = sorted(neurons, key=lambda row: (row["rank"] is None, row["rank"] or 0, row["unit"]))
    head, label, small = (ImageFont.load_default(size) for size in (16, 13, 11))
    starts = range(0, len(rows), CARDS)
    for number, start in enumerate(track(starts, "pages"), start=1):
        chosen = rows[start : start + CARDS]
        columns = min(COLUMNS, len(chosen))
        down = -(-len(chosen) // columns)
        size = (
            max(3, columns) * (_WIDTH + _MARGIN) + _MARGIN,
            _HEAD + down * (_HEIGHT + _MARGIN) + _MARGIN,
        )
        page = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(page)
        title = f"{rows[0]['model']}, {rows[0]['layer']}: {len(rows)} neurons"
        title += f", page {number} of {len(starts)}" if len(starts) > 1 else ""
        draw.text((_MARGIN, 8), _fit(title, head, size[0] - 2 * _MARGIN), _INK, head)
        for place, row in enumerate(chosen):
            left = _MARGIN + place % columns * (_WIDTH + _MARGIN)
            top = _HEAD + _MARGIN + place // columns * (_HEIGHT + _MARGIN)
            title, about, doubt = _say(row)
            draw.text((left, top), _fit(title, label, _WIDTH), _DOUBT if doubt else _INK, label)
            draw.text((left, top + 16), _fit(about, small, _WIDTH), _QUIET, small)
            for index, name in enumerate(row["top_pictures"][:PICTURES]):
                corner = (left + index * (SIDE + _GAP), top + _TEXT)
                if (thumbnail := thumbnails.get(name)) is None:
                    draw.rectangle((*corner, corner[0] + SIDE - 1, corner[1] + SIDE - 1), _EMPTY)
                else:
                    page.paste(thumbnail, corner)
        yield page


class Thumbnails(dict):
    """Pictures by name, cut square and reduced, each decoded when it is first asked for."""

    def __init__(self, pictures: Iterable[Mapping]):
        super().__init__()
        self._rows = {row["name"]: row for row in pictures if row["error"] is None}

    def get(self, name, default=None):
        if name not in self and name in self._rows:
            picture = read_picture(self._rows[name]).convert("RGB")
            self[name] = ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.BOX)
        return super().get(name, default)


def _say(row: Mapping) -> tuple[str, str, bool]:
    """Return a card's title, its second line, and whether its label is in doubt."""
    if row["concept"] is None:
        return f"{row['unit']}  no label", row["status"], True
    numbers = (
        ("similarity", "similarity", "#.3g"),
        ("margin", "margin", "#.3g"),
        ("p", "p_value", ".2g"),
    )
    about = [f"{name} {row[key]:{form}}" for name, key, form in numbers if row.get(key) is not None]
    doubts = ["absent"] if row["absent"] else []
    doubts += ["does not stand"] if row.get("stands") is False else []
    return f"{row['unit']}  {row['concept']}", " · ".join(doubts + about), bool(doubts)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Shorten a text to a width, pixels; a line break becomes a space."""
    text = " ".join(text.split("\n"))
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
