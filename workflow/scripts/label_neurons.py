"""Label the neurons of a model with concepts."""

from consilience import dissection, probe, registry, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    params, files = snakemake.params, snakemake.input
    registry.load(params.extensions)
    absent = world.ABSENT_CONCEPTS if params.world_words else None
    embedded = tables.read_table(files.concepts, tables.EMBEDDINGS)
    settings = dict(params.settings)
    if files.get("temperature"):
        candidates = tables.read_rows(files.temperature, tables.TEMPERATURE)
        settings["a"] = dissection.chosen_temperature(candidates)
    untrained = files.get("untrained")
    neurons, resampled = dissection.dissect_model(
        snakemake.wildcards.model,
        probe.ProbeSet(files.activations, files.pictures, params.held_out),
        dissection.Concepts.from_table(embedded, absent),
        params.layers,
        params.similarity,
        settings,
        untrained=untrained and probe.ProbeSet(untrained, files.pictures, params.held_out),
        resamples=params.resamples,
        significance=params.significance,
        seed=params.seed,
    )
    for layer in params.layers:
        mine = [row for row in neurons if row["layer"] == layer]
        stands = sum(bool(row.get("stands")) for row in mine)
        log(f"{layer}: {len(mine)} neurons, the labels of {stands} stand")
    tables.write_table(neurons, snakemake.output.neurons, tables.NEURONS)
    tables.write_table(resampled, snakemake.output.resampled, tables.RESAMPLED)
