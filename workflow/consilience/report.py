"""Write the report: one self-contained page a study, made from its tables alone.

The page runs no script and makes no request: pictures are data URIs, the style sheet is inline and
allowed by its hash, everything else is forbidden by a content security policy. Every string is
escaped by the templates.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import markupsafe
import numpy as np
import yaml

from . import figures
from .errors import ConsilienceError
from .images import decode_png, read_picture
from .similarity import TERMS
from .tables import write_atomically

TEMPLATES = Path(__file__).parent.parent / "report"
"""Folder of the page's templates and style sheet; a step that writes a report depends on it."""

Rows = Sequence[Mapping]
Outline = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


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
    versions
        Version by package.
    hashes
        SHA-256 by what it is of, such as ``weights of object``.
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
    views: Rows = ()
    heatmaps: Rows = ()
    lime: Rows = ()
    lime_stability: Rows = ()
    agreement: Rows = ()
    agreement_summary: Rows = ()
    localization: Rows = ()
    localization_summary: Rows = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)


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

AGREEMENT_MEASURES = {
    "spearman": Measure(
        "Spearman’s ρ",
        "−1 to 1",
        "Whether two explanations rank the pixels alike. 1 is the same order, 0 what unrelated "
        "maps score on average. Neighbouring pixels are alike, so two unrelated smooth maps stray "
        "from 0 much further than the number of pixels suggests.",
    ),
    "iou": Measure(
        "IoU of the top regions",
        "0 to 1",
        "Overlap of the two regions of highest value, each {top} of the area. Two random regions "
        "of this size already overlap by {floor}.",
    ),
    "superpixel-spearman": Measure(
        "Spearman’s ρ over superpixels",
        "−1 to 1",
        "The same over LIME’s superpixels: its weights against the sum of the map in each. Both "
        "grow with a superpixel’s area, and so may their agreement.",
    ),
    "pearson": Measure(
        "Pearson’s r",
        "−1 to 1",
        "Whether two maps are linearly related over the pixels; moved by how a method scales its "
        "map. Unrelated maps score 0.",
    ),
}

LOCALIZATION_MEASURES = {
    "iou": Measure(
        "IoU with the mask",
        "0 to 1",
        "Overlap of the object with the explanation’s top region of the object’s own area. A "
        "random region of share a scores a / (2 − a).",
    ),
    "pointing-game": Measure(
        "Pointing game",
        "0 to 1",
        "Share of the explanation’s strongest place that lies on the object: 0 or 1 for a single "
        "pixel, between for a whole superpixel. A random place scores the object’s share of the "
        "picture.",
    ),
    "mass-inside": Measure(
        "Mass inside the mask",
        "0 to 1",
        "Share of the explanation’s positive part that lies on the object. A map without regard "
        "to it scores the object’s share of the picture; a map that is nowhere near 0 scores low "
        "wherever its maximum is.",
    ),
}

COMPARISON_MEASURES = {
    "label_is_class_name": ("Neurons of {a} named after their class", True),
    "class_name_among_candidates": (
        "Neurons of {a} with their class among the most similar words",
        True,
    ),
    "class_name_cosine": ("CLIP’s cosine of the words of {a} and their classes’ names", False),
    "rarefied_difference": ("Words in equal samples, {a} less {b}", False),
    "jaccard": ("Jaccard index of the words of {a} and {b}", False),
    "top_overlap": ("Most frequent words that {a} and {b} share", True),
    "distribution_overlap": ("Neurons of {a} and {b} that can be paired by word", True),
    "share_in_other": ("Neurons of {a} whose word {b} has too", True),
}
"""What the comparison says beside counts: a label, and whether the value is a share."""

OTHER_MEASURES = (
    Measure(
        "Similarity of a neuron and its word",
        "",
        "Soft weighted pointwise mutual information (CLIP-Dissect). Comparable within one layer of "
        "one model only. Every neuron gets a best word, whether or not it means anything.",
    ),
    Measure(
        "Words in equal samples",
        "at least 1",
        "How many distinct words a random sample of labelled neurons holds on average, the sample "
        "being as large as the smallest number that any of the models has in the layer "
        "(Hurlbert’s rarefaction). Unlike the number of distinct words it does not grow with a "
        "layer’s width.",
    ),
    Measure(
        "CLIP’s cosine of words and classes’ names",
        "−1 to 1",
        "Gives credit to a word of nearly the same meaning. Circular: the CLIP that measures is "
        "the one that chose the words, and what it confuses it also finds similar.",
    ),
    Measure(
        "R² of LIME",
        "at most 1",
        "How well LIME’s local linear model fits what the classifier said of the perturbed "
        "pictures. Near 0, its weights explain little.",
    ),
)

ACTS = {
    "dissect": "the dissection of neurons",
    "cam": "class activation maps",
    "lime": "LIME",
    "agree": "the comparison of explanations",
}

NEURONS_SHOWN = 4
NEURON_PICTURES = 5
CONCEPTS_SHOWN = 10
WORDS_SHOWN = 60
BASES_SHOWN = 3


def write_report(content: Content, path: str | Path, outline: Outline | None = None) -> None:
    """Write a study's report to ``path``, atomically.

    Parameters are those of :func:`render_report`.
    """
    page = render_report(content, outline).encode("utf-8")
    write_atomically(path, lambda part: Path(part).write_bytes(page))


