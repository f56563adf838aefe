"""What the report's sections share: its content, names, numbers in words, and order."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import figures
from .replication import family_of

Rows = Sequence[Mapping]


FEWEST = 2
"""Pictures below which a mean is shown in its table, but no sentence is made of it."""


@dataclass(frozen=True)
class Content:
    """What a report is made from: the study and its tables, as rows.

    A table that is empty has no place on the page. Each is named after its schema in
    :mod:`consilience.tables`.

    Attributes
    ----------
    study
        The resolved configuration.
    probe
        Rows of ``PICTURES`` of the probe set, for the neurons' top pictures.
    heatmaps, lime
        What they show is in the thumbnails; their maps and weights may be left out.
    versions
        Version by package.
    hashes
        SHA-256 by what it is of, such as ``weights of object``; those of tables begin with
        ``table``.
    times
        What each kind of step took: rows of :func:`consilience.provenance.read_times`.
    registered
        What files of the user's register: ``kind`` (of :data:`consilience.registry.KINDS`),
        ``name``, ``path`` and ``about``, the first paragraph of its docstring.
    printed
        Whether the study prints the page as ``report.pdf``, beside it.
    """

    study: Mapping
    pictures: Rows = ()
    accuracy: Rows = ()
    probe: Rows = ()
    neurons: Rows = ()
    concepts: Rows = ()
    comparison: Rows = ()
    temperature: Rows = ()
    predictions: Rows = ()
    heatmaps: Rows = ()
    lime: Rows = ()
    thumbnails: Rows = ()
    lime_stability: Rows = ()
    agreement: Rows = ()
    agreement_summary: Rows = ()
    localization: Rows = ()
    localization_summary: Rows = ()
    effects: Rows = ()
    faithfulness: Rows = ()
    faithfulness_summary: Rows = ()
    sanity: Rows = ()
    sanity_summary: Rows = ()
    questions: Rows = ()
    correctness: Rows = ()
    claims: Rows = ()
    audit: Rows = ()
    audit_rules: Rows = ()
    causal: Rows = ()
    dissection_truth: Rows = ()
    contrast: Rows = ()
    contrast_summary: Rows = ()
    trust: Rows = ()
    calibration: Rows = ()
    leaderboard: Rows = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    registered: Rows = ()
    times: Rows = ()
    printed: bool = False


@dataclass(frozen=True)
class Measure:
    """How a measure is called, and how to read it."""

    label: str
    span: str = ""
    text: str = ""


METHODS = {
    "grad-cam": "Grad-CAM",
    "score-cam": "Score-CAM",
    "ablation-cam": "Ablation-CAM",
    "grad-cam++": "Grad-CAM++",
    "grad-cam-elementwise": "Grad-CAM, element by element",
    "hirescam": "HiResCAM",
    "xgrad-cam": "XGrad-CAM",
    "layer-cam": "Layer-CAM",
    "eigen-grad-cam": "Eigen-Grad-CAM",
    "seg-eigen-cam": "Seg-Eigen-CAM",
    "eigen-cam": "Eigen-CAM",
    "kpca-cam": "KPCA-CAM",
    "fem": "FEM",
    "lime": "LIME",
}


# --- words and numbers -------------------------------------------------------------------------


def format_fixed(value: float | None, digits: int = 2) -> str:
    """Write a number with a fixed number of decimals and a true minus sign; – for None."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def format_percent(value: float | None, digits: int = 1) -> str:
    """Write a share as a percentage; one that is neither none nor all is not rounded to it."""
    if value is None:
        return "–"
    text = f"{100 * value:.{digits}f}"
    least = 10.0**-digits
    if value < 1 - 1e-9 and float(text) >= 100:  # sums of shares miss 1 by their last digits
        text = f"> {100 - least:.{digits}f}"
    elif value > 1e-9 and float(text) == 0:
        text = f"< {least:.{digits}f}"
    return f"{text.replace('-', '−')}\N{NO-BREAK SPACE}%"


def slug(name: str) -> str:
    """Return an identifier for a page; two names never share one.

    Letters, digits, hyphens, dots and underscores stay. If anything else had to go, a hash of the
    name keeps it apart from the others.
    """
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return text if text == name else f"{text}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def method_label(name: str) -> str:
    """Return what the field calls a method."""
    return METHODS.get(name, name)


def join_words(words: Iterable[str]) -> str:
    """Write words as ``a, b and c``."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def count_things(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}".replace(
        ",", "\N{NARROW NO-BREAK SPACE}"
    )


def format_duration(seconds: float) -> str:
    """Write a time in hours, minutes and seconds, the smallest left out where it says nothing."""
    space = "\N{NO-BREAK SPACE}"
    if seconds < 60:
        return f"{seconds:.0f}{space}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{space}h " * bool(hours) + f"{minutes}{space}min"


def format_p(value: float | None) -> str:
    """Write a probability; one that is not zero is not rounded to it."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else format_fixed(value, 3)


