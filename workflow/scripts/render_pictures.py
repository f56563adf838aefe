"""Render pictures to train on, or to measure accuracy on."""

from consilience import steps, store, tables, world

with steps.logged(snakemake.log[0]) as log, store.shared(snakemake, log):
    params = snakemake.params
    shard = int(getattr(snakemake.wildcards, "shard", 0))
    shortcut = getattr(snakemake.wildcards, "shortcut", None)
    start, stop = (params.pictures * (shard + i) // params.shards for i in (0, 1))
    log(f"rendering pictures {start} to {stop} of the {params.stream} set")
    pictures = world.render_training_set(
        params.seed,
        params.stream,
        start,
        stop,
        params.size,
        params.clutter,
        None if shortcut is None else float(shortcut),
    )
    tables.write_arrays(pictures, snakemake.output[0])
