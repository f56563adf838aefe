"""The leaderboard: what the benchmark says of each method, similarity and metric, a row each.

An entrant is whatever is registered: a CAM, LIME, a similarity function, a metric. Numbers are over
the nets of a family (:mod:`consilience.replication`), and compare within one version of the world.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from . import audit, causal, contrast, replication, trust
from .agreement import LIME
from .files import write_atomically
from .tables import LEADERBOARD
from .world import VERSION

METHODS, SIMILARITIES, METRICS = "methods", "similarities", "metrics"
BOARDS = (METHODS, SIMILARITIES, METRICS)

RULES_RIGHT = "rules right"
MOVE = "move with the model"
POINTS = "points at what matters"
FINDS = "finds the object that matters"
FAITHFUL = "more faithful than random"


def build_leaderboard(
    models: Iterable[Mapping],
    audit_rules: Iterable[Mapping] = (),
    dissection_truth: Iterable[Mapping] = (),
    contrast_summary: Iterable[Mapping] = (),
    trusted: Iterable[Mapping] = (),
    localization: Iterable[Mapping] = (),
    faithfulness: Iterable[Mapping] = (),
) -> list[dict]:
    """Collect what the benchmark found.

    Parameters
    ----------
    models
        The study's, with their families.
    audit_rules, dissection_truth, contrast_summary, trusted, localization, faithfulness
        Rows of the tables ``AUDIT_RULES``, ``DISSECTION_TRUTH``, ``CONTRAST_SUMMARY``, ``TRUST``,
        ``LOCALIZATION`` and ``FAITHFULNESS``; what a study does not have is left out.

    Returns
    -------
    list of dict
        Rows of the table ``LEADERBOARD``, by board, measure, what it is measured on, and value, the
        best first. Higher is better in all of them.
    """
    families = replication.family_of(models)
    rows = [
        *_rank_methods(families, contrast_summary, trusted, localization, faithfulness),
        *_rank_similarities(families, dissection_truth),
        *_rank_metrics(audit_rules),
    ]
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    return sorted(
        (row | {"world": VERSION} for row in rows if row["value"] is not None),
        key=lambda row: (
            BOARDS.index(row["board"]),
            measures.index(row["measure"]),
            row["measured_on"],
            -row["value"],
            row["entrant"],
        ),
    )


def _entries(board: str, measure: str, found: Mapping, where: str = "{0}") -> Iterator[dict]:
    """Make rows of estimates by family, entrant and, maybe, more."""
    for (family, entrant, *rest), estimate in found.items():
        yield {
            "board": board,
            "entrant": entrant,
            "measure": measure,
            "measured_on": where.format(family, *rest),
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "seeds": estimate.seeds,
        }


def _rank_methods(families, moves, trusted, localization, faithfulness) -> Iterator[dict]:
    primary = [
        row | {"model": row["object_model"]}
        for row in moves
        if row["metric"] == contrast.PRIMARY and not row["causal"]
    ]
    found = replication.gather(primary, families, "move", "method", bounds=replication.DIFFERENCE)
    yield from _entries(METHODS, MOVE, found)

    pointing = []
    for row in trusted:
        if row["matters"] != trust.NEITHER:
            for method, at in ((row["cam"], "cam_points_at"), (LIME, "lime_points_at")):
                if row[at] is not None:
                    right = float(row[at] == row["matters"])
                    # LIME meets every CAM, and is the same each time.
                    pointing.append({"model": row["model"], "method": method, "right": right})
    found = replication.gather(pointing, families, "right", "method")
    yield from _entries(METHODS, POINTS, found)

    mattering = [
        row
        for row in localization
        if row["metric"] == "iou" and row["truth"] == "object" and row["matters"]
    ]
    found = replication.gather(mattering, families, "value", "method")
    yield from _entries(METHODS, FINDS, found)

    road = [row for row in faithfulness if row["metric"] == "road"]
    found = replication.gather(
        road, families, "difference", "method", bounds=replication.DIFFERENCE
    )
    yield from _entries(METHODS, FAITHFUL, found)


def _rank_similarities(families, judged) -> Iterator[dict]:
    own = [row for row in judged if row["group"] == causal.NEURONS]
    for selection, said in (
        (causal.LABELLED, "all labels"),
        (causal.STANDING, "labels that stand"),
    ):
        chosen = [row for row in own if row["labels"] == selection]
        for name in ("precision", "recall"):
            found = replication.gather(chosen, families, name, "similarity", "layer")
            yield from _entries(SIMILARITIES, f"{name} of {said}", found, "{0}, {1}")


def _rank_metrics(rules) -> Iterator[dict]:
    for row in audit.rank_metrics(rules):
        fill = f" ({row['fill']})" if row["fill"] else ""
        yield {
            "board": METRICS,
            "entrant": f"{row['metric']}{fill}, {row['reading']}",
            "measure": RULES_RIGHT,
            "measured_on": f"{row['family']}, {row['model']} model",
            "value": row["right"] / row["rules"],
            "low": None,
            "high": None,
            "seeds": 0,
        }


def write_csv(rows: Iterable[Mapping], path: str | Path) -> None:
    """Write rows of the table ``LEADERBOARD`` as CSV, atomically; nothing stands for no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, LEADERBOARD.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda part: Path(part).write_text(text.getvalue(), encoding="utf-8"))
