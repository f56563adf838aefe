"""Descriptions of neurons, and categories of words, as CSV files that others write or read."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .csv_files import read_rows
from .errors import ConsilienceError, shown
from .files import write_atomically

MARKS = re.compile(r"-[sc]$")
"""What NetDissect's data set, Broden, marks scenes and colours with."""


def read_all(entries: Iterable[Mapping]) -> list[dict]:
    """Read all published descriptions that a study names: see :func:`read_published`.

    Parameters
    ----------
    entries
        The study's ``published``: ``name``, ``format``, and ``path`` or ``paths``.
    """
    return [
        row
        for entry in entries
        for row in read_published(
            entry["name"], entry["format"], entry.get("path") or entry["paths"]
        )
    ]


def read_published(model: str, format: str, paths: str | Path | Mapping[str, str]) -> list[dict]:
    """Read published descriptions of a model's neurons.

    Parameters
    ----------
    model
        The name that the rows get.
    format
        ``clip-dissect``: one file, as :func:`write_descriptions` writes it, units counted from 0.
        ``netdissect``: one file a layer with the columns ``unit``, ``label`` and ``score`` among
        others, units counted from 1. Of its labels the marks ``-s`` (scene) and ``-c`` (colour)
        are cut off, and underscores become spaces: ``airport_terminal-s`` is ``airport terminal``.
    paths
        One path, or for ``netdissect`` a path by the layer's name.

    Returns
    -------
    list of dict
        Rows of the table ``NEURONS``, in the order of the file, units from 0. A neuron without a
        description has the status ``undescribed``. Similarities are as given, comparable within a
        layer only, and may be missing. Pictures are none.

    Raises
    ------
    ConsilienceError
        If a file cannot be read, is not UTF-8, lacks a column or all rows, or a line has a unit
        that is no whole number or was there before, a similarity that is no finite number, no
        layer, or too many or few values: names the file and the line.
    """
    if format == "clip-dissect":
        rows = _read_clip_dissect(model, paths)
    elif format == "netdissect":
        rows = [
            row for layer, path in paths.items() for row in _read_netdissect(model, layer, path)
        ]
    else:
        raise ConsilienceError(f"there is no format {format!r}; it is clip-dissect or netdissect")
    ranked = [row for row in rows if row["similarity"] is not None]
    ranked.sort(key=lambda row: -row["similarity"])
    places: dict[str, int] = {}
    for row in ranked:
        row["rank"] = places.get(row["layer"], 0)
        places[row["layer"]] = row["rank"] + 1
    return rows


def write_descriptions(neurons: Iterable[Mapping], path: str | Path) -> None:
    """Write the labels of one model as CLIP-Dissect's ``descriptions.csv``.

    Columns ``layer,unit,description,similarity``; a neuron without a label has the last two empty.

    Raises
    ------
    ConsilienceError
        If the neurons are of several models, which the format cannot tell apart.
    """
    neurons = list(neurons)
    if len(models := {row["model"] for row in neurons}) > 1:
        raise ConsilienceError(
            f"{path}: descriptions are of one model, not of {', '.join(sorted(models))}"
        )

    def write(part: str) -> None:
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["layer", "unit", "description", "similarity"])
            writer.writerows(
                [row["layer"], row["unit"], row["concept"], row["similarity"]] for row in neurons
            )

    write_atomically(path, write)


def read_categories(path: str | Path) -> dict[str, str]:
    """Read the categories of words from a CSV file with the columns ``word`` and ``category``.

    Returns
    -------
    dict of str to str
        Category by word, both without space around them.

    Raises
    ------
    ConsilienceError
        If the file cannot be read, is not UTF-8, lacks a column or all rows, or a line lacks a
        value or repeats a word: names the file and the line.
    """
    found: dict[str, str] = {}
    for where, row in read_rows(path, ("word", "category")):
        word, category = row["word"].strip(), row["category"].strip()
        if not word or not category:
            raise ConsilienceError(f"{where}: the {'category' if word else 'word'} is empty")
        if word in found:
            raise ConsilienceError(f"{where}: {shown(word)} has a category already; keep one")
        found[word] = category
    return found


def _read_clip_dissect(model: str, path: str | Path) -> list[dict]:
    rows, seen = [], set()
    for where, row in read_rows(path, ("layer", "unit", "description", "similarity")):
        layer, unit = row["layer"].strip(), _whole(where, row["unit"], 0)
        if not layer:
            raise ConsilienceError(f"{where}: the layer is empty")
        if (layer, unit) in seen:
            raise ConsilienceError(
                f"{where}: layer {shown(layer)}, unit {unit} is there twice; keep one"
            )
        seen.add((layer, unit))
        rows.append(_neuron(where, model, layer, unit, row["description"], row["similarity"]))
    return rows


def _read_netdissect(model: str, layer: str, path: str | Path) -> list[dict]:
    rows, seen = [], set()
    for where, row in read_rows(path, ("unit", "label", "score")):
        unit = _whole(where, row["unit"], 1)
        if unit in seen:
            raise ConsilienceError(f"{where}: unit {unit} is there twice; keep one")
        seen.add(unit)
        label = MARKS.sub("", row["label"].strip()).replace("_", " ")
        rows.append(_neuron(where, model, layer, unit - 1, label, row["score"]))
    return rows


def _neuron(where: str, model: str, layer: str, unit: int, label: str, similarity: str) -> dict:
    label, similarity = label.strip(), similarity.strip()
    value = None
    if label and similarity:
        try:
            value = float(similarity)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConsilienceError(
                f"{where}: similarity {shown(similarity)} is not a finite number"
            )
    return {
        "model": model,
        "layer": layer,
        "unit": unit,
        "status": "ok" if label else "undescribed",
        "concept": label or None,
        "similarity": value,
        "candidates": [],
        "rank": None,
        "absent": None,
        "doubts": [],
        "top_pictures": [],
    }


def _whole(where: str, text: str, least: int) -> int:
    text = text.strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise ConsilienceError(f"{where}: unit {shown(text)} is not a whole number from {least} on")
    return int(text)
