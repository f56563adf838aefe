"""Write the pages that say what the code says: `make docs`, or with --check hold them against it.

docs/configuration.md comes from workflow/schemas/config.schema.yaml, docs/outputs.md from the
schemas and comments of workflow/consilience/tables.py and from docs/columns.yaml.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import yaml

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent
SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"
TABLES = REPOSITORY / "workflow/consilience/tables.py"
COLUMNS = DOCS / "columns.yaml"

WRITTEN = "<!-- Written by docs/generate.py (make docs) from {}; do not edit. -->"


# --- configuration -----------------------------------------------------------------------------

CONFIGURATION = """\
# Configuration

{written}

`config.yaml` is the default study and is always read. A study of your own states in a file what
differs, and is merged over it; single keys can be given on the command line:

```
snakemake --cores 8 --configfile studies/clutter.yaml --config seed=1
```

**Mappings merge key by key, lists replace whole**: `models`, `pictures`, `probe`, `cam.methods` and
`agreement.metrics` of a study inherit nothing from the default. What must not be inherited can be
set to null (`world`, `clip`, `concepts`). Paths are relative to the directory that Snakemake runs
in. A mistake is named with its key before anything runs.

In the keys below, `[]` stands for each entry of a list. The default is what holds where neither
`config.yaml` nor the study says anything; `config.yaml` says more.
"""


def describe_value(schema: Mapping) -> str:
    """Say what a value may be, in words."""
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        said = ", ".join(f"`{value}`" for value in schema["enum"])
        if "x-registered" in schema:
            said += f"{', or ' if said else ''}a registered name"
        return said
    kinds = schema.get("type")
    if kinds is None:
        return " or ".join(describe_value(option) for option in schema.get("oneOf", ()))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    said = [_describe_kind(kind, schema) for kind in kinds if kind != "null"]
    return " or ".join([*said, "null"] if "null" in kinds else said)


def _describe_kind(kind: str, schema: Mapping) -> str:
    if kind == "object":
        return "mapping"
    if kind == "array":
        items = schema.get("items", {})
        said = "list of mappings" if items.get("type") == "object" else ""
        said = said or f"list: {describe_value(items)}"
        least, most = schema.get("minItems"), schema.get("maxItems")
        if least:
            return f"{said}; {least} of them" if least == most else f"{said}; at least {least}"
        return said
    name = {"string": "text", "boolean": "true or false", "integer": "whole number"}.get(kind, kind)
    bounds = [
        f"{word} {schema[key]:g}"
        for key, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema and kind in ("integer", "number")
    ]
    return " ".join([name, " and ".join(bounds)]).strip()


def _one_of(schema: Mapping) -> str:
    """Say of which keys exactly one is given, where that is so."""
    always = schema.get("required", ())
    names = [
        name
        for option in schema.get("oneOf", ())
        for name in option.get("required", ())[:1]
        if name not in always
    ]
    return f" Exactly one of {', '.join(f'`{name}`' for name in names)}." if names else ""


def list_keys(schema: Mapping, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield the keys of a schema at every depth: key, what it may be, default, meaning."""
    for name, part in schema.get("properties", {}).items():
        key, items = f"{prefix}{name}", part.get("items", {})
        default = ""
        if name in schema.get("required", ()):
            default = "required"
        elif "default" in part and not (part["default"] == {} and "properties" in part):
            text = yaml.safe_dump(part["default"], default_flow_style=True, width=1000)
            default = f"`{text.strip().removesuffix('...').strip()}`"
        meaning = " ".join(part["description"].split())
        if "Exactly one of" not in meaning:
            meaning += _one_of(part) + _one_of(items)
        yield key, describe_value(part), default, meaning
        yield from list_keys(part, f"{key}.")
        yield from list_keys(items, f"{key}[].")


def write_configuration() -> str:
    """Return the page docs/configuration.md."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    written = WRITTEN.format(SCHEMA.relative_to(REPOSITORY))
    page = [CONFIGURATION.format(written=written)]
    plain: dict[str, Mapping] = {}
    sections: list[str] = []
    for name, part in schema["properties"].items():
        deep = part.get("properties") or part.get("items", {}).get("properties")
        if not deep:
            plain[name] = part
            continue
        rows = list(list_keys({"properties": {name: part}}))
        (_, kind, _, meaning), *rows = rows
        sections.append(f"## {name}\n\n{meaning} ({kind})\n\n" + _table(rows, KEYS))
    rows = list(list_keys({"properties": plain, "required": schema["required"]}))
    return "\n".join([*page, "## Keys without a section\n\n" + _table(rows, KEYS), *sections])


KEYS = ("key", "what it may be", "default", "what it means")


def _table(rows, heads) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for first, *rest in rows:
        cells = [f"`{first}`", *map(_escape, rest)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _escape(cell: str) -> str:
    """Keep Markdown from taking text for a column's end or for HTML; code stays as it is."""
    parts = cell.replace("|", "\\|").split("`")
    return "`".join(
        part.replace("<", "&lt;") if n % 2 == 0 else part for n, part in enumerate(parts)
    )


