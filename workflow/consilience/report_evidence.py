"""The report's sections on what explanations are worth: agreement, faithfulness, sanity, truth.

Every sentence is worked out from the tables. Summaries are of each picture's first target.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from . import figures
from .faithfulness import name_winners
from .localization import OFFSETS
from .report_base import (
    FEWEST,
    Content,
    Measure,
    Rows,
    count_things,
    describe_measure,
    find_beyond,
    find_levels,
    first_cam,
    format_fixed,
    format_mean,
    format_percent,
    format_span,
    join_words,
    level_label,
    make_legend,
    method_label,
    method_style,
    names_scene,
    order_methods,
    order_metrics,
    order_models,
    other_method,
    unique,
)

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
        "Overlap of the two regions of highest value, each {top} of the area. Its floor is not 0: "
        "two random regions of this size already overlap by {floor}.",
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
    "ssim": Measure(
        "Structural similarity",
        "−1 to 1",
        "Whether two maps look alike in small windows. Smooth maps look alike where both are flat, "
        "so it says little without its floor.",
    ),
    "soft-iou": Measure(
        "IoU of the whole maps",
        "0 to 1",
        "Overlap of the two maps’ positive parts taken as wholes, without a threshold: the sum of "
        "the smaller values over the sum of the greater. Moved by how a method scales its map.",
    ),
    "emd": Measure(
        "Earth mover’s distance",
        "0 to 1",
        "How far, in shares of the diagonal, the mass of one map must be carried to make the "
        "other. A distance: lower agrees, 0 is the same map, and the floor lies above the ceiling. "
        "Tells a near miss from a far one.",
    ),
    "feature-agreement": Measure(
        "Feature agreement",
        "0 to 1",
        "Share of the most important superpixels that the two have in common (Krishna et al.).",
    ),
    "rank-agreement": Measure(
        "Rank agreement",
        "0 to 1",
        "Share of the most important superpixels that have the same rank in both (Krishna et al.).",
    ),
    "sign-agreement": Measure(
        "Sign agreement",
        "0 to 1",
        "Share of the most important superpixels that the two have in common and with the same "
        "sign (Krishna et al.).",
    ),
    "signed-rank-agreement": Measure(
        "Signed rank agreement",
        "0 to 1",
        "Share of the most important superpixels with the same rank and sign in both "
        "(Krishna et al.).",
    ),
    "pairwise-rank-agreement": Measure(
        "Pairwise rank agreement",
        "0 to 1",
        "Share of the pairs of superpixels that both put in the same order (Krishna et al.). "
        "Unrelated orders agree on half of the pairs.",
    ),
}

HEADLINE = ("spearman", "iou", "superpixel-spearman")
"""Measures of agreement that are shown; the others are folded."""

FLOORS = {
    "random_smooth": "random smooth",
    "other_picture": "other picture",
    "centre": "centre",
    "edges": "edges",
}
"""Columns of the floors, and what they are called."""

LOCALIZATION_MEASURES = {
    "iou": Measure(
        "IoU with the mask",
        "0 to 1",
        "Overlap of the mask with the explanation’s top region of the mask’s own area. A random "
        "region of share a scores a / (2 − a).",
    ),
    "pointing-game": Measure(
        "Pointing game",
        "0 to 1",
        "Share of the explanation’s strongest place that lies inside the mask: 0 or 1 for a single "
        "pixel, between for a whole superpixel. A random place scores the mask’s share of the "
        "picture.",
    ),
    "mass-inside": Measure(
        "Mass inside the mask",
        "0 to 1",
        "Share of the explanation’s positive part that lies inside the mask. A map without regard "
        "to it scores the mask’s share of the picture; a map that is nowhere near 0 scores low "
        "wherever its maximum is.",
    ),
    "average-precision": Measure(
        "Average precision",
        "0 to 1",
        "How well the map’s values find the mask’s pixels at all thresholds at once, without "
        "choosing a region. A random order scores the mask’s share of the picture.",
    ),
    "offset-right": Measure("Offset to the right", "pixels"),
    "offset-down": Measure("Offset down", "pixels"),
}

TRUTHS = {
    "object": Measure("Against the object", text="The mask is of what is seen of the object."),
    "distractor": Measure(
        "Against the distractor that a wrong prediction names",
        text="Where the model is wrong and names something that stands in the clutter, an "
        "explanation of that class is right where it shows that thing.",
    ),
    "scene": Measure(
        "Against the scene",
        text="The mask is of all that neither the object nor a distractor covers.",
    ),
}
"""What masks are of: a heading, and what a reader has to know."""

FAITHFULNESS_MEASURES = {
    "deletion": Measure(
        "Deletion",
        "higher is more faithful",
        "Pixels are replaced, those that the explanation ranks highest first. The sooner the "
        "target’s probability falls, the more the model used them.",
    ),
    "insertion": Measure(
        "Insertion",
        "higher is more faithful",
        "Pixels come back in the explanation’s order. The sooner the probability rises, the more "
        "the model used them.",
    ),
    "road": Measure(
        "ROAD",
        "higher is more faithful",
        "Pixels are replaced by what their neighbours make one expect, so that the replaced region "
        "hardly shows its own outline to the model. The score is how much more of the probability "
        "is left when the least important go first than when the most important do.",
    ),
    "average-drop": Measure(
        "Average drop",
        "higher is more faithful",
        "The picture is dimmed by the map. The less of the target’s probability is lost, the more "
        "the map kept of what the model used. Kind to maps that keep everything.",
    ),
    "increase": Measure(
        "Increase",
        "higher is more faithful",
        "Whether the probability rises when the picture is dimmed by the map.",
    ),
}
"""The values shown are differences from a random order, so that all have one direction."""

FILLS = {
    "mean": "mean colour",
    "blur": "blurred picture",
    "linear": "linear imputation",
    "black": "black",
}

DECIDING = (
    ("deletion", "mean"),
    ("deletion", "blur"),
    ("insertion", "mean"),
    ("insertion", "blur"),
    ("road", "linear"),
)
"""Metrics and fills that must all have the same best method before one is called the best."""

CONTROL = "eigen-cam"
"""The method that does not ask for the class, and so must fail the test of the class."""

CHANGES = {
    "without-object": "Object taken away",
    "other-scene": "Another scene",
    "without-distractor": "Distractor taken away",
}


# --- charts ------------------------------------------------------------------------------------


def _series(rows: Rows, singles: Rows, levels: Sequence, label: str, style: int) -> figures.Series:
    """Make a chart's series from summary rows and the single pictures' values."""
    clutter_of = {row["picture"]: row["clutter"] for row in singles}
    groups = []
    for level in levels:
        row = next((row for row in rows if row["clutter"] == level), {})
        own = [one for one in singles if clutter_of[one["picture"]] == level]
        if row and row["n"] != sum(one["value"] is not None for one in own):
            # The summary leaves out pictures that were drawn because a model is wrong about them.
            own = [one for one in own if not one["drawn"]]
        points = sorted((one["picture"], one["value"]) for one in own)
        floor = _floor(row)
        groups.append(
            figures.Group(
                level_label(level),
                points,
                *(row.get(key) for key in ("mean", "low", "high")),
                floor=row[floor] if floor else None,
                ceiling=row.get("ceiling"),
                has_room=row.get("relative") is not None,
                floor_name=FLOORS.get(floor, ""),
            )
        )
    return figures.Series(label, groups, style)


def _floor(row: Mapping) -> str | None:
    """Return the column of a summary row's highest floor."""
    name = (row.get("floor") or "").replace("-", "_")
    return name if name in FLOORS else None