def format_mean(row: Mapping, key: str = "mean", digits: int = 2) -> str:
    """Write a value with its interval, where it has one."""
    low, high = ("low", "high") if key == "mean" else (f"{key}_low", f"{key}_high")
    text = format_fixed(row[key], digits)
    if row[low] is None or row[high] is None:
        return text
    return f"{text} ({format_fixed(row[low], digits)} to {format_fixed(row[high], digits)})"


def describe_measure(metric: str, measures: Mapping[str, Measure], study: Mapping) -> Measure:
    """Return how a measure is called and read in this study; one that is not known by its name."""
    found = measures.get(metric, Measure(metric))
    top = study.get("agreement", {}).get("top_fraction", 0.2)
    text = found.text.format(top=format_percent(top, 0), floor=format_fixed(top / (2 - top)))
    return Measure(found.label, found.span, text)


def format_span(values: Iterable[float | None], digits: int = 2) -> str:
    """Write the least and the greatest of some values."""
    texts = [format_fixed(value, digits) for value in sorted(v for v in values if v is not None)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


# --- order -------------------------------------------------------------------------------------


def unique(items: Iterable) -> list:
    """Return the items, each once, in the order in which they came first."""
    return list(dict.fromkeys(items))


def find_levels(rows: Rows) -> list[int | None]:
    """Clutter levels of rows, ascending; None, where clutter is not known, is the last."""
    return sorted({row["clutter"] for row in rows}, key=lambda level: (level is None, level or 0))


def level_label(level: int | None) -> str:
    """Return what a clutter level is called."""
    return "all pictures" if level is None else str(level)


def order_models(content: Content, rows: Rows, key: str = "model") -> list[str]:
    """Models that occur in rows, in the study's order."""
    order = [model["name"] for model in content.study["models"]]
    found = unique(row[key] for row in rows)
    return [name for name in order if name in found] + [n for n in found if n not in order]


def group_nets(content: Content, models: Iterable[str]) -> dict[str, list[str]]:
    """Nets of one family under one label; a net that is alone in it under its own name."""
    families = family_of(content.study["models"])
    groups: dict[str, list[str]] = {}
    for name in models:
        groups.setdefault(families.get(name, name), []).append(name)
    return {
        f"{family} ({len(names)} nets)" if len(names) > 1 else names[0]: names
        for family, names in groups.items()
    }


def order_methods(content: Content, found: Iterable[str]) -> list[str]:
    """LIME first, then the CAMs in the study's order."""
    order = ["lime", *content.study.get("cam", {}).get("methods", ())]
    found = set(found)
    return [name for name in order if name in found] + sorted(found - set(order))


def order_metrics(rows: Rows, measures: Mapping[str, Measure]) -> list[str]:
    """Measures that occur in rows, in the order in which they are declared here."""
    found = unique(row["metric"] for row in rows)
    return [name for name in measures if name in found] + [n for n in found if n not in measures]


def first_cam(content: Content, found: Iterable[str]) -> str | None:
    """Return the first of the study's CAM methods that is found; None where there is none."""
    return next((name for name in order_methods(content, found) if name != "lime"), None)


def method_style(content: Content, method: str) -> int:
    """Number of a method's colour and marker, the same in all charts."""
    order = ["lime", *content.study.get("cam", {}).get("methods", ())]
    return order.index(method) if method in order else len(order)


def find_beyond(content: Content, levels: Sequence[int | None]) -> int | None:
    """Index of the first level of clutter that the models were not trained on."""
    trained = ((content.study.get("world") or {}).get("training") or {}).get("clutter")
    if not trained:
        return None
    return next(
        (i for i, level in enumerate(levels) if level is not None and level > max(trained)), None
    )


def published_names(content: Content) -> list[str]:
    """Names under which published descriptions take part."""
    return [entry["name"] for entry in content.study.get("published", ())]


def dissected_names(content: Content) -> list[str]:
    """Models whose neurons this study has labelled."""
    published = published_names(content)
    return [name for name in order_models(content, content.neurons) if name not in published]


# --- pictures ----------------------------------------------------------------------------------


def picture_uri(pixels: np.ndarray) -> str:
    """Return uint8 pixels, shape (height, width, 3), as a data URI."""
    data = base64.b64encode(figures.encode_webp(pixels)).decode()
    return f"data:image/webp;base64,{data}"


def names_scene(content: Content, name: str) -> bool:
    """Say whether a model is trained to name the scene."""
    return any(
        model["name"] == name and (model.get("train") or {}).get("target") == "scene"
        for model in content.study["models"]
    )


def pick_levels(rows: Rows, levels: Sequence, key: str, **where) -> list:
    """Return one value a level; None where there is no such row."""
    found = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return [next((r[key] for r in found if r["clutter"] == level), None) for level in levels]


def other_method(row: Mapping) -> str:
    """Return the method of a pair that is not LIME."""
    return row["method_a"] if row["method_b"] == "lime" else row["method_b"]


def make_legend(series: Sequence[figures.Series]) -> list[dict]:
    """Return label, colour and marker of each series."""
    return [{"label": s.label, "colour": s.colour, "marker": s.marker} for s in series]
