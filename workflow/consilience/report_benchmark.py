"""The report's section on the benchmark: what the world's causal truth says of methods and metrics.

Every sentence is worked out from the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from . import audit, causal, replication
from .report_base import (
    Content,
    Rows,
    count_things,
    describe_measure,
    format_percent,
    join_words,
    unique,
)
from .report_evidence import (
    AGREEMENT_MEASURES,
    FAITHFULNESS_MEASURES,
    FILLS,
    LOCALIZATION_MEASURES,
)
from .world import VERSION

FAMILIES = {
    audit.FAITHFULNESS: ("Faithfulness to the model", FAITHFULNESS_MEASURES),
    audit.LOCALIZATION: ("Localisation against the mask", LOCALIZATION_MEASURES),
    audit.AGREEMENT: ("Agreement with an explanation that is right", AGREEMENT_MEASURES),
}

PLANTED = {
    audit.CAUSAL: "Causal mask",
    audit.HALF: "Half of it",
    audit.SHUFFLED: "Shuffled",
    audit.NOISE: "Smooth noise",
    audit.CENTRE: "Centre",
    audit.EDGES: "Edges",
    audit.FAKE: "Fake-CAM",
    audit.INVERSE: "Inverse",
}

FEWEST = 10
"""Cases below which a share is shown in its table, but no sentence is made of it."""


def tell_benchmark(content: Content) -> dict | None:
    """Return what the section shows; None where the study has no benchmark."""
    parts = {"audit": _tell_audit(content), "neurons": _tell_neurons(content)}
    if not any(parts.values()):
        return None
    return parts | {"version": VERSION}


# --- the audit of metrics ------------------------------------------------------------------------


def _tell_audit(content: Content) -> list[dict]:
    """By model whose explanations were planted, what every metric says of them."""
    found = []
    for model in unique(row["model"] for row in content.audit_rules):
        rules = [row for row in content.audit_rules if row["model"] == model]
        metrics = audit.rank_metrics(rules)
        means = _average(row for row in content.audit if row["model"] == model)
        groups = []
        for family, (label, measures) in FAMILIES.items():
            rows = [
                {
                    "label": _metric_label(content, row, measures),
                    "reading": row["reading"],
                    "right": row["right"],
                    "rules": row["rules"],
                    "sign": "yes" if row["right"] == row["rules"] else "no",
                    "failed": _say_failed(row["failed"]),
                    "means": [means.get((*_key(row), name)) for name in audit.EXPLANATIONS],
                }
                for row in metrics
                if row["family"] == family
            ]
            if rows:
                groups.append({"label": label, "rows": rows})
        bases = {row["bases"] for row in rules}
        found.append(
            {
                "model": model,
                "finding": _say_audit(content, metrics),
                "bases": max(bases, default=0),
                "explanations": [PLANTED[name] for name in audit.EXPLANATIONS],
                "groups": groups,
            }
        )
    return found


def _key(row: Mapping) -> tuple:
    return tuple(row[name] for name in ("family", "metric", "fill", "reading"))


def _average(rows) -> dict[tuple, float]:
    """Mean score by family, metric, fill, reading and explanation."""
    values = defaultdict(list)
    for row in rows:
        if row["value"] is not None:
            values[*_key(row), row["explanation"]].append(row["value"])
    return {key: float(np.mean(found)) for key, found in values.items()}


def _metric_label(content: Content, row: Mapping, measures: Mapping) -> str:
    label = describe_measure(row["metric"], measures, content.study).label
    return f"{label}, {FILLS.get(row['fill'], row['fill'])}" if row["fill"] else label


def _say_failed(rows: Rows) -> str:
    """Say what a metric gets wrong, pairs of one kind together."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for row in rows:
        kind = audit.find_fault(row)
        one, other = PLANTED[row["explanation"]], PLANTED[row["other"]]
        if row["other"] == audit.INVERSE:
            groups[other, kind, "of"].append(one)
        else:
            groups[one, kind, "to"].append(other)
    said = []
    for (name, kind, direction), others in groups.items():
        names = join_words(others)
        if direction == "of":
            said.append(
                {
                    audit.WRONG: f"{name} scores as high as {names}, or higher",
                    audit.TIED: f"{name} scores just as {names}",
                    audit.OPEN: f"{name} is not told from {names}",
                    audit.REWARDED: f"{names} scores above {name}",
                }[kind]
            )
        else:
            said.append(
                {
                    audit.WRONG: f"{name} scores no higher than {names}",
                    audit.TIED: f"{name} scores just as {names}",
                    audit.OPEN: f"{name} is not told from {names}",
                    audit.REWARDED: f"{name} is rewarded: it scores well above {names}",
                }[kind]
            )
    return "; ".join(said)