# --- outputs -----------------------------------------------------------------------------------

OUTPUTS = """\
# Outputs

{written}

Everything a study computes lies in `results/<study>/`, and all of it can be deleted: the next run
makes it again. Tables are Parquet; `pandas.read_parquet`, DuckDB, R's arrow and Spark read them.
What is missing in a column that may be empty is null, and has its reason beside it.

```python
import pandas

agreement = pandas.read_parquet("results/default/tables/agreement.parquet")
```

## Beside the tables

| in `results/<study>/` | |
| --- | --- |
| `report.html` | the page, complete in itself |
| `tables/neurons.csv` | every neuron with its label and what it is worth, for a spreadsheet |
| `dissect/<model>/descriptions.csv` | the labels, as CLIP-Dissect writes them |
| `dissect/<model>/cards/<layer>-<page>.png` | every neuron with the pictures that activate it |
| `explain/<model>/explain_params.pkl` | the parameters that LIME was run with, by picture |
| `models/<model>/weights.safetensors`, `clip/weights.pt` | trained weights |
| `world/*.npz` | rendered training and held-out pictures, arrays |
| `check.json`, `index/`, `explain/<model>/given_params.json` | what the run itself keeps |
| `logs/`, `benchmarks/` | what each step said, and what it took |

## LIME's parameters, out and in

`explain_params.pkl` holds, by picture, the arguments of lime's `explain_instance` and
`get_image_and_mask`, of built-in types only. `lime: {{params: path/to/explain_params.pkl}}`
explains a study's pictures with such a file (`{{model}}` in the path stands for the model's name);
what it does not say of a picture is as the study has it. Post it with

```
CONSILIENCE_TOKEN=… PYTHONPATH=workflow python -m consilience.submit \\
  results/default/explain/object-net/explain_params.pkl --url https://example.org/params
```

The token goes out as a bearer token, over https only (http to this machine), and never along with
a redirect.

## Tables

{index}
"""

FILES = {
    "PICTURES": [
        "pictures/<batch>.parquet",
        "probe/<shard>.parquet",
        "pictures/wrong.parquet",
    ],
    "ACCURACY": [
        "tables/accuracy.parquet",
        "models/<model>/accuracy.parquet",
        "clip/accuracy.parquet",
        "pictures/candidates.parquet",
    ],
    "ACTIVATIONS": [
        "dissect/<model>/activations-<group>-<shard>.parquet",
        "dissect/<model>/untrained-<group>-<shard>.parquet",
        "benchmark/<model>/planted-<shard>.parquet",
    ],
    "EMBEDDINGS": [
        "dissect/pictures-<shard>.parquet",
        "dissect/concepts.parquet",
        "dissect/class_names.parquet",
    ],
    "NEURONS": [
        "tables/neurons.parquet",
        "dissect/<model>/neurons-<group>.parquet",
        "benchmark/<model>/<crowd>-<similarity>.parquet",
    ],
    "RESAMPLED": ["dissect/<model>/resampled-<group>.parquet"],
    "TEMPERATURE": ["tables/temperature.parquet"],
    "CONCEPTS": ["tables/concepts.parquet"],
    "COMPARISON": ["tables/comparison.parquet"],
    "PREDICTIONS": ["tables/predictions.parquet", "explain/<model>/predictions-<batch>.parquet"],
    "VIEWS": ["explain/<model>/views-<batch>.parquet"],
    "HEATMAPS": ["explain/<model>/cam-<method>-<batch>.parquet"],
    "THUMBNAILS": ["explain/<model>/thumbnails-<batch>.parquet"],
    "LIME": ["explain/<model>/lime-<batch>.parquet"],
    "LIME_STABILITY": [
        "tables/lime_stability.parquet",
        "explain/<model>/lime_stability-<batch>.parquet",
    ],
    "LIME_REPEATS": ["explain/<model>/lime_repeats-<batch>.parquet"],
    "AGREEMENT": ["tables/agreement.parquet", "agree/<model>/agreement-<batch>.parquet"],
    "AGREEMENT_SUMMARY": ["tables/agreement_summary.parquet"],
    "LOCALIZATION": ["tables/localization.parquet", "agree/<model>/localization-<batch>.parquet"],
    "LOCALIZATION_SUMMARY": ["tables/localization_summary.parquet"],
    "EFFECTS": ["tables/effects.parquet", "agree/<model>/effects.parquet"],
    "FAITHFULNESS": ["tables/faithfulness.parquet", "agree/<model>/faithfulness-<batch>.parquet"],
    "FAITHFULNESS_SUMMARY": ["tables/faithfulness_summary.parquet"],
    "SANITY": ["tables/sanity.parquet", "agree/<model>/sanity.parquet"],
    "SANITY_SUMMARY": ["tables/sanity_summary.parquet"],
    "QUESTIONS": ["tables/questions.parquet"],
    "CORRECTNESS": ["tables/correctness.parquet"],
    "CLAIMS": ["tables/claims.parquet"],
    "AUDIT": ["tables/audit.parquet"],
    "AUDIT_RULES": ["tables/audit_rules.parquet"],
    "RESPONSES": ["benchmark/<model>/responses.parquet"],
    "CAUSAL": ["tables/causal.parquet"],
    "DISSECTION_TRUTH": ["tables/dissection_truth.parquet"],
    "CONTRAST": [
        "tables/contrast.parquet",
        "benchmark/contrast-<model>-against-<other>-<batch>.parquet",
    ],
    "CONTRAST_SUMMARY": ["tables/contrast_summary.parquet"],
    "TRUST": ["tables/trust.parquet", "benchmark/<model>/trust-<batch>.parquet"],
    "CALIBRATION": ["tables/calibration.parquet"],
    "LEADERBOARD": ["tables/leaderboard.parquet"],
}
"""Where each table's files lie, the final table first."""


