"""Put planted neurons beside the recorded ones of one shard."""

from consilience import causal, steps, tables

with steps.logged(snakemake.log[0]):
    params, files = snakemake.params, snakemake.input
    activations = tables.read_rows(files.activations, tables.ACTIVATIONS)
    pictures = tables.read_rows(files.pictures, tables.PICTURES)
    rows = causal.add_planted(activations, pictures, params.layers, params.seed)
    tables.write_table(rows, snakemake.output[0], tables.ACTIVATIONS, group_by="layer")
