"""CSV files that users write: read strictly, row by row, each row with its place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import ConsilienceError, printable, shown
from .files import read_text


def read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row of a CSV file with its place, such as ``words.csv, line 3``.

    Other columns than those asked for may be there; empty lines are passed over.

    Raises
    ------
    ConsilienceError
        If the file cannot be read, is not UTF-8, lacks a column or has it twice, has a row of
        another length than its header or no row at all, or breaks CSV's quoting: names the file
        and the line.
    """
    place = printable(path)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in columns if name not in header]:
            raise ConsilienceError(
                f"{place}, line 1: there is no column {' or '.join(map(repr, missing))}; the "
                f"first line must name the columns, it has {shown(header)}"
            )
        if twice := [name for name in columns if header.count(name) > 1]:
            raise ConsilienceError(f"{place}, line 1: column {twice[0]!r} is there twice; keep one")
        empty = True
        for row in reader:
            if not row:
                continue
            where, empty = f"{place}, line {reader.line_num}", False
            if len(row) != len(header):
                raise ConsilienceError(f"{where}: {len(row)} values for {len(header)} columns")
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ConsilienceError(f"{place}, line {reader.line_num}: {error}") from None
    if empty:
        raise ConsilienceError(f"{place}: has no rows below its header")
