"""Explain the pictures of a batch with LIME."""

from consilience import classifiers, explain_params, lime_image, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params, given = snakemake.params, snakemake.input.get("given")
    steps.set_threads(params.compute_threads)
    classifier = classifiers.load_classifier(params.model, *snakemake.input.weights, keep=())
    views = tables.read_rows(snakemake.input.views, tables.VIEWS)
    predictions = tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS)
    names = [view["picture"] for view in views]
    by_picture = explain_params.resolve_params(params.settings, names, given or None)
    rows = []
    for row in lime_image.explain_views(classifier, views, predictions, by_picture):
        log(f"{row['picture']}, {row['target_class']}: {row['status']}, R² {row['r2']:.2f}")
        rows.append(row)
    tables.write_table(rows, snakemake.output[0], tables.LIME)
