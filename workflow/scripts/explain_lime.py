"""Explain the pictures of a batch with LIME."""

from consilience import classifiers, explain_params, lime_image, steps, tables
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params, given = snakemake.params, snakemake.input.get("given")
    classifier = classifiers.load_classifier(
        params.model, *snakemake.input.weights, keep=(), device=device
    )
    views = tables.read_rows(snakemake.input.views, tables.VIEWS)
    predictions = tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS)
    names = [view["picture"] for view in views]
    by_picture = explain_params.resolve_params(params.settings, names, given or None)
    rows = []
    for row in lime_image.explain_views(classifier, views, predictions, by_picture):
        log(f"{row['picture']}, {row['target_class']}: {row['status']}, R² {row['r2']:.2f}")
        rows.append(row)
    tables.write_table(rows, snakemake.output[0], tables.LIME)