def _describe(series: Sequence[figures.Series], chance: Sequence[float | None] = ()) -> str:
    """Say in words what a chart shows."""
    said = []
    for one in series:
        parts = []
        for index, group in enumerate(one.groups):
            if group.mean is None:
                parts.append(f"{group.label}: no value")
                continue
            text = f"{group.label}: {format_fixed(group.mean)}"
            if None not in (group.low, group.high):
                text += f" ({format_fixed(group.low)} to {format_fixed(group.high)})"
            if group.floor is not None:
                text += f", floor {format_fixed(group.floor)} ({group.floor_name})"
            if group.ceiling is not None:
                text += f", ceiling {format_fixed(group.ceiling)}"
            if index < len(chance) and chance[index] is not None:
                text += f", chance {format_fixed(chance[index])}"
            parts.append(text)
        head = f"{one.label}: " if len(series) > 1 else ""
        said.append(head + "; ".join(parts))
    return "Means: " + ". ".join(said) + "."


def _with_clutter(content: Content, rows: Rows) -> list[dict]:
    """Add each picture's clutter level, and whether it was drawn for a model's being wrong."""
    clutter = {row["name"]: row["clutter"] for row in content.pictures}
    drawn = {row["name"] for row in content.pictures if row["weight"] is not None}
    return [
        {**row, "clutter": clutter.get(row["picture"]), "drawn": row["picture"] in drawn}
        for row in rows
    ]