def render_report(content: Content, outline: Outline | None = None) -> str:
    """Return a study's report as HTML.

    Parameters
    ----------
    content
        The study and its tables.
    outline
        Draws LIME's outlines from view, segment map, weights and number of features; by default
        ``consilience.lime_image.outline``.

    Of a picture that is explained for several classes the page shows the first target.

    Raises
    ------
    ConsilienceError
        If tables do not belong together: an explanation of a picture without a view.
    """
    content = dataclasses.replace(
        content,
        predictions=_keep_first(content.predictions, "model", "picture"),
        heatmaps=_keep_first(content.heatmaps, "model", "picture", "method"),
        lime=_keep_first(content.lime, "model", "picture"),
    )
    if outline is None and content.lime:
        from .lime_image import outline  # imports LIME, which most of a test does without
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        fixed=format_fixed, percent=format_percent, slug=slug, method=method_label
    )
    svg = markupsafe.Markup  # only for what `figures` made and escaped, and the style sheet
    study = content.study
    return environment.get_template("report.html.j2").render(
        style=svg(style),
        style_digest=digest,
        svg=svg,
        study=study,
        asked=_ask(content),
        off=[ACTS[act] for act in ACTS if study["acts"].get(act) is False],
        answer=_answer(content),
        world=_world(content),
        dissect=_dissect(content),
        gallery=_gallery(content, outline),
        agreement=_agreement(content),
        truth=_truth(content),
        skipped=_skipped(content),
        method=_method(content),
    )


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
    return f"{text}\N{NO-BREAK SPACE}%"


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


def _keep_first(rows: Rows, *keys: str) -> Rows:
    """Keep the first of the rows that share the values of ``keys``: the first target's."""
    kept: dict[tuple, Mapping] = {}
    for row in rows:
        kept.setdefault(tuple(row[key] for key in keys), row)
    return list(kept.values())


def _join(words: Iterable[str]) -> str:
    """Write words as ``a, b and c``."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}".replace(
        ",", "\N{NARROW NO-BREAK SPACE}"
    )


def _measure(metric: str, measures: Mapping[str, Measure], study: Mapping) -> Measure:
    found = measures.get(metric, Measure(metric))
    top = study.get("agreement", {}).get("top_fraction", 0.2)
    text = found.text.format(top=format_percent(top, 0), floor=format_fixed(top / (2 - top)))
    return Measure(found.label, found.span, text)


def _span(values: Iterable[float | None], digits: int = 2) -> str:
    """Write the least and the greatest of some values."""
    texts = [format_fixed(value, digits) for value in sorted(v for v in values if v is not None)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


# --- order -------------------------------------------------------------------------------------


def _unique(items: Iterable) -> list:
    return list(dict.fromkeys(items))


def _levels(rows: Rows) -> list[int | None]:
    """Clutter levels of rows, ascending; None, where clutter is not known, is the last."""
    return sorted({row["clutter"] for row in rows}, key=lambda level: (level is None, level or 0))


def _level_label(level: int | None) -> str:
    return "all pictures" if level is None else str(level)


def _models(content: Content, rows: Rows, key: str = "model") -> list[str]:
    """Models that occur in rows, in the study's order."""
    order = [model["name"] for model in content.study["models"]]
    found = _unique(row[key] for row in rows)
    return [name for name in order if name in found] + [n for n in found if n not in order]


def _methods(content: Content, found: Iterable[str]) -> list[str]:
    """LIME first, then the CAMs in the study's order."""
    order = ["lime", *content.study.get("cam", {}).get("methods", ())]
    found = set(found)
    return [name for name in order if name in found] + sorted(found - set(order))


def _metrics(rows: Rows, measures: Mapping[str, Measure]) -> list[str]:
    """Measures that occur in rows, in the order in which they are declared here."""
    found = _unique(row["metric"] for row in rows)
    return [name for name in measures if name in found] + [n for n in found if n not in measures]


def _style(content: Content, method: str) -> int:
    """Number of a method's colour and marker, the same in all charts."""
    order = ["lime", *content.study.get("cam", {}).get("methods", ())]
    return order.index(method) if method in order else len(order)


def _first_beyond(content: Content, levels: Sequence[int | None]) -> int | None:
    """Index of the first level of clutter that the models were not trained on."""
    trained = ((content.study.get("world") or {}).get("training") or {}).get("clutter")
    if not trained:
        return None
    return next(
        (i for i, level in enumerate(levels) if level is not None and level > max(trained)), None
    )


def _published(content: Content) -> list[str]:
    """Names under which published descriptions take part."""
    return [entry["name"] for entry in content.study.get("published", ())]


def _dissected(content: Content) -> list[str]:
    """Models whose neurons this study has labelled."""
    published = _published(content)
    return [name for name in _models(content, content.neurons) if name not in published]


# --- pictures ----------------------------------------------------------------------------------


def _uri(pixels: np.ndarray) -> str:
    data = base64.b64encode(figures.encode_webp(pixels)).decode()
    return f"data:image/webp;base64,{data}"


