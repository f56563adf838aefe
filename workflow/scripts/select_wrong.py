"""Draw pictures that a model is wrong about."""

from consilience import classifiers, selection, steps, tables
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params = snakemake.params
    classifier = classifiers.load_classifier(
        params.model, *snakemake.input.weights, keep=(), device=device
    )
    pictures, accuracy = selection.select_wrong(
        classifier, params.tells, params.seed, params.size, **params.wrong
    )
    for row in accuracy:
        wrong = row["pictures"] - row["correct"]
        log(f"clutter {row['clutter']}: wrong about {wrong} of {row['pictures']} candidates")
    log(f"{len(pictures)} of {params.wrong['pictures']} wrong pictures that were asked for")
    tables.write_table(pictures, snakemake.output.pictures, tables.PICTURES)
    tables.write_table(accuracy, snakemake.output.accuracy, tables.ACCURACY)