def _say_audit(content: Content, metrics: Rows) -> str:
    """Say how many metrics rank all planted explanations rightly, and which do not."""
    right = [row for row in metrics if row["right"] == row["rules"]]
    text = (
        f"Of {count_things(len(metrics), 'reading')} of {len({r['metric'] for r in metrics})} "
        f"metrics, {len(right)} rank all planted explanations rightly."
    )
    fooled = [
        row
        for row in metrics
        if any(
            failed["explanation"] == audit.FAKE and failed["verdict"] == audit.WRONG
            for failed in row["failed"]
        )
    ]
    if fooled:
        names = unique(
            f"{_metric_label(content, row, FAMILIES[row['family']][1])} ({row['reading']})"
            for row in fooled
        )
        text += (
            f" A map that says nothing (Fake-CAM) is rewarded by {join_words(names)}: what these "
            "say of a method says nothing of the method."
        )
    first = [
        row
        for row in metrics
        if any(failed["explanation"] == audit.CAUSAL for failed in row["failed"])
    ]
    if first:
        names = unique(
            f"{_metric_label(content, row, FAMILIES[row['family']][1])} ({row['reading']})"
            for row in first
        )
        text += (
            f" The causal mask itself does not come first, or is not told from another, by "
            f"{join_words(names)}."
        )
    return text


# --- dissection against the causal truth ---------------------------------------------------------

ENOUGH, AT_MOST = 0.95, 0.05
"""Shares that the control asks for: planted concepts found, random neurons with a label that
stands."""

CONTROLS = {
    causal.SINGLE: ("Planted, one concept", causal.LABELLED, "recall", ENOUGH),
    causal.PAIR: ("Planted, one of two concepts", causal.LABELLED, "recall", ENOUGH),
    causal.RANDOM: ("Random", causal.STANDING, "false_labels", AT_MOST),
}
"""By group: what it is called, the labels that count, what is asked and how much of it."""


def _tell_neurons(content: Content) -> list[dict]:
    """By family of nets, what the neurons respond to and how right their labels are."""
    if not content.dissection_truth:
        return []
    families = replication.family_of(content.study["models"])
    found = []
    for family in unique(families[row["model"]] for row in content.dissection_truth):
        judged = [row for row in content.dissection_truth if families[row["model"]] == family]
        truth = [
            row
            for row in content.causal
            if families.get(row["model"]) == family and row["planted"] is None
        ]
        own = [row for row in judged if row["group"] == causal.NEURONS]
        labels = {
            name: replication.gather(own, families, name, "layer", "similarity", "labels")
            for name in ("precision", "recall", "chance")
        }
        rows = [
            {
                "layer": layer,
                "similarity": similarity,
                "chance": labels["chance"][family, layer, similarity, causal.LABELLED],
                "cells": [
                    labels[name][family, layer, similarity, selection]
                    for selection in (causal.LABELLED, causal.STANDING)
                    for name in ("precision", "recall")
                ],
            }
            for layer, similarity in unique((row["layer"], row["similarity"]) for row in own)
        ]
        nets = unique(row["model"] for row in judged)
        found.append(
            {
                "family": family,
                "scope": replication.say_scope(len(nets)),
                "finding": _say_neurons(rows, len(nets)),
                "truth": _summarise_truth(truth),
                "rows": rows,
                "controls": _judge_controls(judged, families),
                "control_finding": _say_controls(judged, content.causal, nets),
            }
        )
    return found


