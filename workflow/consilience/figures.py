"""Draw what the report shows: heatmaps and outlines over pictures, and charts as SVG.

Charts take the page's text colour (``currentColor``) and carry no style sheet and no style
attribute, so that they are readable in light and dark and pass a strict content security policy.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

COLOURS = ("#d55e00", "#2b7fc0", "#0a9a70", "#c0659a", "#8a7a00", "#7a6fd0")
"""Okabe and Ito's colours, which colour-blind people tell apart, with a contrast of about 3 or
more on white and on near-black; used with :data:`MARKERS`, never as the only sign."""

MARKERS = ("D", "o", "s", "^", "v", "P")

COLORMAP = "inferno"
"""Of heatmaps: perceptually uniform, and in grey still from dark to light."""

MANY_POINTS = 500
"""Points of a series above which they are drawn as one shape: a page of tens of thousands of
elements is slow, and nobody points at one dot of so many. Their values are in the chart's data."""

_SIZE = 8  # of most type, points

_INK = "#010203"  # stands for the page's text colour until the SVG is written
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
ET.register_namespace("", _SVG)

_STYLE = {
    "svg.fonttype": "none",
    # Identifiers are hashes; without a salt of ours they would differ from run to run.
    "svg.hashsalt": "consilience",
    # A name is text, also where it holds two dollar signs.
    "text.parse_math": False,
    "font.size": _SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "axes.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}


@dataclass(frozen=True)
class Group:
    """What a chart shows at one place of its category axis.

    Attributes
    ----------
    label
        Name of the place.
    points
        (name, value) of every single picture; a value of None is not drawn but keeps its place.
    mean, low, high
        Mean and bounds of its interval; None where not known.
    floor, ceiling
        What the mean is to be read against: what it would be for nothing, and the most it could
        be; the room between them is shaded. None where not known.
    floor_name
        Of the floor, written at it.
    has_room
        Whether the ceiling lies beyond the floor; of a distance that is below it.
    """

    label: str
    points: Sequence[tuple[str, float | None]] = ()
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    floor_name: str = ""
    has_room: bool = True


@dataclass(frozen=True)
class Series:
    """Groups that belong together, drawn in one colour and with one marker."""

    label: str
    groups: Sequence[Group] = field(default_factory=tuple)
    style: int = 0

    @property
    def colour(self) -> str:
        return COLOURS[self.style % len(COLOURS)]

    @property
    def marker(self) -> str:
        return MARKERS[self.style % len(MARKERS)]


@dataclass(frozen=True)
class Curve:
    """A line over an axis of numbers: ``ys`` at ``xs``, of equal length."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: int = 0
    dashed: bool = False


def enlarge(view: np.ndarray, side: int = 192) -> np.ndarray:
    """Bring a picture to about ``side`` pixels for display.

    Small pictures are enlarged by a whole factor without smoothing, so that what the model saw
    stays visible; large ones are reduced.

    Parameters
    ----------
    view
        uint8, shape (height, width, 3).
    side
        Aim for the longer side, pixels.

    Returns
    -------
    numpy.ndarray
        uint8, shape (height', width', 3).
    """
    longest = max(view.shape[:2])
    if factor := side // longest:
        return view.repeat(factor, axis=0).repeat(factor, axis=1)
    return shrink(view, side)


def shrink(view: np.ndarray, side: int = 192) -> np.ndarray:
    """Bring a large picture down to ``side`` pixels; one that is not much larger stays as it is.

    Parameters are those of :func:`enlarge`.

    Returns
    -------
    numpy.ndarray
        uint8, shape (height', width', 3).
    """
    longest = max(view.shape[:2])
    if longest <= 1.25 * side:
        return view
    size = [max(1, round(side * length / longest)) for length in view.shape[1::-1]]
    return np.asarray(Image.fromarray(view).resize(size, Image.Resampling.LANCZOS))


def overlay(view: np.ndarray, heatmap: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """Lay a heatmap over a picture.

    The picture is turned to grey, so that every colour seen is one of the colour bar's.

    Parameters
    ----------
    view
        uint8, shape (height, width, 3).
    heatmap
        Float in [0, 1], of any shape with the same sides' ratio; it is resized smoothly.
    opacity
        Of the heatmap, in [0, 1].

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3).
    """
    colours = _colour(heatmap, *view.shape[:2])
    grey = np.asarray(Image.fromarray(view).convert("L"), dtype=np.float64)[..., None] / 255
    return ((opacity * colours + (1 - opacity) * grey) * 255).round().astype(np.uint8)


def colour(heatmap: np.ndarray, side: int) -> np.ndarray:
    """Draw a heatmap's colours alone, its longer side at most ``side`` pixels.

    Parameters
    ----------
    heatmap
        Float in [0, 1], shape (height, width).

    Returns
    -------
    numpy.ndarray
        uint8, shape (height', width', 3).
    """
    scale = min(1, side / max(heatmap.shape))
    height, width = (max(1, round(scale * length)) for length in heatmap.shape)
    return (_colour(heatmap, height, width) * 255).round().astype(np.uint8)


def _colour(heatmap: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a heatmap to a size, smoothly, and into colour; float64 in [0, 1]."""
    heat = Image.fromarray(np.nan_to_num(np.asarray(heatmap, dtype=np.float32)))
    heat = np.asarray(heat.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    return matplotlib.colormaps[COLORMAP](heat)[..., :3]


def outline_mask(view: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Darken a picture outside a mask and draw the mask's edge, white beside black.

    Parameters
    ----------
    view
        uint8, shape (height, width, 3).
    mask
        Shape (height', width'), 0 is outside; resized without smoothing.

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3).
    """
    height, width = view.shape[:2]
    inside = Image.fromarray(np.where(np.asarray(mask) != 0, 255, 0).astype(np.uint8))
    inside = np.asarray(inside.resize((width, height), Image.Resampling.NEAREST)) > 0
    outer = _dilate(inside)
    drawn = np.where(inside[..., None], view, view * 0.35).astype(np.uint8)
    drawn[_dilate(outer) & ~outer] = 0
    drawn[outer & ~inside] = 255
    return drawn


def _dilate(inside: np.ndarray) -> np.ndarray:
    """Grow a region by one pixel in the four directions."""
    grown = inside.copy()
    grown[1:] |= inside[:-1]
    grown[:-1] |= inside[1:]
    grown[:, 1:] |= inside[:, :-1]
    grown[:, :-1] |= inside[:, 1:]
    return grown


def encode_webp(pixels: np.ndarray, quality: int = 80) -> bytes:
    """Encode uint8 pixels, shape (height, width, 3), as WebP without any metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def sample_colormap(steps: int = 9) -> list[tuple[float, str]]:
    """Return (place in [0, 1], colour as #rrggbb) along :data:`COLORMAP`, for a colour bar."""
    colormap = matplotlib.colormaps[COLORMAP]
    return [
        (float(place), matplotlib.colors.to_hex(colormap(place)))
        for place in np.linspace(0, 1, steps)
    ]


def plot_levels(
    series: Sequence[Series],
    name: str,
    title: str,
    xlabel: str,
    limits: tuple[float, float],
    chance: Sequence[float | None] = (),
    beyond: int | None = None,
    percent: bool = False,
    width: float = 3.1,
    description: str = "",
    connected: bool = True,
) -> str:
    """Plot values at ordered levels, one line a series, with intervals and every single point.

    Parameters
    ----------
    series
        All with the same levels.
    name
        Letters, digits and hyphens; identifiers in the SVG begin with it.
    title
        Heading, also what a screen reader says first.
    xlabel
        Label of the axis of levels.
    limits
        Of the values.
    chance
        What unrelated explanations score, a level; drawn dashed.
    beyond
        Index of the first level beyond what the models were trained on; shaded from there.
    percent
        Whether to write values as percentages.
    width
        Of the chart, inches of a screen on which type is 8 points.
    description
        What a screen reader says after the title.
    connected
        Whether a line joins the means of a series.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with matplotlib.rc_context(_STYLE):
        labels = [group.label for group in series[0].groups]
        # About what labels take at this size of type; where they do not fit, they slant.
        slanted = 0.07 * sum(len(label) + 1 for label in labels) > width - 0.5
        below = 0.38 + (0.045 * max(map(len, labels)) if slanted else 0)
        figure, axes = _axes(width, 0.7 * width - 0.38 + below, left=0.42, bottom=below, top=0.24)
        places = np.arange(len(labels))
        if beyond is not None and beyond < len(labels):
            axes.axvspan(beyond - 0.5, len(labels) - 0.5, color=_INK, alpha=0.05, linewidth=0)
        if any(value is not None for value in chance):
            values = [np.nan if value is None else value for value in chance]
            axes.plot(places, values, color=_INK, alpha=0.5, linewidth=0.9, linestyle=(0, (3, 2)))
        tips = {}
        for index, one in enumerate(series):
            shift = 0.12 * (index - (len(series) - 1) / 2)
            _draw_room(axes, one.groups, places, vertical=True)
            key = f"{name}-{index}"
            _draw_series(axes, one, places + shift, key, tips, vertical=True, connected=connected)
        slant = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(places, labels, **slant)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(*limits)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel(xlabel)
        axes.set_title(title)
        table = _tabulate(series, list(zip(labels, chance, strict=False)))
        return _to_svg(figure, name, _say(title, description), tips, table)


def _say(title: str, description: str) -> str:
    return f"{title}. {description}" if description else title


def plot_groups(
    series: Sequence[Series],
    name: str,
    title: str,
    limits: tuple[float, float],
    chance: float | None = None,
    description: str = "",
) -> str:
    """Plot one row a group (from top to bottom) with its interval and every single point.

    Parameters are those of :func:`plot_levels`; each series has groups of its own, and ``title``
    is only what a screen reader says.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with matplotlib.rc_context(_STYLE):
        rows = sum(len(one.groups) for one in series)
        # About what the longest label takes at this size of type.
        left = 0.1 + 0.06 * max(len(group.label) for one in series for group in one.groups)
        figure, axes = _axes(3.6, 0.27 + 0.36 * rows, left=left, bottom=0.22, top=0.05)
        if chance is not None:
            axes.axvline(chance, color=_INK, alpha=0.5, linewidth=0.9, linestyle=(0, (3, 2)))
        tips, row = {}, 0
        for index, one in enumerate(series):
            places = np.arange(row, row + len(one.groups))
            _draw_room(axes, one.groups, places, vertical=False)
            _draw_series(axes, one, places, f"{name}-{index}", tips, vertical=False)
            row += len(one.groups)
        axes.set_yticks(range(rows), [group.label for one in series for group in one.groups])
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(*limits)
        axes.grid(axis="x", color=_INK, alpha=0.12, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        table = _tabulate(series, [("", chance)])
        return _to_svg(figure, name, _say(title, description), tips, table)


def plot_curves(
    curves: Sequence[Curve],
    name: str,
    title: str,
    xlabel: str,
    limits: tuple[float, float],
    width: float = 2.1,
    description: str = "",
) -> str:
    """Plot lines over shares from none to all, one of several small charts side by side.

    Parameters are those of :func:`plot_levels`; ``limits`` are of the values.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(width, 0.72 * width, left=0.36, bottom=0.38, top=0.24)
        for curve in curves:
            axes.plot(
                curve.xs,
                curve.ys,
                color=_INK if curve.dashed else COLOURS[curve.style % len(COLOURS)],
                alpha=0.6 if curve.dashed else 1,
                linewidth=1.1 if curve.dashed else 1.6,
                linestyle=(0, (3, 2)) if curve.dashed else "-",
                clip_on=False,
            )
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_ylim(*limits)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        axes.set_xlabel(xlabel)
        axes.set_title(title)
        table = [("series", "x", "y")]
        table += [
            (one.label, float(x), float(y))
            for one in curves
            for x, y in zip(one.xs, one.ys, strict=True)
        ]
        return _to_svg(figure, name, _say(title, description), {}, table)


def _tabulate(series: Sequence[Series], chance: Sequence[tuple[str, float | None]]) -> list[tuple]:
    """Return what a chart shows as rows, a value each; ``chance`` by the place it holds for."""
    rows = [("series", "at", "kind", "name", "value")]
    for one in series:
        for group in one.groups:
            rows += [
                (one.label, group.label, "picture", name, float(value))
                for name, value in group.points
                if value is not None
            ]
            for kind in ("mean", "low", "high", "floor", "ceiling"):
                if (value := getattr(group, kind)) is not None:
                    name = group.floor_name if kind == "floor" else ""
                    rows.append((one.label, group.label, kind, name, float(value)))
    rows += [("", at, "chance", "", float(value)) for at, value in chance if value is not None]
    return rows


def _axes(
    width: float, height: float, left: float, bottom: float, top: float
) -> tuple[Figure, Axes]:
    """Make a figure of one axes with fixed margins, inches; laying it out would take as long as
    drawing it."""
    figure = Figure(figsize=(width, height), facecolor="none")
    axes = figure.add_axes(
        (
            left / width,
            bottom / height,
            1 - (left + 0.08) / width,
            1 - (bottom + top) / height,
        )
    )
    # At a fixed place: to look for one, each chart's labels would be laid out once more.
    axes.set_title("")
    return figure, axes


def _draw_room(axes: Axes, groups: Sequence[Group], places: np.ndarray, vertical: bool) -> None:
    """Shade the room between floor and ceiling; dash the floor, draw the ceiling through."""
    written = ""
    for place, group in zip(places, groups, strict=True):
        ends = (place - 0.42, place + 0.42)
        lines = axes.hlines if vertical else axes.vlines
        if None not in (group.floor, group.ceiling) and group.has_room:
            size = (ends[1] - ends[0], group.ceiling - group.floor)
            corner = (ends[0], group.floor)
            axes.add_patch(
                Rectangle(
                    corner if vertical else corner[::-1],
                    *(size if vertical else size[::-1]),
                    color=_INK,
                    alpha=0.06,
                    linewidth=0,
                )
            )
        if group.floor is not None:
            lines(group.floor, *ends, color=_INK, linewidth=0.9, linestyles=[(0, (3, 2))])
            # Once where neighbours have the same, so that the names do not run into each other.
            if group.floor_name and not (vertical and group.floor_name == written):
                written = group.floor_name
                text = written.replace(" ", "\n") if vertical else written
                at = (ends[0], group.floor) if vertical else (group.floor, ends[0])
                axes.annotate(
                    text,
                    at,
                    xytext=(1, -1.5) if vertical else (-2, -1),
                    textcoords="offset points",
                    ha="left" if vertical else "right",
                    va="top",
                    fontsize=6,
                    linespacing=0.95,
                    alpha=0.8,
                )
        if group.ceiling is not None:
            lines(group.ceiling, *ends, color=_INK, linewidth=0.9)


def _draw_series(
    axes: Axes,
    series: Series,
    places: np.ndarray,
    key: str,
    tips: dict[str, list[str]],
    vertical: bool,
    connected: bool = False,
) -> None:
    """Draw points, intervals and means; what each point says when pointed at goes into ``tips``."""
    across, along, said = [], [], []
    for place, group in zip(places, series.groups, strict=True):
        # A picture keeps its offset, so that it can be followed from level to level.
        offsets = 0.4 * (np.arange(len(group.points)) + 0.5) / max(1, len(group.points)) - 0.2
        for offset, (name, value) in zip(offsets, group.points, strict=True):
            if value is None:
                continue
            across.append(place + offset)
            along.append(value)
            said.append(f"{name}: {value:.2f}")
    if said:
        xy = (across, along) if vertical else (along, across)
        axes.scatter(*xy, s=9, color=series.colour, alpha=0.4, linewidths=0, clip_on=False, gid=key)
        tips[key] = said
    known = [
        (place, group)
        for place, group in zip(places, series.groups, strict=True)
        if group.mean is not None
    ]
    if not known:
        return
    at = [place for place, _ in known]
    means = [group.mean for _, group in known]
    ends = [
        (place, group.low, group.high)
        for place, group in known
        if None not in (group.low, group.high)
    ]
    lines = axes.vlines if vertical else axes.hlines
    if ends:
        lines(*zip(*ends, strict=True), color=series.colour, linewidth=1.6, clip_on=False)
    axes.plot(
        *((at, means) if vertical else (means, at)),
        color=series.colour,
        marker=series.marker,
        markersize=5,
        markeredgewidth=0,
        linewidth=1.2 if connected else 0,
        clip_on=False,
    )


def _to_svg(
    figure: Figure, name: str, title: str, tips: dict[str, list[str]], table: list[tuple]
) -> str:
    """Write a figure as an ``<svg>`` element to stand inside a page, its data beside it as CSV.

    matplotlib writes styles, which a strict content security policy forbids, identifiers that
    several figures on one page would share, and more digits than a screen has.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())
    marks: dict[str, str] = {}

    def rename(mark: str) -> str:
        return f"{name}-{marks.setdefault(mark, str(len(marks)))}"

    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.text = (element.text or "").strip() or None
        element.tail = None
        for rule in element.attrib.pop("style", "").split(";"):
            key, _, value = rule.partition(":")
            if key.strip() and key.strip() != "font-family":
                element.set(key.strip(), value.strip().replace(_INK, "currentColor"))
        for key, value in element.attrib.items():
            if found := re.fullmatch(r"url\(#(.+)\)", value):
                element.set(key, f"url(#{rename(found[1])})")
            elif key in ("d", "x", "y", "transform"):
                element.set(key, _shorten(value))
        if "d" in element.attrib:
            element.set("d", re.sub(r" ?([A-Za-z]) ?", r"\1", element.get("d")))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        if link := element.attrib.pop(f"{{{_XLINK}}}href", None):
            element.set("href", f"#{rename(link[1:])}")
        if mark := element.attrib.pop("id", None):
            if mark in tips:
                uses = list(element.iter(f"{{{_SVG}}}use"))
                for use, said in zip(uses, tips[mark], strict=True):
                    ET.SubElement(use, f"{{{_SVG}}}title").text = said
            if element.tag in (f"{{{_SVG}}}path", f"{{{_SVG}}}clipPath"):
                element.set("id", rename(mark))
    for parent in list(root.iter(f"{{{_SVG}}}g")):
        for child in list(parent):
            if child.get("fill") == "none" and "stroke" not in child.attrib:
                parent.remove(child)  # the background, which nobody sees
    usual = {"font-size": f"{_SIZE}px", "fill": "currentColor"}  # of text, said once
    for element in list(root.iter()):
        _lift_shared(element)
        _join_many(element)
        if element.tag == f"{{{_SVG}}}text":
            for key, value in usual.items():
                if element.get(key) == value:
                    del element.attrib[key]
    _unwrap(root)
    root.attrib.update(usual)
    for key in ("width", "height", "version"):
        root.attrib.pop(key)
    root.set("role", "img")
    root.set("aria-label", title)
    root.set("data-csv", _write_csv(table))
    root.set("font-family", "system-ui, sans-serif")
    root.set("stroke-linejoin", "round")
    # Of the attributes only the CSV has lines; HTML takes them as they are.
    return ET.tostring(root, encoding="unicode").replace("&#10;", "\n")


def _unwrap(element: ET.Element) -> None:
    """Put the children of groups that say nothing in their groups' place; drop empty ones."""
    kept = []
    for child in element:
        _unwrap(child)
        silent = child.tag == f"{{{_SVG}}}g" and not child.attrib
        empty = child.tag == f"{{{_SVG}}}defs" and not len(child)
        kept += list(child) if silent or empty else [child]
    element[:] = kept


def _write_csv(table: list[tuple]) -> str:
    """Write rows as CSV; a bare ``^`` stands for what the row above says.

    Thousands of points would each say their series and place again; the page's script writes them
    out. A cell that holds the sign itself is quoted.
    """

    def quote(cell: str | float) -> str:
        text = str(cell)
        if re.search(r'[",\r\n^]|^\s|\s$', text):
            return '"' + text.replace('"', '""') + '"'
        return text

    lines, above = [], ()
    for row in table:
        same = [
            number < len(row) - 2 and above[number : number + 1] == (cell,)
            for number, cell in enumerate(row)
        ]
        cells = ("^" if one else quote(cell) for one, cell in zip(same, row, strict=True))
        lines.append(",".join(cells) + "\n")
        above = row
    return "".join(lines)


def _shorten(numbers: str) -> str:
    """Round the numbers of an attribute to hundredths of a point, and drop spare spaces."""
    short = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}", numbers)
    short = re.sub(r"(\.\d*?)0+(?!\d)", r"\1", short)
    return " ".join(re.sub(r"\.(?!\d)", "", short).split())


