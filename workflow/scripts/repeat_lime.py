"""Repeat LIME on the pictures of a batch with other seeds."""

from consilience import classifiers, explain_params, stability, steps, tables
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params, given = snakemake.params, snakemake.input.get("given")
    classifier = classifiers.load_classifier(params.model, *snakemake.input.weights, device=device)
    views = tables.read_rows(snakemake.input.views, tables.VIEWS)
    limes = tables.read_rows(snakemake.input.lime, tables.LIME)
    names = [view["picture"] for view in views]
    by_picture = explain_params.resolve_params(params.settings, names, given or None)
    rows, repeats = [], []
    for measured, repeated in stability.repeat_lime(
        classifier, views, limes, by_picture, params.repeats, params.top_fraction
    ):
        for row in measured:
            said = row.get("reason") or row["mean"]
            log(f"{row['picture']}, {row['varied']}, {row['measure']}: {said}")
        rows += measured
        repeats += repeated
    tables.write_table(rows, snakemake.output.stability, tables.LIME_STABILITY)
    tables.write_table(repeats, snakemake.output.repeats, tables.LIME_REPEATS)
