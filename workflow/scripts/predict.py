"""Ask a model about each picture of a batch."""

from consilience import classifiers, predictions, steps, tables
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params = snakemake.params
    classifier = classifiers.load_classifier(
        params.model, *snakemake.input.weights, keep=(), device=device
    )
    pictures = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    views = list(predictions.view_pictures(classifier, pictures))
    labels = {row["name"]: row[params.labels] for row in pictures}
    rows = list(predictions.predict(classifier, views, labels, params.target))
    tables.write_table(views, snakemake.output.views, tables.VIEWS)
    tables.write_table(rows, snakemake.output.predictions, tables.PREDICTIONS)
