"""Explain pictures of one model with randomised weights, and another class of them."""

import pyarrow.compute as pc

from consilience import (
    classifiers,
    explain_params,
    images,
    measures,
    registry,
    sanity,
    steps,
    tables,
)
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params, given = snakemake.params, snakemake.input
    registry.load(params.extensions)
    predictions = tables.read_rows(given.predictions, tables.PREDICTIONS)
    predictions = {row["picture"]: row for row in measures.keep_first(predictions, "picture")}
    known = tables.read_table(given.pictures, tables.PICTURES).select(["name", "clutter", "base"])
    explained = [row for row in known.to_pylist() if row["name"] in predictions]
    chosen = sanity.choose_pictures(explained, params.pictures)

    def read_chosen(paths, schema):
        """Read of each file the rows of the pictures that were chosen, first targets only."""
        for path in paths:
            table = tables.read_table(path, schema)
            for row in table.filter(pc.field("picture").isin(chosen)).to_pylist():
                if row.get("target_index") in (None, predictions[row["picture"]]["target_index"]):
                    yield row

    views = {
        row["picture"]: images.decode_png(row["view"])
        for row in read_chosen(given.views, tables.VIEWS)
    }
    originals = {
        (row["picture"], row["method"]): row for row in read_chosen(given.cams, tables.HEATMAPS)
    }
    for row in read_chosen(given.lime, tables.LIME):
        originals[row["picture"], "lime"] = row
    by_picture = {}
    if params.lime:
        path = given.get("given") or None
        by_picture = explain_params.resolve_params(params.lime, chosen, *path or [])
    rows = []
    for row in sanity.check_explanations(
        classifiers.load_classifier(params.model, *given.weights, ready=False, device=device),
        views,
        [predictions[name] for name in chosen],
        originals,
        params.methods,
        params.layers,
        by_picture,
        params.stages,
        params.seed,
        params.batch_size,
        params.model["precision"],
    ):
        said = row["reason"] or f"{row['value']:.3f}"
        log(f"{row['picture']}, {row['method']}, {row['test']}, {row['stage']}: {said}")
        rows.append(row)
    tables.write_table(rows, snakemake.output[0], tables.SANITY)