def _limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Return limits that hold all values, 0 and 1."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return (min(0.0, np.floor(4 * low) / 4), max(1.0, np.ceil(4 * high - 1e-9) / 4))


def _charted(content, rows, singles, entries, measure, name) -> dict:
    """Make a measure's table and charts: rows are pairs or methods, columns clutter levels.

    ``entries`` are (keys of the summary's rows, label, style). Rows that count causal pictures
    only stand in the table, not in the charts.
    """
    levels = find_levels(rows)
    limits = _limits(
        [row["value"] for row in singles]
        + [row[key] for row in rows for key in ("low", "ceiling", *FLOORS) if key in row]
    )
    table, series, chances = [], [], []
    for keys, label, style in entries:
        own = [row for row in rows if keys.items() <= row.items()]
        for causal in (False, True):
            mine = [row for row in own if row.get("causal", False) == causal]
            cells = [next((r for r in mine if r["clutter"] == level), None) for level in levels]
            if not mine or (causal and not any(row["n"] for row in mine)):
                continue
            table.append({"label": label, "causal": causal, "cells": cells})
            if not causal:
                single = [row for row in singles if keys.items() <= row.items()]
                series.append(_series(mine, single, levels, label, style))
                chances.append([cell and cell["chance"] for cell in cells])
    floored = any(_floor(row) for row in rows)
    if len(levels) > 1:
        charts = [
            figures.plot_levels(
                [one],
                f"{name}-{index}",
                one.label,
                "clutter level",
                limits,
                () if floored else chance,
                find_beyond(content, levels),
                width=3.1 if len(series) <= 3 else 2.5,
                description=f"{measure.label} by clutter level. {_describe([one], chance)}",
            )
            for index, (one, chance) in enumerate(zip(series, chances, strict=True))
        ]
    else:
        known = [value for row in chances for value in row if value is not None]
        chance = float(np.mean(known)) if known and not floored else None
        charts = [_rows_chart(series, name, measure.label, limits, chance)]
    return {
        "measure": measure,
        "levels": [level_label(level) for level in levels],
        "by_clutter": levels != [None],
        "rows": table,
        "charts": charts,
        "floors": FLOORS if floored or any("ceiling" in row for row in rows) else None,
        "beyond": find_beyond(content, levels) is not None,
        "reasons": any(row.get("reason") for row in rows),
        "missing": _count_missing(singles),
    }


def _rows_chart(series, name, title, limits, chance) -> str:
    """Plot one row a series, where there is one level."""
    relabelled = [
        figures.Series(
            one.label,
            [
                figures.Group(
                    one.label,
                    g.points,
                    g.mean,
                    g.low,
                    g.high,
                    g.floor,
                    g.ceiling,
                    g.floor_name,
                    g.has_room,
                )
                for g in one.groups
            ],
            one.style,
        )
        for one in series
    ]
    said = _describe([figures.Series("", [g for one in relabelled for g in one.groups])])
    return figures.plot_groups(relabelled, name, title, limits, chance, said)


def _count_missing(rows: Rows) -> list[tuple[str, int]]:
    """Count values that are not defined, by reason, the most frequent first."""
    found = Counter(row["reason"] or "no reason given" for row in rows if row["value"] is None)
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


# --- agreement ---------------------------------------------------------------------------------


def tell_agreement(content: Content) -> list[dict]:
    """By model, the independent pairs and then the CAMs among themselves."""
    models = []
    singles = [row for row in _with_clutter(content, content.agreement) if row["control"] is None]
    for number, model in enumerate(order_models(content, content.agreement_summary)):
        own = [row for row in content.agreement_summary if row["model"] == model]
        blocks = []
        for independent in (True, False):
            block = [row for row in own if row["independent"] == independent]
            if not block:
                continue
            pairs = {}
            for row in block:
                a, b = order_methods(content, (row["method_a"], row["method_b"]))
                pairs[row["method_a"], row["method_b"]] = (a, b)
            order = order_methods(content, [m for pair in pairs.values() for m in pair])
            keys = sorted(pairs, key=lambda key: [order.index(m) for m in pairs[key]])
            metrics = []
            for metric in order_metrics(block, AGREEMENT_MEASURES):
                found = [
                    row
                    for row in singles
                    if (row["model"], row["metric"]) == (model, metric)
                    and (row["method_a"], row["method_b"]) in pairs
                ]
                metrics.append(
                    _charted(
                        content,
                        [row for row in block if row["metric"] == metric],
                        found,
                        [
                            (
                                {"method_a": key[0], "method_b": key[1]},
                                " – ".join(map(method_label, pairs[key])),
                                method_style(content, pairs[key][1]) if independent else 4,
                            )
                            for key in keys
                        ],
                        describe_measure(metric, AGREEMENT_MEASURES, content.study),
                        f"agree{number}{'l' if independent else 'c'}{len(metrics)}",
                    )
                    | {"headline": metric in HEADLINE}
                )
            say = _say_independent if independent else _say_among_cams
            blocks.append(
                {
                    "independent": independent,
                    "finding": say(content, own),
                    "headline": [one for one in metrics if one["headline"]],
                    "others": [one for one in metrics if not one["headline"]],
                }
            )
        models.append({"model": model, "blocks": blocks})
    return models


