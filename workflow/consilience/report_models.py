"""The report's sections about the models: the world they were trained on, and their neurons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from . import figures
from .images import read_picture
from .report_base import (
    Content,
    dissected_names,
    find_beyond,
    find_levels,
    format_fixed,
    format_percent,
    join_words,
    make_legend,
    order_models,
    picture_uri,
    published_names,
    unique,
)
from .similarity import TERMS

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

DIVISIONS = {"share_category": "category", "share_kind": "kind"}
"""By metric of the comparison, what words are divided by."""

NEURONS_SHOWN = 4
NEURON_PICTURES = 5
CONCEPTS_SHOWN = 10
WORDS_SHOWN = 60
BASES_SHOWN = 3


def tell_world(content: Content) -> dict | None:
    """Sample pictures and the models' accuracy by clutter level."""
    known = [
        row
        for row in content.pictures
        if row["clutter"] is not None
        and row["base"] is not None
        and row["error"] is None
        # Pictures that were drawn for being hard are no sample of the world.
        and row["weight"] is None
    ]
    if not content.study.get("world") or not (known or content.accuracy):
        return None
    bases = defaultdict(dict)
    for row in known:
        bases[row["base"]][row["clutter"]] = row
    levels = find_levels(known)
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
                {
                    "uri": picture_uri(figures.shrink(pixels)),
                    "alt": f"{about}, clutter level {level}",
                }
            )
        samples.append(cells)
    names = [model["name"] for model in content.study["models"]]
    by_level = [r for r in content.accuracy if r["model"] in names and r["clutter"] is not None]
    rows, chart = [], None
    accuracy_levels = find_levels(by_level)
    beyond = find_beyond(content, accuracy_levels)
    shown = sorted({*levels, *accuracy_levels})
    first_beyond = find_beyond(content, shown)
    series = []
    for index, name in enumerate(order_models(content, by_level)):
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
        "legend": make_legend(series),
        "beyond": None if first_beyond is None else shown[first_beyond],
    }


def order_layers(content: Content) -> list[str]:
    """Dissected layers in the study's order, which is that of the network."""
    order = unique(
        layer for model in content.study["models"] for layer in model.get("dissect_layers", ())
    )
    found = unique(row["layer"] for row in content.neurons)
    return [x for x in order if x in found] + [x for x in found if x not in order]


def summarise_layers(content: Content) -> list[dict]:
    """Count neurons, different words and absent words by layer and model."""
    summary = []
    compared = {
        (row["layer"], row["model_a"], row["metric"]): row
        for row in content.comparison
        if row["model_b"] is None
    }
    for layer in order_layers(content):
        rows = [row for row in content.neurons if row["layer"] == layer]
        for model in order_models(content, rows):
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
                }
            )
    return summary


def tell_neurons(content: Content) -> dict | None:
    if not content.neurons:
        return None
    probe = {row["name"]: row for row in content.probe if row["error"] is None}
    thumbnails: dict[str, str] = {}

    def thumbnail(name: str) -> str:
        if name not in thumbnails:
            thumbnails[name] = picture_uri(
                figures.enlarge(np.asarray(read_picture(probe[name])), 96)
            )
        return thumbnails[name]

    summary = summarise_layers(content)
    layers = []
    for layer in order_layers(content):
        concepts = [row for row in content.concepts if row["layer"] == layer]
        models = order_models(content, [row for row in content.neurons if row["layer"] == layer])
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
        "dissected": dissected_names(content),
        "published": published_names(content),
        "has_absent": any(row["absent"] is not None for row in summary),
        "temperatures": _temperatures(content),
        "own_temperature": _own_temperature(content),
        "significance": content.study["dissection"]["significance"],
        "has_standing": any(row["compared"]["share_standing"] for row in summary),
        "has_intervals": any(row["low"] is not None for row in content.comparison),
        "divisions": [
            division
            for metric in DIVISIONS
            if (division := _divide(content, metric, [(r["layer"], r["model"]) for r in summary]))
        ],
    }


def _divide(content: Content, metric: str, sides: list[tuple[str, str]]) -> dict | None:
    """Count neurons by what their words are: of each layer and model, and models against one
    another."""
    shares = {
        (row["layer"], row["model_a"], row["category"]): row
        for row in content.comparison
        if row["metric"] == metric
    }
    names: list[str | None] = unique(name for _, _, name in shares)
    if not names:
        return None
    without = [row for row in content.comparison if row["metric"] == "share_uncategorised"]
    if metric == "share_category" and any(row["value"] for row in without):
        names.append(None)
        shares |= {(row["layer"], row["model_a"], None): row for row in without}
    rows = []
    for layer, model in sides:
        cells = [shares.get((layer, model, name)) for name in names]
        parts, start = [], 0.0
        for index, cell in enumerate(cells):
            width = 100 * (cell["value"] or 0) if cell else 0
            parts.append({"index": index, "x": round(start, 2), "width": round(width, 2)})
            start += width
        rows.append({"layer": layer, "model": model, "cells": cells, "parts": parts})
    differences = defaultdict(dict)
    for row in content.comparison if metric == "share_category" else ():
        if row["metric"] == "category_difference":
            pair = (row["layer"], row["model_a"], row["model_b"])
            differences[pair][row["category"]] = row
    labels = ["uncategorised" if name is None else name for name in names]
    sides_of = [label for label in labels if label not in ("neither", "uncategorised")]
    what = DIVISIONS[metric]
    return {
        "title": f"{sides_of[0].capitalize()} against {sides_of[1]}"
        if metric == "share_category" and len(sides_of) == 2
        else f"Neurons by {what} of their word",
        "what": what,
        "labels": labels,
        "rows": rows,
        "differences": [
            {"layer": layer, "a": a, "b": b, "cells": [found.get(name) for name in names]}
            for (layer, a, b), found in differences.items()
        ],
        "finding": _say_division(shares, differences, names),
    }


def _say_division(shares: Mapping, differences: Mapping, names: list[str | None]) -> str:
    """Say how models differ in the words of the last layer that two of them have."""
    known = [key for key, found in differences.items() if found[names[0]]["value"] is not None]
    if not known:
        return ""
    layer, a, b = known[-1]
    said = []
    for name in [name for name in names if name not in (None, "neither")][:2]:
        row = differences[layer, a, b][name]
        points = f"{format_fixed(100 * row['value'], 1)} points"
        if row["low"] is not None and row["high"] is not None:
            low, high = (format_fixed(100 * row[end], 1) for end in ("low", "high"))
            points += f", 95 % interval {low} to {high}"
        one, other = (format_percent(shares[layer, model, name]["value"]) for model in (a, b))
        said.append(f"{one} of {a}’s have a {name} word and {other} of {b}’s ({points})")
    return f"Of the labelled neurons in {layer}, {join_words(said)}."


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
    for a in unique(row["a"] for row in content.temperature):
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
