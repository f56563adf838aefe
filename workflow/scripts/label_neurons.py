"""Label the neurons of a model with concepts."""

from consilience import descriptions, dissection, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    settings = dict(params.settings)
    similarity = settings.pop("similarity")
    neurons = dissection.dissect_model(
        snakemake.wildcards.model,
        tables.read_table(snakemake.input.activations, tables.ACTIVATIONS),
        tables.read_table(snakemake.input.pictures, tables.EMBEDDINGS),
        tables.read_table(snakemake.input.concepts, tables.EMBEDDINGS),
        params.layers,
        similarity,
        settings,
        world.ABSENT_CONCEPTS if params.world_words else None,
    )
    log(f"{len(neurons)} neurons")
    tables.write_table(neurons, snakemake.output.neurons, tables.NEURONS)
    descriptions.write_descriptions(neurons, snakemake.output.descriptions)