def read_comments() -> dict[str, tuple[dict[str, str], str]]:
    """Read of each schema in the library's source the comment above each column, and what it is."""
    text = TABLES.read_text(encoding="utf-8")
    lines, found, last = text.splitlines(), {}, None
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and _is_schema(node.value):
            last, comments = node.targets[0].id, {}
            for column in node.value.keywords:
                above, line = [], column.lineno - 2
                while lines[line].strip().startswith("#"):
                    above.insert(0, lines[line].strip().removeprefix("#").strip())
                    line -= 1
                comments[column.arg] = " ".join(above)
            found[last] = comments, ""
        elif last and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            about = " ".join(node.value.value.split()).replace("``", "`")
            found[last], last = (found[last][0], about), None
    return found


def _is_schema(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", None) == "_schema"


def describe_type(kind: pa.DataType) -> str:
    """Say a column's type in words."""
    if pa.types.is_list(kind):
        return f"list of {describe_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return ", ".join(f"{field.name}: {describe_type(field.type)}" for field in kind)
    names = {"string": "text", "bool": "true or false", "double": "float64", "float": "float32"}
    return names.get(str(kind), str(kind))


def describe_columns(
    name: str, schema: pa.Schema, comments: Mapping[str, str], said: Mapping
) -> Iterator[tuple[str, str, str]]:
    """Yield column, type and meaning; an error where nothing says the meaning."""
    own, shared = said.get(name, {}), said["shared"]
    if unknown := sorted(set(own) - set(schema.names)):
        raise SystemExit(f"{COLUMNS.name}: {name} has no column {unknown[0]!r}; remove the line")
    for field in schema:
        meaning = own.get(field.name) or comments[field.name] or shared.get(field.name)
        if not meaning:
            raise SystemExit(
                f"{TABLES.name}: {name}.{field.name} has no comment above it, and no line in "
                f"{COLUMNS.name}; write one"
            )
        kind = describe_type(field.type) + (", or missing" if field.nullable else "")
        yield field.name, kind, " ".join(meaning.split())


def write_outputs() -> str:
    """Return the page docs/outputs.md."""
    sys.path.insert(0, str(REPOSITORY / "workflow"))
    from consilience import tables

    said = yaml.safe_load(COLUMNS.read_text(encoding="utf-8"))
    parts, index = [], []
    comments = read_comments()
    if unknown := sorted({*FILES, *said} - {*comments, "shared"}):
        raise SystemExit(f"there is no table {unknown[0]}; remove it from docs/")
    for name, (above, about) in comments.items():
        if name not in FILES:
            raise SystemExit(f"docs/generate.py: FILES does not say where {name} lies; add it")
        rows = list(describe_columns(name, getattr(tables, name), above, said))
        files = ", ".join(f"`{path}`" for path in FILES[name])
        parts.append(f"### {name}\n\n{about}\n\nIn {files}.\n\n" + _table(rows, COLUMN))
        index.append((FILES[name][0], f"[{name}](#{name.lower()})", about))
    final = [row for row in index if row[0].startswith("tables/")]
    index = _table([*final, *(row for row in index if row not in final)], ("file", "table", "what"))
    written = WRITTEN.format("workflow/consilience/tables.py and docs/columns.yaml")
    return "\n".join([OUTPUTS.format(written=written, index=index), *parts])


COLUMN = ("column", "type", "what it is")

PAGES = {"configuration.md": write_configuration, "outputs.md": write_outputs}


def main(arguments: list[str]) -> int:
    """Write the pages, or say which of them are not what the code says."""
    stale = []
    for name, write in PAGES.items():
        path, text = DOCS / name, write()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if arguments != ["--check"]:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    if stale and arguments == ["--check"]:
        print(f"docs: {', '.join(stale)} not current; run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