def pick_headline(content: Content, model: str) -> list[Mapping]:
    """Return the summary of LIME's rank correlation with the first CAM, by clutter level."""
    rows = [
        row
        for row in content.agreement_summary
        if row["model"] == model and row["metric"] == "spearman" and row["independent"]
    ]
    cam = first_cam(content, map(other_method, rows))
    rows = {row["clutter"]: row for row in rows if other_method(row) == cam}
    return [rows[level] for level in find_levels(list(rows.values()))]


def say_relative(row: Mapping) -> str:
    """Say how far a row of the summary has come from its highest floor to its ceiling."""
    if row["relative"] is None:
        return f"no value between floor and ceiling ({row['reason'] or 'no reason given'})"
    low, high = row["relative_low"], row["relative_high"]
    text = f"{format_percent(row['relative'], 0)} of the way from the highest floor"
    floor = _floor(row)
    text += f" ({FLOORS[floor]}, {format_fixed(row[floor])})" if floor else ""
    text += f" to the ceiling ({format_fixed(row['ceiling'])})"
    if None not in (low, high):
        text += f", interval {format_percent(low, 0)} to {format_percent(high, 0)}"
    return text


def where(level: int | None, levels: Sequence[int | None]) -> str:
    """Say on which pictures, of the lowest and the highest of some levels."""
    if level is None:
        return "over all pictures"
    if len(levels) == 1:
        return f"at clutter level {level}"
    kind = "simplest" if level == levels[0] else "most cluttered"
    return f"on the {kind} pictures (level {level})"


def _say_independent(content: Content, rows: Rows) -> str:
    headline = pick_headline(content, rows[0]["model"])
    if not headline:
        return ""
    levels = [row["clutter"] for row in headline]
    cam = method_label(other_method(headline[0]))
    parts = []
    for row in unique_rows([headline[0], headline[-1]]):
        if row["mean"] is None:
            parts.append(f"no value {where(row['clutter'], levels)}")
        else:
            parts.append(f"{format_mean(row)} {where(row['clutter'], levels)}: {say_relative(row)}")
    return f"LIME and {cam} agree at a mean rank correlation of {'; and '.join(parts)}."


def unique_rows(rows: Rows) -> list[Mapping]:
    """Return rows without those that are the very same as one before."""
    return list({id(row): row for row in rows}.values())


def _say_among_cams(content: Content, rows: Rows) -> str:
    found = [row for row in rows if row["metric"] == "spearman" and row["mean"] is not None]
    among = [row["mean"] for row in found if not row["independent"]]
    beside = [row["mean"] for row in found if row["independent"]]
    if not among:
        return ""
    text = f"Over pairs and levels the CAMs’ mean rank correlation is {format_span(among)}"
    if beside:
        text += f"; LIME’s with them is {format_span(beside)}"
    return f"{text}."


# --- faithfulness ------------------------------------------------------------------------------


