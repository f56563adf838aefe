"""Record a model's activations over one shard of the probe pictures."""

from consilience import activations, classifiers, images, progress, steps, store, tables
from consilience.computing import computing, reading_threads

with (
    steps.logged(snakemake.log[0]) as log,
    store.shared(snakemake, log),
    computing(snakemake, log) as device,
):
    params = snakemake.params
    classifier = classifiers.load_classifier(
        params.model, *snakemake.input.weights, keep=params.layers, device=device
    )
    rows = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    pictures = images.read_pictures(
        progress.track(rows, "pictures"), classifier.transform.fit, reading_threads(snakemake)
    )
    recorded = activations.extract_activations(
        classifier,
        pictures,
        params.layers,
        batch_size=32,
        pool=params.pool,
        tokens=params.tokens,
    )
    tables.write_table(recorded, snakemake.output[0], tables.ACTIVATIONS, group_by="layer")
