"""Tables as people read them: whole as CSV for a spreadsheet, and as a page for a browser.

Both lie beside the Parquet file, which stays what later steps read. Snakemake's own report, which
can show no Parquet, holds these.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from . import files, tables

PAGE_ROWS = 1000
"""A page shows at most so many rows; the CSV has them all."""

_LONG = 40  # characters, above which a cell takes several lines


def write_sheets(paths: Iterable[str | Path]) -> None:
    """Write the sheets that are asked for, each beside the table that it is of.

    Parameters
    ----------
    paths
        Of files ``<table>.csv`` or ``<table>.html``, of a table of the module ``tables``, whose
        Parquet file lies in the same folder.

    Raises
    ------
    ConsilienceError
        If the table is missing or broken: names its file.
    """
    for path in map(Path, paths):
        write = {".csv": write_csv, ".html": write_page}[path.suffix]
        schema = getattr(tables, path.stem.upper())
        write(path.with_suffix(".parquet"), path, schema)


def write_csv(source: str | Path, path: str | Path, schema: pa.Schema) -> None:
    """Write a table of ``schema`` as CSV, UTF-8, all its rows and columns.

    What is missing is empty and an empty text is ``""``; a list is written as JSON; numbers are
    written so that reading gives the same number. A part of the table is in memory at a time.

    Raises
    ------
    ConsilienceError
        As :func:`consilience.tables.open_table` does.
    """
    file = tables.open_table(source, schema)
    flat = pa.schema([(field.name, _flat(field.type)) for field in schema])
    options = pyarrow.csv.WriteOptions(quoting_style="needed")

    def write(part: str) -> None:
        with pyarrow.csv.CSVWriter(part, flat, write_options=options) as writer:
            for batch in file.iter_batches(columns=schema.names):
                columns = [_flatten(batch.column(name)) for name in schema.names]
                writer.write_batch(pa.record_batch(columns, schema=flat))

    files.write_atomically(path, write)


def _flat(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_list(kind) else kind


def _flatten(column: pa.Array) -> pa.Array:
    """Return a column of lists as JSON, any other as it is."""
    if not pa.types.is_list(column.type):
        return column
    texts = [
        None if value is None else json.dumps(value, ensure_ascii=False)
        for value in column.to_pylist()
    ]
    return pa.array(texts, pa.string())


def write_page(source: str | Path, path: str | Path, schema: pa.Schema) -> None:
    """Write a table of ``schema`` as an HTML page: its first rows, and how many there are.

    The page holds no script and asks for nothing; every text in it is escaped. Numbers are rounded
    to four digits.

    Raises
    ------
    ConsilienceError
        As :func:`consilience.tables.open_table` does.
    """
    file = tables.open_table(source, schema)
    count, path = file.metadata.num_rows, Path(path)
    rows = _read_first(file, schema, PAGE_ROWS)
    said = f"{count:,} rows" if count != 1 else "1 row"
    if count > len(rows):
        said = f"The first {len(rows):,} of {said}; {path.stem}.csv has them all"
    numbers = {field.name for field in schema if _is_number(field.type)}
    head = "".join(f'<th scope="col">{_escape(name)}</th>' for name in schema.names)
    body = "\n".join(
        "<tr>" + "".join(_cell(row[name], name in numbers) for name in schema.names) + "</tr>"
        for row in rows
    )
    text = _PAGE.format(
        title=_escape(path.stem.replace("_", " ")), said=_escape(said), head=head, body=body
    )
    files.write_atomically(path, lambda part: Path(part).write_text(text, encoding="utf-8"))


def _read_first(file: pq.ParquetFile, schema: pa.Schema, most: int) -> list[dict]:
    rows: list[dict] = []
    for batch in file.iter_batches(columns=schema.names, batch_size=most):
        rows += batch.slice(0, most - len(rows)).to_pylist()
        if len(rows) == most:
            break
    return rows


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _cell(value: object, is_number: bool) -> str:
    if value is None or value == []:
        return "<td>–</td>"
    text = _say(value)
    kind = "number" if is_number else "long" if len(text) > _LONG else None
    return f'<td class="{kind}">{_escape(text)}</td>' if kind else f"<td>{_escape(text)}</td>"


def _say(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_say, value)) if isinstance(value, list) else str(value)


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1rem; font: 0.9rem/1.45 system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.3rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th {{ position: sticky; top: 0; background: Canvas; text-align: left; }}
th, td {{ padding: 0.2rem 0.6rem; border-bottom: 1px solid GrayText; vertical-align: top; }}
td {{ white-space: nowrap; }}
.number {{ text-align: right; }}
.long {{ min-width: 18rem; max-width: 30rem; white-space: normal; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{said}.</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""