def tell_faithfulness(content: Content) -> list[dict]:
    """By model, each method's paired difference from a random order, and the curves."""
    models = []
    winners = {
        row["model"]: row
        for row in name_winners(
            content.faithfulness,
            content.pictures,
            content.study["agreement"]["bootstrap"],
            content.study["seed"],
        )
    }
    for number, model in enumerate(order_models(content, content.faithfulness_summary)):
        own = [row for row in content.faithfulness_summary if row["model"] == model]
        methods = order_methods(content, (row["method"] for row in own))
        columns = _metrics_and_fills(own)
        levels = find_levels(own)
        # One scale for all metrics: all are differences of probabilities.
        bounds = [row[key] for row in own for key in ("mean", "low", "high")]
        bounds = [value for value in bounds if value is not None] or [0.0]
        limits = (min(0.0, *bounds) - 0.02, max(0.0, *bounds) + 0.02)
        charts, legend = [], []
        for metric, fill in columns:
            rows = [row for row in own if (row["metric"], row["fill"]) == (metric, fill)]
            series = [
                _series(
                    [row for row in rows if row["method"] == method],
                    (),
                    levels,
                    method_label(method),
                    method_style(content, method),
                )
                for method in methods
            ]
            name = f"faith{number}-{len(charts)}"
            title = _metric_and_fill(metric, fill)
            if len(levels) > 1:
                said = "Mean difference from a random order by clutter level. " + _describe(series)
                chart = figures.plot_levels(
                    series,
                    name,
                    title,
                    "clutter level",
                    limits,
                    [0.0] * len(levels),
                    find_beyond(content, levels),
                    description=said,
                    connected=False,
                )
                legend = make_legend(series)
            else:
                said = f"{title}: mean difference from a random order"
                chart = _rows_chart(series, name, said, limits, 0.0)
            charts.append({"title": title, "chart": chart, "titled": len(levels) > 1})
        pooled = pool_differences(own)
        singles = [row for row in content.faithfulness if row["model"] == model]
        models.append(
            {
                "model": model,
                "finding": _tell_winner(own, winners.get(model)),
                "charts": charts,
                "legend": legend,
                "columns": [_metric_and_fill(*column) for column in columns],
                "pooled": [
                    (method_label(method), [pooled.get((*column, method)) for column in columns])
                    for method in methods
                ],
                "rows": [
                    {
                        **row,
                        "label": method_label(row["method"]),
                        "what": _metric_and_fill(row["metric"], row["fill"]),
                    }
                    for row in sorted(
                        own,
                        key=lambda row: (
                            columns.index((row["metric"], row["fill"])),
                            methods.index(row["method"]),
                            levels.index(row["clutter"]),
                        ),
                    )
                ],
                "by_clutter": levels != [None],
                "beyond": find_beyond(content, levels) is not None,
                "measures": [
                    describe_measure(metric, FAITHFULNESS_MEASURES, content.study)
                    for metric in order_metrics(own, FAITHFULNESS_MEASURES)
                ],
                "curves": _curves(content, singles, number),
                "missing": _count_missing(singles),
            }
        )
    return models


def _metrics_and_fills(rows: Rows) -> list[tuple[str, str]]:
    """Return metrics with their fills in the order in which both are declared here."""
    known = list(FILLS)
    found = unique((row["metric"], row["fill"]) for row in rows)
    return sorted(
        found,
        key=lambda pair: (
            order_metrics(rows, FAITHFULNESS_MEASURES).index(pair[0]),
            known.index(pair[1]) if pair[1] in known else len(known),
            pair[1],
        ),
    )


def _metric_and_fill(metric: str, fill: str) -> str:
    label = FAITHFULNESS_MEASURES.get(metric, Measure(metric)).label
    return f"{label}, {FILLS.get(fill, fill)}"


def _way(metric: str, fill: str) -> str:
    """Write metric and fill as part of a sentence."""
    label = FAITHFULNESS_MEASURES.get(metric, Measure(metric)).label
    label = label if label.isupper() else label.lower()
    return f"{label} ({FILLS.get(fill, fill)})"


def pool_differences(rows: Rows) -> dict[tuple[str, str, str], float]:
    """Return the mean difference over all pictures, by metric, fill and method.

    Parameters
    ----------
    rows
        Of ``FAITHFULNESS_SUMMARY`` and one model: means over the pictures of a clutter level, here
        weighted by how many these are.
    """
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0.0, 0])
    for row in rows:
        if row["mean"] is not None and row["n"]:
            total = sums[row["metric"], row["fill"], row["method"]]
            total[0] += row["mean"] * row["n"]
            total[1] += row["n"]
    return {key: total / n for key, (total, n) in sums.items()}


def _tell_winner(rows: Rows, winner: Mapping | None) -> str:
    """Say which method leads by its mean, and whether it does so over base pictures too."""
    said = say_winner(rows)
    if winner is None or "no method is named" in said:
        return said
    if winner["method"] is None:
        return f"{said} Over base pictures none is named: {winner['reason']}."
    return (
        f"{said} Paired over base pictures {method_label(winner['method'])} beats the second by "
        "each of these."
    )


