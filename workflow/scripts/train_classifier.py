"""Train a classifier on the world, and measure its accuracy on held-out pictures."""

from consilience import classifiers, steps, store, tables, training
from consilience.computing import computing

with (
    steps.logged(snakemake.log[0]) as log,
    store.shared(snakemake, log),
    computing(snakemake, log) as device,
):
    params = snakemake.params
    target = params.settings["target"]
    model = training.train_classifier(
        tables.read_arrays(snakemake.input.training),
        target,
        len(params.model["classes"]),
        params.settings,
        params.seed + params.settings["seed"],
        log,
        params.model["architecture"],
        params.model["keep_resolution"],
        device,
    )
    training.save_weights(model, snakemake.output.weights)
    classifier = classifiers.load_classifier(params.model, snakemake.output.weights, device=device)
    held_out = tables.read_arrays(snakemake.input.held_out)
    rows = training.evaluate_classifier(classifier, held_out, target, params.clutter)
    for row in rows:
        log(f"held out, clutter {row['clutter']}: accuracy {row['accuracy']:.3f}")
    tables.write_table(rows, snakemake.output.accuracy, tables.ACCURACY)