def _lift_shared(group: ET.Element) -> None:
    """Set colours that all of a group's markers share at the group instead."""
    uses = list(group)
    if group.tag != f"{{{_SVG}}}g" or any(child.tag != f"{{{_SVG}}}use" for child in uses):
        return
    for key in ("fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width"):
        values = {use.get(key) for use in uses}
        if len(values) == 1 and None not in values and key not in group.attrib:
            group.set(key, values.pop())
            for use in uses:
                del use.attrib[key]


def _join_many(group: ET.Element) -> None:
    """Draw a group of very many equal markers as the round ends of lines of no length."""
    uses = list(group)
    plain = {"x", "y", "href"}
    if len(uses) <= MANY_POINTS or any(
        child.tag != f"{{{_SVG}}}use" or set(child.attrib) - plain for child in uses
    ):
        return
    path = "".join(f"M{use.get('x')} {use.get('y')}h0" for use in uses)
    for use in uses:
        group.remove(use)
    for key, new in (("fill", "stroke"), ("fill-opacity", "stroke-opacity")):
        if (value := group.attrib.pop(key, None)) is not None:
            group.set(new, value)
    look = {"stroke-width": "2", "stroke-linecap": "round", "fill": "none"}
    ET.SubElement(group, f"{{{_SVG}}}path", {"d": path, **look})