def say_winner(rows: Rows) -> str:
    """Say which method is the most faithful, if all of :data:`DECIDING` say the same.

    Parameters
    ----------
    rows
        Of ``FAITHFULNESS_SUMMARY`` and one model.
    """
    pooled = pool_differences(rows)
    best = {}
    for metric, fill in DECIDING:
        values = {key[2]: value for key, value in pooled.items() if key[:2] == (metric, fill)}
        if len(values) > 1:
            top = max(values.values())
            best[metric, fill] = sorted(name for name, value in values.items() if value == top)
    if not best:
        return "There are no two methods to compare, so none is named as the most faithful."
    ways = join_words(_way(*way) for way in best)
    winners = set.intersection(*map(set, best.values()))
    if len(winners) != 1 or any(len(names) > 1 for names in best.values()):
        led = defaultdict(list)
        for way, names in best.items():
            led[" and ".join(map(method_label, names))].append(_way(*way))
        said = "; ".join(f"{name} by {join_words(found)}" for name, found in led.items())
        return f"The fills disagree, so no method is named as the most faithful: best is {said}."
    winner = winners.pop()
    if len(best) < len(DECIDING):
        missing = [_way(*way) for way in DECIDING if way not in best]
        return (
            f"{method_label(winner)} is best by {ways}, but {join_words(missing)} could not be "
            "compared, so it is not named as the most faithful."
        )
    worse = [way for way in best if pooled[*way, winner] <= 0]
    if worse:
        said = join_words(_way(*way) for way in worse)
        return (
            f"{method_label(winner)} is best throughout, but no better than a random order by "
            f"{said}."
        )
    return f"{method_label(winner)} has the greatest mean difference from a random order by {ways}."


def _curves(content: Content, rows: Rows, number: int) -> list[dict]:
    """Average deletion's and insertion's curves over pictures, a chart a method."""
    found = []
    kept = [row for row in rows if row["metric"] in ("deletion", "insertion") and row["curve"]]
    methods = order_methods(content, (row["method"] for row in kept))
    for metric, fill in _metrics_and_fills(kept):
        charts = []
        for method in methods:
            own = [
                row
                for row in kept
                if (row["metric"], row["fill"], row["method"]) == (metric, fill, method)
            ]
            steps = len(own[0]["curve"]) if own else 0
            own = [
                row
                for row in own
                if len(row["curve"]) == steps and len(row["random_curve"]) == steps
            ]
            if not own or steps < 2:
                continue
            xs = np.linspace(0, 1, steps).tolist()
            means = [
                np.mean([row[key] for row in own], axis=0) for key in ("curve", "random_curve")
            ]
            label = method_label(method)
            middle = steps // 2
            charts.append(
                figures.plot_curves(
                    [
                        figures.Curve("random order", xs, means[1].tolist(), dashed=True),
                        figures.Curve(label, xs, means[0].tolist(), method_style(content, method)),
                    ],
                    f"curve{number}-{len(found)}-{len(charts)}",
                    label,
                    "pixels replaced" if metric == "deletion" else "pixels put back",
                    (0, 1),
                    description=(
                        f"{_metric_and_fill(metric, fill)}: mean probability of the target over "
                        f"{count_things(len(own), 'picture')}, at {format_percent(xs[middle], 0)} "
                        f"of the pixels {format_fixed(means[0][middle])}, in a random order "
                        f"{format_fixed(means[1][middle])}."
                    ),
                )
            )
        if charts:
            found.append(
                {
                    "title": _metric_and_fill(metric, fill),
                    "charts": charts,
                    "falls": metric == "deletion",
                }
            )
    return found


# --- sanity ------------------------------------------------------------------------------------


def tell_sanity(content: Content) -> list[dict]:
    """By model, how explanations follow randomised weights, and another class."""
    models = []
    for number, model in enumerate(order_models(content, content.sanity_summary)):
        own = [row for row in content.sanity_summary if row["model"] == model]
        methods = order_methods(content, (row["method"] for row in own))
        cascade = [row for row in own if row["test"] == "cascade"]
        cascade.sort(key=lambda row: (methods.index(row["method"]), row["step"]))
        classes = [row for row in own if row["test"] == "class"]
        classes.sort(key=lambda row: methods.index(row["method"]))
        limits = _limits(row[key] for row in cascade for key in ("mean", "low", "floor"))
        charts = []
        for method in order_methods(content, (row["method"] for row in cascade)):
            rows = [row for row in cascade if row["method"] == method]
            series = figures.Series(
                method_label(method),
                [
                    figures.Group(
                        _stage(row), (), row["mean"], row["low"], row["high"], row["floor"], None
                    )
                    for row in rows
                ],
                method_style(content, method),
            )
            charts.append(
                figures.plot_levels(
                    [series],
                    f"sanity{number}-{len(charts)}",
                    series.label,
                    "weights random down to",
                    limits,
                    width=2.8,
                    description=(
                        "Spearman’s ρ with the explanation itself as weights are randomised. "
                        + _describe([series]).replace(" ()", "")
                    ),
                )
            )
        models.append(
            {
                "model": model,
                "finding": say_sanity(own),
                "charts": charts,
                "last": [
                    {**row, "label": method_label(row["method"])}
                    for row in cascade
                    if row["step"]
                    == max(one["step"] for one in cascade if one["method"] == row["method"])
                ],
                "cascade": [
                    {**row, "label": method_label(row["method"]), "stage": _stage(row)}
                    for row in cascade
                ],
                "classes": [{**row, "label": method_label(row["method"])} for row in classes],
                "control": method_label(CONTROL)
                if any(row["method"] == CONTROL for row in classes)
                else None,
                "missing": _count_missing([r for r in content.sanity if r["model"] == model]),
            }
        )
    return models