def _summarise_truth(rows: Rows) -> list[dict]:
    """By layer, how many neurons respond to what, in shares of those that vary."""
    found = []
    for layer in unique(row["layer"] for row in rows):
        own = [row for row in rows if row["layer"] == layer and row["status"] == "ok"]
        if not own:
            continue
        first = [row["concepts"][0] for row in own if row["concepts"]]
        found.append(
            {
                "layer": layer,
                "neurons": len(own),
                "one": sum(len(row["concepts"]) == 1 for row in own) / len(own),
                "several": sum(len(row["concepts"]) > 1 for row in own) / len(own),
                "none": sum(not row["concepts"] for row in own) / len(own),
                "factors": [
                    sum(word in words for word in first) / len(own)
                    for words in causal.FACTORS.values()
                ],
            }
        )
    return found


def _say_neurons(rows: list[dict], nets: int) -> str:
    """Say which similarity names neurons best, and what it is worth that a label stands."""
    said = []
    for layer in unique(row["layer"] for row in rows):
        own = [row for row in rows if row["layer"] == layer and row["cells"][0].value is not None]
        if not own:
            continue
        best = max(own, key=lambda row: row["cells"][0].value)
        precision, _, standing, recall = best["cells"]
        text = (
            f"in {layer} the labels of {best['similarity']} are right most often, "
            f"{format_percent(precision.value, 0)} of them"
        )
        if standing.value is not None:
            text += (
                f", of those that stand {format_percent(standing.value, 0)} (which names "
                f"{format_percent(recall.value, 0)} of the neurons that have a concept)"
            )
        said.append(text)
    if not said:
        return "No label could be held against the truth."
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}. These numbers are {replication.say_scope(nets)}."


def _judge_controls(judged: Rows, families: Mapping[str, str]) -> list[dict]:
    """By similarity and group of planted neurons, whether the control is passed."""
    found = []
    for similarity in unique(row["similarity"] for row in judged):
        cells = []
        for group, (label, selection, name, limit) in CONTROLS.items():
            own = [
                row
                for row in judged
                if (row["similarity"], row["group"], row["labels"])
                == (similarity, group, selection)
            ]
            value = next(iter(replication.gather(own, families, name).values()), None)
            if value is None or value.value is None:
                continue
            passed = value.value >= limit if limit == ENOUGH else value.value <= limit
            cells.append({"label": label, "value": value.value, "passed": passed})
        if cells:
            found.append({"similarity": similarity, "cells": cells})
    return found


def _say_controls(judged: Rows, truth: Rows, nets: list[str]) -> str:
    """Say whether the experiment and the labels find what was planted."""
    planted = [row for row in truth if row["planted"] is not None and row["model"] == nets[0]]
    text = ""
    if planted:
        having = [row for row in planted if row["planted_concepts"]]
        right = sum(set(row["concepts"]) == set(row["planted_concepts"]) for row in having)
        false = sum(bool(row["concepts"]) for row in planted if not row["planted_concepts"])
        text = (
            f"The experiment itself finds exactly what was planted in {right} of {len(having)} "
            f"planted neurons, and a concept in {false} of {len(planted) - len(having)} random "
            "ones. "
        )
    families = dict.fromkeys((row["model"] for row in judged), "")
    rows = _judge_controls(judged, families)
    passing = [row["similarity"] for row in rows if all(cell["passed"] for cell in row["cells"])]
    if not rows:
        return text
    return text + (
        f"Of {count_things(len(rows), 'similarity function')}, "
        f"{join_words(passing) if passing else 'none'} "
        f"{'passes' if len(passing) < 2 else 'pass'} the whole control: at least "
        f"{format_percent(ENOUGH, 0)} of planted concepts named, at most "
        f"{format_percent(AT_MOST, 0)} of random neurons with a label that stands."
    )
