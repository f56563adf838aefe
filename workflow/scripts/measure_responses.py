"""Ask a model about pictures of which one factor is changed at a time."""

from functools import partial

from consilience import activations, causal, classifiers, steps, tables
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params = snakemake.params
    classifier = classifiers.load_classifier(
        params.model, *snakemake.input.weights, keep=params.layers, device=device
    )
    bases = causal.sample_bases(params.seed, params.bases, params.clutter)
    record = partial(
        activations.extract_activations,
        classifier,
        layers=params.layers,
        batch_size=32,
        pool=params.pool,
        tokens=params.tokens,
    )
    rows = list(causal.measure_responses(bases, params.size, record))
    log(f"{len(bases)} base pictures, {len(rows)} responses of layers")
    tables.write_table(rows, snakemake.output[0], tables.RESPONSES, group_by="layer")