def _stage(row: Mapping) -> str:
    return row["stage"] or ("original" if row["step"] == 0 else f"step {row['step']}")


def say_sanity(rows: Rows) -> str:
    """Say by name which methods fail which test.

    Parameters
    ----------
    rows
        Of ``SANITY_SUMMARY`` and one model.
    """
    said = []
    for test, asked, failing in (
        (
            "cascade",
            "randomised weights",
            "at the end of the cascade maps still resemble the original ones",
        ),
        ("class", "another class", "maps do not change with the class"),
    ):
        judged = {row["method"]: row["passed"] for row in rows if row["test"] == test}
        # Only the last stage of the cascade has a verdict.
        for row in rows:
            if row["test"] == test and row["passed"] is not None:
                judged[row["method"]] = row["passed"]
        if not judged:
            continue
        failed = [method_label(name) for name in sorted(judged) if judged[name] is False]
        unknown = [method_label(name) for name in sorted(judged) if judged[name] is None]
        parts = []
        if failed:
            verb = "fails" if len(failed) == 1 else "fail"
            parts.append(f"{join_words(failed)} {verb} the test of {asked}: {failing}")
        elif len(unknown) < len(judged):
            rest = " that could be judged" if unknown else ""
            parts.append(f"no method{rest} fails the test of {asked}")
        if unknown:
            parts.append(f"{join_words(unknown)} could not be judged by {asked}")
        text = "; ".join(parts)
        said.append(f"{text[0].upper()}{text[1:]}.")
        if test == "class" and CONTROL in judged:
            name = method_label(CONTROL)
            if judged[CONTROL] is False:
                said.append(f"{name} had to: it never asks for the class, and is the control.")
            elif judged[CONTROL]:
                said.append(
                    f"{name}, the control, should have failed and did not: this test cannot be "
                    "relied on here."
                )
    return " ".join(said)


# --- truth -------------------------------------------------------------------------------------


def tell_truth(content: Content) -> list[dict]:
    """By model, each method against the masks, and what the picture's parts do to the logit."""
    models = []
    singles = _with_clutter(content, content.localization)
    summary = content.localization_summary
    effects = tell_effects(content)
    rows = [*summary, *content.effects]
    for number, model in enumerate(order_models(content, rows)):
        own = [row for row in summary if row["model"] == model]
        methods = order_methods(content, (row["method"] for row in own))
        truths = []
        known = [name for name in TRUTHS if any(row["truth"] == name for row in own)]
        for truth in unique([*known, *(row["truth"] for row in own)]):
            against = [row for row in own if row["truth"] == truth]
            # A kind of truth that no picture has (no prediction names a distractor, say).
            if not any(row["n"] or row["missing"] for row in against):
                continue
            scored = [row for row in singles if (row["model"], row["truth"]) == (model, truth)]
            if not any(row["n"] for row in against):
                truths.append(_unscored(content, truth, scored))
                continue
            metrics = [
                _charted(
                    content,
                    [row for row in against if row["metric"] == metric],
                    [row for row in scored if row["metric"] == metric],
                    [({"method": m}, method_label(m), method_style(content, m)) for m in methods],
                    describe_measure(metric, LOCALIZATION_MEASURES, content.study),
                    f"truth{number}-{len(truths)}-{index}",
                )
                for index, metric in enumerate(
                    order_metrics(
                        [row for row in against if row["metric"] not in OFFSETS],
                        LOCALIZATION_MEASURES,
                    )
                )
            ]
            truths.append(
                {
                    "name": truth,
                    "offsets": _summarise_offsets(against, methods),
                    "measure": describe_measure(truth, TRUTHS, content.study),
                    "metrics": metrics,
                    "finding": _say_truth(content, against),
                    "missing": [],
                }
            )
        models.append(
            {
                "model": model,
                "truths": truths,
                "of_scene": names_scene(content, model),
                "effects": [row for row in effects if row["model"] == model],
                "effects_finding": _say_effects([r for r in effects if r["model"] == model]),
            }
        )
    return [one for one in models if one["truths"] or one["effects"]]


