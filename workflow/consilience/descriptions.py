"""Descriptions of neurons as CSV files, in the form of CLIP-Dissect."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import ConsilienceError
from .tables import write_atomically


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
