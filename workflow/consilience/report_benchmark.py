"""The report's section on the benchmark: what the world's causal truth says of methods and metrics.

Every sentence is worked out from the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from . import audit
from .report_base import Content, Rows, count_things, describe_measure, join_words, unique
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
    parts = {"audit": _tell_audit(content)}
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