def _place(values: np.ndarray) -> str:
    """Say where in a picture the maximum lies."""
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    down = ("upper", "middle", "lower")[3 * row // values.shape[0]]
    across = ("left", "centre", "right")[3 * column // values.shape[1]]
    return "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"


# --- sections ----------------------------------------------------------------------------------


def _ask(content: Content) -> str:
    """Say what was asked."""
    questions = []
    if content.neurons:
        names = _join(_models(content, content.neurons))
        method = " (CLIP-Dissect)" if _dissected(content) else ""
        questions.append(f"What does each neuron of {names} stand for{method}?")
    explained = _models(content, content.predictions)
    name, possessive = (_join(explained), "its" if len(explained) == 1 else "their")
    about = _count(len({row["picture"] for row in content.predictions}), "picture")
    if content.heatmaps:
        found = _methods(content, (row["method"] for row in content.heatmaps))
        questions.append(f"Where did {name} look in {about} ({_join(map(method_label, found))})?")
    if content.lime:
        whose = possessive if content.heatmaps else f"{name}’s"
        where = "" if content.heatmaps else f" of {about}"
        questions.append(f"Which regions{where} carried {whose} decisions (LIME)?")
    if content.agreement:
        truth = ", and how right are they where the truth is known" if content.localization else ""
        questions.append(f"How far do the answers agree{truth}?")
    return " ".join(questions)


def _answer(content: Content) -> dict:
    """The numbers that come first, each straight from a table."""
    names = [model["name"] for model in content.study["models"]] + _published(content)
    models = [
        name
        for name in names
        if any(row["model"] == name for row in (*content.accuracy, *content.neurons))
    ]
    summary = _summarise_layers(content)
    ends, clutter = _from_simple_to_cluttered(content)
    return {
        "models": models,
        "learned": _what_was_learned(content, models, summary),
        "zero_shot": [
            row for row in content.accuracy if row["model"] not in names and row["clutter"] is None
        ],
        "ends": ends,
        "clutter": clutter,
        "sentences": _say(content, ends, clutter, summary),
    }


def _what_was_learned(content: Content, models: list[str], summary: list[dict]) -> list[dict]:
    """Accuracy, and the words of the last two layers: a row a measure, a cell a model."""
    rows = []
    accuracy = {r["model"]: r["accuracy"] for r in content.accuracy if r["clutter"] is None}
    if accuracy.keys() & set(models):
        rows.append(_learned("Held-out accuracy", None, [accuracy.get(name) for name in models]))
    found = {(row["model"], row["layer"]): row for row in summary}
    for key, label in (("distinct", "Distinct words"), ("absent", "Labelled with absent words")):
        for layer in _layers(content)[-2:]:
            cells = [found.get((name, layer), {}).get(key) for name in models]
            if any(cell is not None for cell in cells):
                rows.append(_learned(label, layer, cells, None if key == "absent" else 0))
    named = {
        (row["model_a"], row["layer"]): row["value"]
        for row in content.comparison
        if row["metric"] == "label_is_class_name"
    }
    for layer in _unique(layer for _, layer in named):
        cells = [named.get((name, layer)) for name in models]
        rows.append(_learned("Neurons named after their class", layer, cells))
    return rows


def _from_simple_to_cluttered(content: Content) -> tuple[list, list[dict]]:
    """The lowest and the highest clutter level, and groups of rows with a cell each."""
    names = [model["name"] for model in content.study["models"]]
    accuracy = [r for r in content.accuracy if r["model"] in names and r["clutter"] is not None]
    independent = [
        row
        for row in content.agreement_summary
        if row["independent"] and row["metric"] == "spearman"
    ]
    # A net that names the scene is not wrong where it looks past the object.
    truth = [
        row
        for row in content.localization_summary
        if row["metric"] == "iou" and not _names_scene(content, row["model"])
    ]
    levels = _levels(independent or truth or accuracy)
    ends = _unique([levels[0], levels[-1]]) if levels else []
    groups = []

    def add(key, label, percent, rows):
        if any(cell is not None for _, cells in rows for cell in cells):
            groups.append({"key": key, "label": label, "percent": percent, "rows": rows})

    def labelled(model, models, method):
        return method_label(method) if len(models) == 1 else f"{model}, {method_label(method)}"

    add(
        "accuracy",
        "Right predictions, held out",
        True,
        [
            (name, _pick(accuracy, ends, "accuracy", model=name))
            for name in _models(content, accuracy)
        ],
    )
    models = _models(content, independent)
    add(
        "agreement",
        "LIME against each CAM, median Spearman’s ρ",
        False,
        [
            (
                labelled(name, models, other),
                _pick([r for r in independent if _other(r) == other], ends, "median", model=name),
            )
            for name in models
            for other in _methods(content, map(_other, independent))
        ],
    )
    models = _models(content, truth)
    add(
        "truth",
        "Against the object’s mask, mean IoU",
        False,
        [
            (labelled(name, models, method), _pick(truth, ends, "mean", model=name, method=method))
            for name in models
            for method in _methods(content, (row["method"] for row in truth))
        ],
    )
    return ends, groups


def _names_scene(content: Content, name: str) -> bool:
    return any(
        model["name"] == name and (model.get("train") or {}).get("target") == "scene"
        for model in content.study["models"]
    )


def _learned(label: str, layer: str | None, cells: list, digits: int | None = None) -> dict:
    """Make a row of what the models learned; a share where no digits are given."""
    share = digits is None
    return {"label": label, "layer": layer, "cells": cells, "percent": share, "digits": digits}


def _pick(rows: Rows, levels: Sequence, key: str, **where) -> list:
    """Return one value a level; None where there is no such row."""
    found = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return [next((r[key] for r in found if r["clutter"] == level), None) for level in levels]


def _other(row: Mapping) -> str:
    """Return the method of a pair that is not LIME."""
    return row["method_a"] if row["method_b"] == "lime" else row["method_b"]


def _say(content: Content, ends: list, groups: list[dict], summary: list[dict]) -> list[str]:
    """Say the short answer in sentences."""
    said = []
    rows = {group["key"]: group["rows"] for group in groups}

    def ranges(key: str) -> str:
        texts = []
        for index in range(len(ends)):
            values = [cells[index] for _, cells in rows[key] if cells[index] is not None]
            if values:
                where = ("on the simplest pictures", "on the most cluttered")[index]
                texts.append(_span(values) + (f" {where}" if len(ends) > 1 else ""))
        return " and ".join(texts)

    if "agreement" in rows:
        said.append(
            f"LIME agrees with the CAMs at a median rank correlation of {ranges('agreement')}; "
            "unrelated maps score 0, equal ones 1."
        )
    if "truth" in rows:
        chance = [
            row["chance"]
            for row in content.localization_summary
            if row["metric"] == "iou" and row["chance"] is not None and row["clutter"] in ends
        ]
        floor = f"; chance is {_span(chance)}" if chance else ""
        said.append(
            "The regions that the explanations point at meet the object with a mean IoU of "
            f"{ranges('truth')}{floor}."
        )
    if summary:
        last = summary[-1]["layer"]
        parts = [
            f"{_count(row['distinct'], 'word')} for {_count(row['neurons'], 'neuron')} "
            f"of {row['model']}"
            for row in summary
            if row["layer"] == last
        ]
        said.append(f"In the last layer dissected ({last}), there are {_join(parts)}.")
    return said


def _world(content: Content) -> dict | None:
    """Sample pictures and the models' accuracy by clutter level."""
    known = [
        row
        for row in content.pictures
        if row["clutter"] is not None and row["base"] is not None and row["error"] is None
    ]
    if not content.study.get("world") or not (known or content.accuracy):
        return None
    bases = defaultdict(dict)
    for row in known:
        bases[row["base"]][row["clutter"]] = row
    levels = _levels(known)
    samples = []
    for base in sorted(bases)[:BASES_SHOWN]:
        cells = []
        for level in levels:
            row = bases[base].get(level)
            if row is None:
                cells.append(None)
                continue
            pixels = np.asarray(read_picture(row))
            about = row["caption"] or row["name"]
            cells.append(
                {"uri": _uri(figures.enlarge(pixels)), "alt": f"{about}, clutter level {level}"}
            )
        samples.append(cells)
    names = [model["name"] for model in content.study["models"]]
    by_level = [r for r in content.accuracy if r["model"] in names and r["clutter"] is not None]
    rows, chart = [], None
    accuracy_levels = _levels(by_level)
    beyond = _first_beyond(content, accuracy_levels)
    shown = sorted({*levels, *accuracy_levels})
    first_beyond = _first_beyond(content, shown)
    series = []
    for index, name in enumerate(_models(content, by_level)):
        cells = [
            next((r for r in by_level if r["model"] == name and r["clutter"] == level), None)
            for level in accuracy_levels
        ]
        rows.append({"label": name, "cells": cells})
        groups = [
            figures.Group(str(level), mean=cell and cell["accuracy"])
            for level, cell in zip(accuracy_levels, cells, strict=True)
        ]
        series.append(figures.Series(name, groups, index + 1))
    if series:
        chart = figures.plot_levels(
            series,
            "accuracy",
            "Held-out accuracy by clutter level",
            "clutter level",
            (0, 1),
            beyond=beyond,
            percent=True,
        )
    return {
        "levels": levels,
        "samples": samples,
        "accuracy_levels": accuracy_levels,
        "rows": rows,
        "chart": chart,
        "legend": _legend(series),
        "beyond": None if first_beyond is None else shown[first_beyond],
    }


def _legend(series: Sequence[figures.Series]) -> list[dict]:
    return [{"label": s.label, "colour": s.colour, "marker": s.marker} for s in series]


def _layers(content: Content) -> list[str]:
    """Dissected layers in the study's order, which is that of the network."""
    order = _unique(
        layer for model in content.study["models"] for layer in model.get("dissect_layers", ())
    )
    found = _unique(row["layer"] for row in content.neurons)
    return [x for x in order if x in found] + [x for x in found if x not in order]


def _summarise_layers(content: Content) -> list[dict]:
    """Count neurons, different words and absent words by layer and model."""
    summary = []
    categorised = {"share_category"}
    if any(row["value"] for row in content.comparison if row["metric"] == "share_uncategorised"):
        categorised.add("share_uncategorised")
    compared = {
        (row["layer"], row["model_a"], row["metric"]): row
        for row in content.comparison
        if row["model_b"] is None
    }
    for layer in _layers(content):
        rows = [row for row in content.neurons if row["layer"] == layer]
        for model in _models(content, rows):
            own = [row for row in rows if row["model"] == model]
            labelled = [row for row in own if row["concept"] is not None]
            absent = [row["absent"] for row in labelled if row["absent"] is not None]
            summary.append(
                {
                    "layer": layer,
                    "model": model,
                    "neurons": len(own),
                    "distinct": len({row["concept"] for row in labelled}),
                    "absent": sum(absent) / len(absent) if absent else None,
                    "compared": {
                        metric: compared.get((layer, model, metric))
                        for metric in (
                            "rarefied_concepts",
                            "rarefied_to",
                            "share_absent",
                            "share_standing",
                        )
                    },
                    "categories": [
                        row
                        for row in content.comparison
                        if (row["layer"], row["model_a"]) == (layer, model)
                        and row["metric"] in categorised
                    ],
                }
            )
    return summary


def _dissect(content: Content) -> dict | None:
    if not content.neurons:
        return None
    probe = {row["name"]: row for row in content.probe if row["error"] is None}
    thumbnails: dict[str, str] = {}

    def thumbnail(name: str) -> str:
        if name not in thumbnails:
            thumbnails[name] = _uri(figures.enlarge(np.asarray(read_picture(probe[name])), 96))
        return thumbnails[name]

    summary = _summarise_layers(content)
    layers = []
    for layer in _layers(content):
        concepts = [row for row in content.concepts if row["layer"] == layer]
        models = _models(content, [row for row in content.neurons if row["layer"] == layer])
        words = {m: {row["concept"]: row for row in concepts if row["model"] == m} for m in models}
        most = max((row["share"] for row in concepts), default=1)
        shown = []
        for model in models:
            others = set().union(*(words[other] for other in models if other != model))
            bars = sorted(words[model].values(), key=lambda r: (-r["neurons"], r["concept"]))
            shown.append(
                {
                    "model": model,
                    "bars": [
                        {**row, "width": round(100 * row["share"] / most, 1)}
                        for row in bars[:CONCEPTS_SHOWN]
                    ],
                    "more": max(0, len(bars) - CONCEPTS_SHOWN),
                    "exclusive": _shorten(set(words[model]) - others),
                    "cards": _neuron_cards(content, model, layer, probe, thumbnail),
                }
            )
        shared = set.intersection(*(set(words[m]) for m in models)) if len(models) > 1 else set()
        layers.append(
            {
                "layer": layer,
                "summary": [row for row in summary if row["layer"] == layer],
                "models": shown,
                "shared": _shorten(shared),
                "compared": [
                    {**row, **_compared(row)}
                    for row in content.comparison
                    if row["layer"] == layer and row["metric"] in COMPARISON_MEASURES
                ],
            }
        )
    return {
        "layers": layers,
        "dissected": _dissected(content),
        "published": _published(content),
        "has_absent": any(row["absent"] is not None for row in summary),
        "temperatures": _temperatures(content),
        "own_temperature": _own_temperature(content),
        "significance": content.study["dissection"]["significance"],
        "has_standing": any(row["compared"]["share_standing"] for row in summary),
        "has_intervals": any(row["low"] is not None for row in content.comparison),
        "categories": _unique(row["category"] for one in summary for row in one["categories"]),
        "by_category": [
            {**row, "categories": {one["category"]: one for one in row["categories"]}}
            for row in summary
        ],
    }


def _shorten(words: set[str]) -> str:
    """List words, and how many more there are where they are many."""
    shown = ", ".join(sorted(words)[:WORDS_SHOWN])
    more = len(words) - WORDS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _compared(row: Mapping) -> dict:
    """Say what a row of the comparison is, and how its value is written."""
    label, as_share = COMPARISON_MEASURES[row["metric"]]
    names = {"a": row["model_a"], "b": row["model_b"]}
    return {"label": label.format(**names), "as_share": as_share}


def _temperatures(content: Content) -> list[dict]:
    """Share of all neurons that get a word of the absent half that a was not chosen on."""
    rows = []
    for a in _unique(row["a"] for row in content.temperature):
        mine = [row for row in content.temperature if row["a"] == a]
        neurons = sum(row["labelled_neurons"] for row in mine)
        absent = sum(row["share_reported"] * row["labelled_neurons"] for row in mine)
        rows.append({"a": a, "share": absent / neurons, "chosen": mine[0]["chosen"]})
    return rows


def _own_temperature(content: Content) -> float | None:
    """Return CLIP-Dissect's temperature for the study's similarity."""
    terms = TERMS.get(content.study["dissection"].get("similarity"))
    return terms().a if terms else None


def _neuron_cards(content, model, layer, probe, thumbnail) -> list[dict]:
    """The most similar neuron of each of a few words."""
    rows = [
        row
        for row in content.neurons
        if (row["model"], row["layer"]) == (model, layer) and row["concept"] is not None
    ]
    best: dict[str, Mapping] = {}
    # Published descriptions may come without a similarity, and so without a rank.
    for row in sorted(rows, key=lambda row: (row["rank"] is None, row["rank"], row["unit"])):
        best.setdefault(row["concept"], row)
    return [
        {
            **row,
            "pictures": [
                {"uri": thumbnail(name), "alt": probe[name]["caption"] or name}
                for name in row["top_pictures"][:NEURON_PICTURES]
                if name in probe
            ],
        }
        for row in list(best.values())[:NEURONS_SHOWN]
    ]


def _gallery(content: Content, outline: Outline | None) -> dict | None:
    """One card a model and picture, by clutter level."""
    if not content.views or not (content.heatmaps or content.lime):
        return None
    known = {row["name"]: row for row in content.pictures}
    predictions = {(row["model"], row["picture"]): row for row in content.predictions}
    views = {(row["model"], row["picture"]): row for row in content.views}
    maps, limes = defaultdict(list), {}
    methods = _methods(content, {row["method"] for row in content.heatmaps})
    for row in sorted(content.heatmaps, key=lambda row: methods.index(row["method"])):
        maps[row["model"], row["picture"]].append(row)
    for row in content.lime:
        limes[row["model"], row["picture"]] = row
    for model, name in (*maps, *limes):
        if (model, name) not in views or (model, name) not in predictions:
            raise ConsilienceError(
                f"picture {name!r} is explained for model {model!r} but has no view or no "
                "prediction; delete its explanations and run again"
            )
    # By (model, picture) and method: the two values that a card shows beside its pictures.
    correlations, overlaps = defaultdict(dict), defaultdict(dict)
    for row in content.agreement:
        if "lime" in (row["method_a"], row["method_b"]) and row["metric"] == "spearman":
            correlations[row["model"], row["picture"]][_other(row)] = row["value"]
    for row in content.localization:
        if row["metric"] == "iou":
            overlaps[row["model"], row["picture"]][row["method"]] = row["value"]

    layered = len({row["layer"] for row in content.heatmaps}) > 1
    features = content.study.get("lime", {}).get("num_features", 5)
    anchors: set[str] = set()
    models = []
    for model in _models(content, content.predictions):
        groups = defaultdict(list)
        for key in sorted(key for key in views if key[0] == model and (maps[key] or key in limes)):
            picture = known.get(key[1], {})
            about = picture.get("caption") or key[1]
            target = predictions[key]["target_class"]
            view = decode_png(views[key]["view"])
            large = figures.enlarge(view)
            thumbs = [
                {
                    "label": "Picture",
                    "uri": _uri(large),
                    "alt": f"The picture as {model} sees it: {about}",
                    "notes": [],
                }
            ]
            for row in maps[key]:
                thumbs.append(
                    _cam_thumb(row, large, target, layered, correlations[key], overlaps[key])
                )
            if key in limes:
                thumbs.append(
                    _lime_thumb(limes[key], view, target, outline, features, overlaps[key])
                )
            if views[key]["mask_visible"] is not None:
                thumbs.append(_mask_thumb(decode_png(views[key]["mask_visible"]), large))
            anchor = slug(key[1])
            anchor = anchor if anchor.startswith("picture-") else f"picture-{anchor}"
            if anchor in anchors:  # the same picture, explained for another model
                anchor += f"-{slug(model)}"
            anchors.add(anchor)
            groups[picture.get("clutter")].append(
                {
                    **predictions[key],
                    "id": anchor,
                    "thumbs": thumbs,
                    "superpixels": limes[key]["segments"] if key in limes else None,
                    "chosen": _chosen(predictions[key]),
                }
            )
        if groups:
            levels = sorted(groups, key=lambda level: (level is None, level or 0))
            models.append(
                {
                    "model": model,
                    "groups": [{"clutter": level, "cards": groups[level]} for level in levels],
                }
            )
    return {
        "models": models,
        "colour_bar": figures.sample_colormap() if content.heatmaps else None,
        "has_lime": bool(content.lime),
        "stability": _stability(content),
        "has_mask": any(row["mask_visible"] is not None for row in content.views),
        "features": features,
    }


def _stability(content: Content) -> list[dict]:
    """How far LIME agrees with itself, over the pictures, a row a model and measure."""
    groups = defaultdict(list)
    for row in content.lime_stability:
        groups[row["model"], row["varied"], row["measure"]].append(row)
    found = []
    for (model, varied, measure), rows in sorted(groups.items()):
        means = [row["mean"] for row in rows if row["mean"] is not None]
        found.append(
            {
                "model": model,
                "varied": varied,
                "measure": {"kendall-tau": "Kendall’s τ of the weights"}.get(
                    measure, _measure(measure, AGREEMENT_MEASURES, content.study).label
                ),
                "n": len(means),
                "mean": float(np.mean(means)) if means else None,
                "lowest": min(means, default=None),
                "highest": max(means, default=None),
                "chance": rows[0]["chance"],
                "reasons": sorted({row["reason"] for row in rows if row["reason"]}),
            }
        )
    return found


def _cam_thumb(row, large, target, layered, correlations, overlaps) -> dict:
    heat = np.asarray(row["heatmap"], dtype=np.float32).reshape(row["height"], row["width"])
    label = method_label(row["method"])
    good = row["status"] == "ok"
    notes = []
    if row["method"] in correlations:
        notes.append(("ρ with LIME", correlations[row["method"]], False))
    if row["method"] in overlaps:
        notes.append(("IoU, mask", overlaps[row["method"]], False))
    return {
        "label": f"{label}, {row['layer']}" if layered else label,
        "uri": _uri(figures.overlay(large, heat)) if good else None,
        "missing": f"map is {row['status']}",
        "alt": f"{label} heatmap for {target}, highest at the {_place(heat)}",
        "notes": notes,
    }


def _lime_thumb(row, view, target, outline, features, overlaps) -> dict:
    segments = np.asarray(row["segment_map"]).reshape(row["height"], row["width"])
    weights = np.asarray(row["weights"], dtype=np.float64)
    good = row["status"] == "ok"
    notes = [("R²", row["r2"], False)]
    if "lime" in overlaps:
        notes.append(("IoU, mask", overlaps["lime"], False))
    return {
        "label": METHODS["lime"],
        "uri": _uri(figures.enlarge(outline(view, segments, weights, features))) if good else None,
        "missing": f"explanation is {row['status']}",
        "alt": f"LIME: superpixels that speak for {target} outlined in yellow, the strongest at "
        f"the {_place(weights[segments])}",
        "notes": notes,
    }


def _mask_thumb(mask, large) -> dict:
    return {
        "label": "Known mask",
        "uri": _uri(figures.outline_mask(large, mask)),
        "alt": f"Mask of the object, around the {_place_of_mask(mask)}",
        "notes": [("area", float((mask != 0).mean()), True)],
    }


def _place_of_mask(mask: np.ndarray) -> str:
    """Say where in a picture the middle of a mask lies."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return "nowhere: nothing of it is seen"
    spot = np.zeros(mask.shape)
    spot[int(rows.mean()), int(columns.mean())] = 1
    return _place(spot)


def _chosen(prediction: Mapping) -> str:
    """Say how the explained class was chosen."""
    kind = prediction["target"]
    known = {"predicted": "the predicted class", "labelled": "the labelled class"}
    if kind.startswith("top-"):
        return "the predicted class, first of several that are explained"
    return known.get(kind, "the class that the study gives")


def _series(rows: Rows, singles: Rows, levels: Sequence, label: str, style: int) -> figures.Series:
    """Make a chart's series from summary rows and the single pictures' values."""
    clutter_of = {row["picture"]: row["clutter"] for row in singles}
    groups = []
    for level in levels:
        row = next((row for row in rows if row["clutter"] == level), None)
        points = sorted(
            (r["picture"], r["value"]) for r in singles if clutter_of[r["picture"]] == level
        )
        groups.append(
            figures.Group(
                _level_label(level),
                points,
                *(row[key] if row else None for key in ("mean", "low", "high")),
            )
        )
    return figures.Series(label, groups, style)


def _with_clutter(content: Content, rows: Rows) -> list[dict]:
    clutter = {row["name"]: row["clutter"] for row in content.pictures}
    return [{**row, "clutter": clutter.get(row["picture"])} for row in rows]


def _limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Return limits that hold all values, 0 and 1."""
    low = min((value for value in values if value is not None), default=0.0)
    return (min(0.0, np.floor(4 * low) / 4), 1.0)


def _agreement(content: Content) -> list[dict]:
    """By model, the independent pairs and then the CAMs among themselves."""
    models = []
    singles = _with_clutter(content, content.agreement)
    for number, model in enumerate(_models(content, content.agreement_summary)):
        own = [row for row in content.agreement_summary if row["model"] == model]
        blocks = []
        for independent in (True, False):
            block = [row for row in own if row["independent"] == independent]
            if not block:
                continue
            pairs = {}
            for row in block:
                a, b = _methods(content, (row["method_a"], row["method_b"]))
                pairs[row["method_a"], row["method_b"]] = (a, b)
            order = _methods(content, [m for pair in pairs.values() for m in pair])
            keys = sorted(pairs, key=lambda key: [order.index(m) for m in pairs[key]])
            metrics = []
            for metric in _metrics(block, AGREEMENT_MEASURES):
                rows = [row for row in block if row["metric"] == metric]
                metrics.append(
                    _charted(
                        content,
                        rows,
                        [r for r in singles if r["model"] == model and r["metric"] == metric],
                        [
                            (
                                {"method_a": key[0], "method_b": key[1]},
                                " – ".join(map(method_label, pairs[key])),
                                _style(content, pairs[key][1]) if independent else 4,
                            )
                            for key in keys
                        ],
                        _measure(metric, AGREEMENT_MEASURES, content.study),
                        f"agreement-{number}-{slug(metric)}-{'lime' if independent else 'cams'}",
                    )
                )
            blocks.append({"independent": independent, "metrics": metrics})
        models.append({"model": model, "blocks": blocks})
    return models


def _truth(content: Content) -> list[dict]:
    """By model, each method against the mask."""
    models = []
    singles = _with_clutter(content, content.localization)
    for number, model in enumerate(_models(content, content.localization_summary)):
        own = [row for row in content.localization_summary if row["model"] == model]
        methods = _methods(content, (row["method"] for row in own))
        metrics = []
        for metric in _metrics(own, LOCALIZATION_MEASURES):
            metrics.append(
                _charted(
                    content,
                    [row for row in own if row["metric"] == metric],
                    [r for r in singles if r["model"] == model and r["metric"] == metric],
                    [({"method": m}, method_label(m), _style(content, m)) for m in methods],
                    _measure(metric, LOCALIZATION_MEASURES, content.study),
                    f"truth-{number}-{slug(metric)}",
                )
            )
        models.append(
            {"model": model, "metrics": metrics, "of_scene": _names_scene(content, model)}
        )
    return models


def _charted(content, rows, singles, entries, measure, name) -> dict:
    """Make a measure's table and charts: rows are pairs or methods, columns clutter levels.

    ``entries`` are (keys of the summary's rows, label, style).
    """
    levels = _levels(rows)
    limits = _limits([row["value"] for row in singles] + [row["low"] for row in rows])
    table, series, chances = [], [], []
    for keys, label, style in entries:
        own = [row for row in rows if keys.items() <= row.items()]
        if not own:
            continue
        cells = [next((r for r in own if r["clutter"] == level), None) for level in levels]
        table.append({"label": label, "cells": cells})
        single = [row for row in singles if keys.items() <= row.items()]
        series.append(_series(own, single, levels, label, style))
        chances.append([cell and cell["chance"] for cell in cells])
    if len(levels) > 1:
        charts = [
            figures.plot_levels(
                [one],
                f"{name}-{index}",
                one.label,
                "clutter level",
                limits,
                chance,
                _first_beyond(content, levels),
                width=3.1 if len(series) <= 3 else 2.5,
            )
            for index, (one, chance) in enumerate(zip(series, chances, strict=True))
        ]
    else:
        relabelled = [
            figures.Series(
                one.label,
                [figures.Group(one.label, g.points, g.mean, g.low, g.high) for g in one.groups],
                one.style,
            )
            for one in series
        ]
        known = [value for row in chances for value in row if value is not None]
        chance = float(np.mean(known)) if known else None
        charts = [figures.plot_groups(relabelled, name, measure.label, limits, chance)]
    return {
        "measure": measure,
        "levels": [_level_label(level) for level in levels],
        "by_clutter": levels != [None],
        "rows": table,
        "charts": charts,
        "beyond": _first_beyond(content, levels) is not None,
        "missing": sum(row["missing"] for row in rows),
    }


def _skipped(content: Content) -> dict:
    """Everything that could not be used, by name."""
    degenerate = [
        (row["model"], row["picture"], method_label(row["method"]), row["status"])
        for row in content.heatmaps
        if row["status"] != "ok"
    ] + [
        (row["model"], row["picture"], METHODS["lime"], row["status"])
        for row in content.lime
        if row["status"] != "ok"
    ]
    unlabelled = defaultdict(list)
    for row in content.neurons:
        if row["concept"] is None:
            unlabelled[row["model"], row["layer"], row["status"]].append(str(row["unit"]))
    missing: Counter = Counter()
    for what, rows, measures in (
        ("agreement", content.agreement, AGREEMENT_MEASURES),
        ("truth", content.localization, LOCALIZATION_MEASURES),
        ("comparison", content.comparison, {}),
    ):
        for row in rows:
            if row["value"] is None:
                label = _measure(row["metric"], measures, content.study).label
                missing[what, label, row["reason"] or "no reason given"] += 1
    values = sum(
        len(rows) for rows in (content.agreement, content.localization, content.comparison)
    )
    return {
        "undecoded": [(r["name"], r["error"]) for r in content.pictures if r["error"] is not None],
        "undecoded_probe": [
            (r["name"], r["error"]) for r in content.probe if r["error"] is not None
        ],
        "degenerate": sorted(degenerate),
        "unlabelled": [(*key, ", ".join(units)) for key, units in sorted(unlabelled.items())],
        "missing": [(*key, count) for key, count in sorted(missing.items())],
        "checked": [
            text
            for number, text in (
                (len(content.pictures), _count(len(content.pictures), "picture")),
                (len(content.heatmaps), _count(len(content.heatmaps), "heatmap")),
                (len(content.lime), _count(len(content.lime), "LIME explanation")),
                (values, _count(values, "value")),
            )
            if number
        ],
    }


def _method(content: Content) -> dict:
    """Parameters, versions, hashes, and how to read each measure."""
    measures = []
    compared = {row["metric"] for row in content.comparison if row["value"] is not None}
    for measure, is_there in zip(
        OTHER_MEASURES,
        (
            _dissected(content),
            "rarefied_concepts" in compared,
            "class_name_cosine" in compared,
            content.lime,
        ),
        strict=True,
    ):
        if is_there:
            measures.append(measure)
    for rows, known in (
        (content.agreement_summary, AGREEMENT_MEASURES),
        (content.localization_summary, LOCALIZATION_MEASURES),
    ):
        for metric in _metrics(rows, known):
            measures.append(_measure(metric, known, content.study))
    seeds = [("study", content.study.get("seed"))]
    for model in content.study["models"]:
        if model.get("train"):
            seeds.append((f"training of {model['name']}", model["train"].get("seed")))
    if content.lime:
        lime = content.lime[0]
        seeds.append(("LIME, segmentation", lime["segmentation_seed"]))
        seeds.append(("LIME, perturbation", lime["perturbation_seed"]))
    return {
        "measures": measures,
        "seeds": [(what, seed) for what, seed in seeds if seed is not None],
        "versions": sorted(content.versions.items()),
        "hashes": sorted(content.hashes.items()),
        "yaml": yaml.safe_dump(_plain(content.study), sort_keys=False, allow_unicode=True),
        "synthetic": bool(content.study.get("world")),
    }


def _plain(value):
    """Return built-in types only, which is what YAML writes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
