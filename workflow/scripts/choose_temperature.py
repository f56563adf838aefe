"""Choose the temperature of the softmax over concepts, for all models together."""

from consilience import dissection, probe, sheets, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    params, files = snakemake.params, snakemake.input
    embedded = tables.read_table(files.concepts, tables.EMBEDDINGS)
    shards = len(files.pictures)
    probes = []
    for model, layer, group in params.layers:
        own = files.activations[group * shards : (group + 1) * shards]
        probes.append((model, layer, probe.ProbeSet(own, files.pictures, params.held_out)))
    rows = dissection.choose_temperature(
        probes,
        dissection.Concepts.from_table(embedded, world.ABSENT_CONCEPTS),
        params.similarity,
        params.settings,
    )
    log(f"a = {dissection.chosen_temperature(rows)}")
    tables.write_table(rows, snakemake.output.table, tables.TEMPERATURE)
    sheets.write_sheets(snakemake.output.get("sheets", []))
