"""Measure how faithful the explanations of a batch are to the model."""

from consilience import classifiers, faithfulness, registry, steps, tables
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params, source = snakemake.params, snakemake.input
    registry.load(params.extensions)
    classifier = classifiers.load_classifier(params.model, *source.weights, keep=(), device=device)
    rows = []
    for row in faithfulness.measure_views(
        classifier,
        tables.read_rows(source.views, tables.VIEWS),
        tables.read_rows(source.predictions, tables.PREDICTIONS),
        tables.read_rows(source.cams, tables.HEATMAPS),
        tables.read_rows(source.lime, tables.LIME),
        params.settings,
        params.seed,
    ):
        said = row.get("reason") or f"{row['value']:.3f}, random {row['random']:.3f}"
        log(
            f"{row['picture']}, {row['target_class']}, {row['method']}, {row['metric']} with "
            f"{row['fill']}: {said}"
        )
        rows.append(row)
    tables.write_table(rows, snakemake.output[0], tables.FAITHFULNESS)
