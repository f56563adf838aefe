"""Ask a model about each picture of a batch."""

from consilience import classifiers, predictions, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    steps.set_threads(params.compute_threads)
    classifier = classifiers.load_classifier(params.model, *snakemake.input.weights, keep=())
    pictures = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    views = list(predictions.view_pictures(classifier, pictures))
    labels = {row["name"]: row[params.labels] for row in pictures}
    rows = list(predictions.predict(classifier, views, labels, params.target))
    tables.write_table(views, snakemake.output.views, tables.VIEWS)
    tables.write_table(rows, snakemake.output.predictions, tables.PREDICTIONS)