def _summarise_offsets(rows: Rows, methods: Sequence[str]) -> list[dict]:
    """Average, by method, how far the maps' centres lie from the masks' over all pictures."""
    found = []
    for method in methods:
        offsets = []
        for metric in OFFSETS:
            own = [
                row
                for row in rows
                if (row["method"], row["metric"], row["causal"]) == (method, metric, False)
                and row["n"]
            ]
            number = sum(row["n"] for row in own)
            mean = sum(row["mean"] * row["n"] for row in own) / number if number else None
            offsets.append((number, mean))
        if offsets[0][0] and offsets[1][0]:
            (number, right), (_, down) = offsets
            found.append({"label": method_label(method), "n": number, "right": right, "down": down})
    return found


def _unscored(content: Content, truth: str, rows: Rows) -> dict:
    """Say of a kind of truth that no explanation has a value against why that is so."""
    return {
        "name": truth,
        "measure": describe_measure(truth, TRUTHS, content.study),
        "metrics": [],
        "offsets": [],
        "finding": "No explanation could be scored.",
        "missing": _count_missing(rows),
    }


def _say_truth(content: Content, rows: Rows) -> str:
    """Say which method finds the mask best on the simplest and on the most cluttered pictures."""
    rows = [row for row in rows if row["metric"] == "iou" and not row["causal"] and row["n"]]
    if not rows:
        return ""
    levels = find_levels(rows)
    parts, few = [], []
    for level in unique([levels[0], levels[-1]]):
        found = [row for row in rows if row["clutter"] == level]
        best = max(found, key=lambda row: row["mean"])
        number = count_things(best["n"], "picture")
        if best["n"] < FEWEST:
            few.append(f"{number} {where(level, levels)}")
            continue
        text = f"{method_label(best['method'])} with {format_mean(best)}"
        text += f" {where(level, levels)}"
        if best["chance"] is not None:
            text += f", where chance is {format_fixed(best['chance'])}"
        parts.append(f"{text} ({number})")
    said = f"Highest in mean IoU is {'; and '.join(parts)}." if parts else ""
    if few:
        said += f" There {'is' if few[0][:2] == '1 ' else 'are'} only {' and '.join(few)} to score."
    return said.strip()


def tell_effects(content: Content) -> list[dict]:
    """Summarise, by model, change and clutter level, what a change does to the target's logit."""
    predicted = {(row["model"], row["picture"]): row for row in content.predictions}
    groups = defaultdict(list)
    for row in _with_clutter(content, content.effects):
        # A picture that a model is wrong about stands for no other, unless that is what is asked.
        if row["drawn"] and row["change"] != "without-distractor":
            continue
        groups[row["model"], row["change"], row["clutter"]].append(row)
    order = [*CHANGES, *sorted({row["change"] for row in content.effects} - set(CHANGES))]
    found = []
    for (model, change, level), rows in sorted(
        groups.items(),
        key=lambda item: (item[0][0], order.index(item[0][1]), item[0][2] is None, item[0][2] or 0),
    ):
        logits = [row["changed_logit"] - row["logit"] for row in rows]
        shares = [row["changed_probability"] - row["probability"] for row in rows]
        known = [
            row["changed_class"] != predicted[model, row["picture"]]["predicted_class"]
            for row in rows
            if (model, row["picture"]) in predicted
        ]
        found.append(
            {
                "model": model,
                "change": CHANGES.get(change, change),
                "clutter": level,
                "n": len(rows),
                "logit": float(np.mean(logits)),
                "low": float(np.quantile(logits, 0.25)),
                "high": float(np.quantile(logits, 0.75)),
                "probability": float(np.mean(shares)),
                "other_class": float(np.mean(known)) if known else None,
            }
        )
    return found


def _say_effects(rows: Rows) -> str:
    """Say by how much each change moves the logit over all pictures."""
    if not rows:
        return ""
    parts = []
    for change in unique(row["change"] for row in rows):
        own = [row for row in rows if row["change"] == change]
        mean = sum(row["logit"] * row["n"] for row in own) / sum(row["n"] for row in own)
        number = count_things(sum(row["n"] for row in own), "picture")
        parts.append(f"{format_fixed(mean)} with {change.lower()} ({number})")
    return f"The target’s logit changes by a mean of {join_words(parts)}."
