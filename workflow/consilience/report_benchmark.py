"""The report's section on the benchmark: what the world's causal truth says of methods and metrics.

Every sentence is worked out from the tables.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from . import audit, causal, contrast, figures, leaderboard, replication, trust
from .report_base import (
    Content,
    Rows,
    count_things,
    describe_measure,
    format_fixed,
    format_percent,
    join_words,
    make_legend,
    method_label,
    order_methods,
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
    parts = {
        "audit": _tell_audit(content),
        "neurons": _tell_neurons(content),
        "contrast": _tell_contrast(content),
        "trust": _tell_trust(content),
        "boards": _tell_boards(content),
    }
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
    number = len({(row["family"], row["metric"]) for row in metrics})
    text = (
        f"Of {count_things(len(metrics), 'reading')} of {count_things(number, 'metric')}, "
        f"{len(right)} rank all planted explanations rightly."
    )
    fooled = [
        row
        for row in metrics
        if any(audit.find_fault(failed) == audit.REWARDED for failed in row["failed"])
    ]
    if fooled:
        text += (
            f" A map that says nothing (Fake-CAM) is rewarded by {_join_readings(content, fooled)}:"
            " what these say of a method says nothing of the method."
        )
    first = [
        row
        for row in metrics
        if any(failed["explanation"] == audit.CAUSAL for failed in row["failed"])
    ]
    if first:
        text += (
            " The causal mask itself does not come first, or is not told from another, by "
            f"{_join_readings(content, first)}."
        )
    return text


def _join_readings(content: Content, metrics: Rows) -> str:
    """Write metrics with their readings, each once."""
    return join_words(
        unique(
            f"{_metric_label(content, row, FAMILIES[row['family']][1])} ({row['reading']})"
            for row in metrics
        )
    )


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


# --- the same pictures, two nets -----------------------------------------------------------------


def _tell_contrast(content: Content) -> list[dict]:
    """By family of nets that tell objects, how far each method moves to the scene."""
    if not content.contrast_summary:
        return []
    families = replication.family_of(content.study["models"])
    rows = [
        row | {"model": row["object_model"]}
        for row in content.contrast_summary
        if row["metric"] == contrast.PRIMARY
    ]
    values = {
        name: replication.gather(
            rows, families, name, "method", "causal", bounds=replication.DIFFERENCE
        )
        for name in ("on_object_net", "on_scene_net", "move")
    }
    found = []
    for family in unique(families[row["model"]] for row in rows):
        own = [row for row in rows if families[row["model"]] == family]
        methods = order_methods(content, (row["method"] for row in own))
        entries = [
            {
                "label": method_label(method),
                "causal": causal,
                "values": [values[name][family, method, causal] for name in values],
                "nets": [row for row in own if (row["method"], row["causal"]) == (method, causal)],
            }
            for method in methods
            for causal in (False, True)
        ]
        found.append(
            {
                "family": family,
                "rows": entries,
                "finding": _say_contrast(entries),
            }
        )
    return found


def _moves(row: Mapping) -> bool | None:
    """Whether a method moves: over seeds where there are enough, else of the one net."""
    move = row["values"][2]
    if move.value is None:
        return None
    if move.over_seeds:
        return move.low > 0
    lows = [net["low"] for net in row["nets"] if net["move"] is not None]
    return all(low is not None and low > 0 for low in lows)


def _say_contrast(entries: list[dict]) -> str:
    """Say which methods move with the model, and of how many nets that is said."""
    known = [row for row in entries if not row["causal"] and row["values"][2].value is not None]
    if not known:
        return "There is no picture that both nets are right about: nothing is told."
    moving = [row for row in known if _moves(row)]
    still = [row for row in known if not _moves(row)]
    said = []
    if moving:
        best = max(moving, key=lambda row: row["values"][2].value)
        said.append(
            f"{join_words(row['label'] for row in moving)} "
            f"{'moves' if len(moving) == 1 else 'move'} from the object to the scene when the net "
            f"tells scenes; farthest {best['label']}, by "
            f"{format_percent(best['values'][2].value, 0)} of its map"
        )
    if still:
        said.append(
            f"{join_words(row['label'] for row in still)} "
            f"{'is' if len(still) == 1 else 'are'} not shown to move: "
            f"{'it lies' if len(still) == 1 else 'they lie'} alike whatever the net tells"
        )
    seeds = max(row["values"][2].seeds for row in known)
    return f"{'. '.join(said)}. This is said {replication.say_scope(seeds)}."


# --- agreement and trust -------------------------------------------------------------------------

KINDS = {
    trust.COUNTERFACTUAL: "Both explanations point at what the model uses",
    trust.PREDICTION: "The prediction is right",
}


def _tell_trust(content: Content) -> list[dict]:
    """By family of nets, whether explanations that agree are right."""
    families = replication.family_of(content.study["models"])
    found = []
    for number, family in enumerate(unique(families[row["model"]] for row in content.trust)):
        rows = [row for row in content.trust if families[row["model"]] == family]
        curves = [row for row in content.calibration if families[row["model"]] == family]
        nets = unique(row["model"] for row in rows)
        found.append(
            {
                "family": family,
                "scope": replication.say_scope(len(nets)),
                "matters": _count_matters(rows),
                "findings": [
                    _say_trust(rows, cam, _estimate_auroc(curves, cam), len(nets))
                    for cam in order_methods(content, (row["cam"] for row in rows))
                ],
                "kinds": [
                    {
                        "label": label,
                        **_draw_curves(content, curves, families, kind, f"trust-{number}-{kind}"),
                    }
                    for kind, label in KINDS.items()
                    if any(row["correct"] == kind for row in curves)
                ],
            }
        )
    return found


def _count_matters(rows: Rows) -> list[dict]:
    """By condition, what matters to the model, and how often it is right."""
    found = []
    for condition in trust.CONDITIONS:
        # Of one CAM: what matters does not depend on it.
        own = {
            (row["model"], row["picture"]): row for row in rows if row["condition"] == condition
        }.values()
        if own:
            known = [row["prediction"] for row in own if row["prediction"] is not None]
            found.append(
                {
                    "condition": condition,
                    "pictures": len(own),
                    "right": sum(known) / len(known) if known else None,
                }
                | {
                    what: sum(row["matters"] == what for row in own) / len(own)
                    for what in (trust.OBJECT, trust.SCENE, trust.NEITHER)
                }
            )
    return found


def _estimate_auroc(curves: Rows, cam: str) -> replication.Estimate:
    """How well agreement with one CAM tells where both are right, over all conditions."""
    return replication.estimate(
        row["auroc"]
        for row in curves
        if (row["cam"], row["correct"], row["condition"], row["bin"])
        == (cam, trust.COUNTERFACTUAL, trust.ALL, None)
    )


def _say_trust(rows: Rows, cam: str, auroc: replication.Estimate, nets: int) -> str:
    """Say of LIME and one CAM how often they are wrong together where they agree."""
    own = [row for row in rows if row["cam"] == cam and row["counterfactual"] is not None]
    agreeing = [
        row for row in own if row["corrected"] is not None and row["corrected"] >= trust.HIGH
    ]
    wrong = [row for row in agreeing if trust.is_wrong_together(row)]
    name = f"LIME and {method_label(cam)}"
    if len(agreeing) < FEWEST:
        return (
            f"{name} agree (corrected agreement of {trust.HIGH} or more) on "
            f"{count_things(len(agreeing), 'picture')} of {len(own)} where it is known what "
            f"matters, too few to say what their agreement is worth."
        )
    text = (
        f"{name} agree on {len(agreeing)} of {count_things(len(own), 'picture')} where it is known "
        f"what matters; there both are right in "
        f"{format_percent(sum(row['counterfactual'] for row in agreeing) / len(agreeing), 0)}"
    )
    if wrong:
        at_object = sum(row["matters"] == trust.SCENE for row in wrong)
        parts = []
        if at_object:
            parts.append(f"{_say_times(at_object)} both point at the object, and the scene decides")
        if at_object < len(wrong):
            at_scene = len(wrong) - at_object
            parts.append(f"{_say_times(at_scene)} both point at the scene, and the object decides")
        text += (
            f", and in {format_percent(len(wrong) / len(agreeing), 0)} they agree and are wrong: "
            f"{join_words(parts)}"
        )
    else:
        text += ", and never wrong together"
    others = [row for row in own if row not in agreeing and row["corrected"] is not None]
    if len(others) >= FEWEST:
        share = sum(row["counterfactual"] for row in others) / len(others)
        text += f". Where they do not agree, both are right in {format_percent(share, 0)}"
    text += f" ({replication.say_scope(nets)})"
    if auroc.value is None:
        return f"{text}."
    text += (
        ". Of two pictures, the one on which they agree more is the one on which both are right "
        f"with a probability of {format_fixed(auroc.value)}, where 0.5 is chance"
    )
    if not auroc.over_seeds:
        return f"{text}; of other nets nothing is claimed."
    span = f"{format_fixed(auroc.low)} to {format_fixed(auroc.high)}"
    return f"{text}; over training seeds, {span}."


def _say_times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _draw_curves(
    content: Content, curves: Rows, families: Mapping[str, str], kind: str, name: str
) -> dict:
    """Draw the calibration curves of one family and kind: a chart a CAM, a line a condition."""
    rows = [row for row in curves if row["correct"] == kind]
    found = {
        column: {
            key[1:]: estimate
            for key, estimate in replication.gather(
                rows, families, column, "cam", "condition", "bin"
            ).items()
        }
        for column in ("right", "auroc")
    }
    pictures = Counter()
    for row in rows:
        if row["bin"] is None:
            pictures[row["cam"], row["condition"]] += row["pictures"]
    bins = range(len(trust.EDGES) - 1)
    cams = order_methods(content, (row["cam"] for row in rows))
    charts = [
        figures.plot_levels(
            [
                figures.Series(
                    condition,
                    [
                        figures.Group(
                            _bin_label(place),
                            (),
                            *_point(found["right"].get((cam, condition, place))),
                        )
                        for place in bins
                    ],
                    style,
                )
                for style, condition in enumerate(trust.CONDITIONS)
                if (cam, condition, None) in found["right"]
            ],
            f"{name}-{number}",
            f"LIME and {method_label(cam)}",
            "Agreement, corrected for reliability",
            (0, 1),
            percent=True,
            width=4.2,
            description=f"Share that is right, by corrected agreement: {KINDS[kind]}.",
        )
        for number, cam in enumerate(cams)
    ]
    table = [
        {
            "cam": method_label(cam),
            "condition": condition,
            "pictures": pictures[cam, condition],
            "right": found["right"][cam, condition, None],
            "cells": [found["right"].get((cam, condition, place)) for place in bins],
            "auroc": found["auroc"][cam, condition, None],
        }
        for cam in cams
        for condition in (trust.ALL, *trust.CONDITIONS)
        if (cam, condition) in pictures
    ]
    present = {row["condition"] for row in rows}
    legend = make_legend(
        [
            figures.Series(condition, (), style)
            for style, condition in enumerate(trust.CONDITIONS)
            if condition in present
        ]
    )
    return {
        "charts": charts,
        "legend": legend,
        "rows": table,
        "bins": [_bin_label(place) for place in bins],
    }


def _point(found: replication.Estimate | None) -> tuple[float | None, ...]:
    """Mean and interval of a point, for :class:`figures.Group`."""
    return (None, None, None) if found is None else (found.value, found.low, found.high)


def _bin_label(place: int) -> str:
    low, high = trust.EDGES[place], trust.EDGES[place + 1]
    return f"below {high:g}" if place == 0 else f"{low:g} to {high:g}"


# --- the leaderboard -----------------------------------------------------------------------------

BOARD_LABELS = {
    leaderboard.METHODS: "Explanation methods",
    leaderboard.SIMILARITIES: "Similarity functions of dissection",
    leaderboard.METRICS: "Metrics of explanations",
}


def _tell_boards(content: Content) -> list[dict]:
    """By board, its rows, the best first."""
    return [
        {
            "label": BOARD_LABELS[board],
            "rows": [
                {**row, "label": method_label(row["entrant"])}
                for row in content.leaderboard
                if row["board"] == board
            ],
        }
        for board in leaderboard.BOARDS
        if any(row["board"] == board for row in content.leaderboard)
    ]
