"""The report's short answer: what a reader sees first, and may see alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .replication import mean
from .report_base import (
    FEWEST,
    Content,
    count_things,
    find_levels,
    format_fixed,
    format_span,
    group_nets,
    join_words,
    method_label,
    names_scene,
    order_methods,
    order_models,
    other_method,
    pick_levels,
    published_names,
    unique,
)
from .report_evidence import pick_headline, say_relative, say_sanity, unique_rows, where
from .report_models import order_layers, summarise_layers
from .report_verdicts import count_verdicts


def tell_answer(content: Content, benchmark: Mapping | None = None) -> dict:
    """The numbers that come first, each straight from a table; of several nets of a family, means.

    ``benchmark`` is what the page says of it, of which the findings stand here too.
    """
    names = [model["name"] for model in content.study["models"]] + published_names(content)
    models = [
        name
        for name in names
        if any(row["model"] == name for row in (*content.accuracy, *content.neurons))
    ]
    nets = group_nets(content, models)
    summary = _average_layers(summarise_layers(content), nets)
    ends, clutter = _from_simple_to_cluttered(content)
    return {
        "models": list(nets),
        "several": any(len(own) > 1 for own in group_nets(content, names).values()),
        "learned": _what_was_learned(content, nets, summary),
        "zero_shot": [
            row for row in content.accuracy if row["model"] not in names and row["clutter"] is None
        ],
        "ends": ends,
        "clutter": clutter,
        "sentences": _say(content, ends, clutter, summary),
        "benchmark": _pick_findings(benchmark),
        "relative": _relative(content),
        "sanity": [
            (model, say_sanity([r for r in content.sanity_summary if r["model"] == model]))
            for model in order_models(content, content.sanity_summary)
        ],
        "verdicts": count_verdicts(content.claims),
        "claims": [
            {**row, "sign": sign}
            for verdict, sign, _ in count_verdicts(content.claims)
            for row in content.claims
            if row["verdict"] == verdict
        ],
    }


Nets = Mapping[str, Sequence[str]]


def _average_layers(summary: list[dict], nets: Nets) -> list[dict]:
    """By layer and group of nets, the means of what is counted a net."""
    found = []
    for layer in unique(row["layer"] for row in summary):
        for label, names in nets.items():
            rows = [row for row in summary if row["layer"] == layer and row["model"] in names]
            if rows:
                means = {key: mean(row[key] for row in rows) for key in ("distinct", "absent")}
                found.append({**rows[0], **means, "model": label, "several": len(rows) > 1})
    return found


def _pick_findings(benchmark: Mapping | None) -> list[tuple[str | None, str]]:
    """What the benchmark found, each with the nets that it is said of where there are several."""
    if benchmark is None:
        return []
    found = []
    for part in ("audit", "neurons", "contrast", "trust"):
        for one in benchmark[part]:
            # Of trust one a CAM, of which the first stands for the others.
            finding = one["finding"] if part != "trust" else one["findings"][0]
            found.append((one.get("family") if len(benchmark[part]) > 1 else None, finding))
    return found


def _what_was_learned(content: Content, nets: Nets, summary: list[dict]) -> list[dict]:
    """Accuracy, and the words of the last two layers: a row a measure, a cell a group of nets."""
    rows = []
    accuracy = {r["model"]: r["accuracy"] for r in content.accuracy if r["clutter"] is None}
    cells = [mean(accuracy.get(name) for name in names) for names in nets.values()]
    if any(cell is not None for cell in cells):
        rows.append(_learned("Held-out accuracy", None, cells))
    found = {(row["model"], row["layer"]): row for row in summary}
    several = any(row["several"] for row in summary)
    for key, label in (("distinct", "Distinct words"), ("absent", "Labelled with absent words")):
        digits = None if key == "absent" else int(several)
        for layer in order_layers(content)[-2:]:
            cells = [found.get((label, layer), {}).get(key) for label in nets]
            if any(cell is not None for cell in cells):
                rows.append(_learned(label, layer, cells, digits))
    named = {
        (row["model_a"], row["layer"]): row["value"]
        for row in content.comparison
        if row["metric"] == "label_is_class_name"
    }
    for layer in unique(layer for _, layer in named):
        cells = [mean(named.get((name, layer)) for name in names) for names in nets.values()]
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
        if (row["metric"], row["truth"], row["causal"]) == ("iou", "object", False)
        and not names_scene(content, row["model"])
        # Only right predictions are held against the object: in clutter they may be one or two.
        and row["n"] >= FEWEST
    ]
    levels = find_levels(independent or truth or accuracy)
    ends = unique([levels[0], levels[-1]]) if levels else []
    groups = []

    def add(key, label, percent, rows):
        if any(cell is not None for _, cells in rows for cell in cells):
            groups.append({"key": key, "label": label, "percent": percent, "rows": rows})

    def labelled(nets, label, method):
        return method_label(method) if len(nets) == 1 else f"{label}, {method_label(method)}"

    def average(names, rows, key, **where):
        levels = [pick_levels(rows, ends, key, model=name, **where) for name in names]
        return [mean(values) for values in zip(*levels, strict=True)]

    add(
        "accuracy",
        "Right predictions, held out",
        True,
        [
            (label, average(names, accuracy, "accuracy"))
            for label, names in group_nets(content, order_models(content, accuracy)).items()
        ],
    )
    nets = group_nets(content, order_models(content, independent))
    add(
        "agreement",
        "LIME against each CAM, median Spearman’s ρ",
        False,
        [
            (
                labelled(nets, label, other),
                average(names, [r for r in independent if other_method(r) == other], "median"),
            )
            for label, names in nets.items()
            for other in order_methods(content, map(other_method, independent))
        ],
    )
    nets = group_nets(content, order_models(content, truth))
    add(
        "truth",
        f"Against the object’s mask, mean IoU of {FEWEST} right predictions or more",
        False,
        [
            (
                labelled(nets, label, method),
                average(names, truth, "mean", method=method),
            )
            for label, names in nets.items()
            for method in order_methods(content, (row["method"] for row in truth))
        ],
    )
    return ends, groups


def _learned(label: str, layer: str | None, cells: list, digits: int | None = None) -> dict:
    """Make a row of what the models learned; a share where no digits are given."""
    share = digits is None
    return {"label": label, "layer": layer, "cells": cells, "percent": share, "digits": digits}


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
                texts.append(format_span(values) + (f" {where}" if len(ends) > 1 else ""))
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
            if (row["metric"], row["truth"], row["causal"]) == ("iou", "object", False)
            and row["chance"] is not None
            and row["n"] >= FEWEST
            and row["clutter"] in ends
        ]
        floor = f"; chance is {format_span(chance)}" if chance else ""
        said.append(
            "The regions that the explanations point at meet the object with a mean IoU of "
            f"{ranges('truth')}{floor}."
        )
    if summary:
        last = summary[-1]["layer"]
        parts = [_say_words(row) for row in summary if row["layer"] == last]
        said.append(f"In the last layer dissected ({last}), there are {join_words(parts)}.")
    return said


def _say_words(row: Mapping) -> str:
    whose = f"{count_things(row['neurons'], 'neuron')} of {row['model']}"
    if row["several"]:
        return f"on average {format_fixed(row['distinct'], 1)} words for {whose}"
    return f"{count_things(round(row['distinct']), 'word')} for {whose}"


def _relative(content: Content) -> list[dict]:
    """LIME's agreement with the first CAM between its floor and ceiling, at both ends."""
    found = []
    nets = group_nets(content, order_models(content, content.agreement_summary))
    for label, names in nets.items():
        headlines = [pick_headline(content, name) for name in names]
        levels = [row["clutter"] for row in headlines[0]]
        for first in unique_rows(headlines[0][:1] + headlines[0][-1:]):
            rows = [row for rows in headlines for row in rows if row["clutter"] == first["clutter"]]
            one = first if len(names) == 1 else _average(rows)
            found.append(
                {
                    **one,
                    "model": label if len(nets) > 1 else None,
                    "cam": method_label(other_method(first)),
                    "where": where(first["clutter"], levels),
                }
            )
    return [{**row, "said": row.get("said") or say_relative(row)} for row in found]


def _average(rows: Sequence[Mapping]) -> dict:
    """Of several nets, means; of the share of the way those that have one."""
    known = [row["relative"] for row in rows if row["relative"] is not None]
    return {
        "mean": mean(row["mean"] for row in rows),
        "relative": mean(known),
        "relative_low": None,
        "relative_high": None,
        "said": f"no value between floor and ceiling in any of {len(rows)} nets",
    }
