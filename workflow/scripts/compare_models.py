"""Compare what the models learned, layer by layer."""

import json
from pathlib import Path

import pyarrow as pa

from consilience import comparison, descriptions, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    given, output, params = snakemake.input, snakemake.output, snakemake.params
    published = [
        row
        for entry in params.published
        for row in descriptions.read_published(
            entry["name"], entry["format"], entry.get("path") or entry["paths"]
        )
    ]
    neurons = pa.concat_tables(
        [
            tables.read_table(given.neurons, tables.NEURONS),
            tables.make_table(published, tables.NEURONS),
        ]
    )
    rows = neurons.to_pylist()
    log(f"{len(rows)} neurons, {len(published)} of them published")
    embedded = tables.read_table(given.concepts, tables.EMBEDDINGS)
    concepts = embedded["key"].to_pylist()
    categories, absent = None, None
    if params.world_words:
        categories, absent = world.categories(), world.ABSENT_CONCEPTS
    if given.get("categories"):
        categories = descriptions.read_categories(given.categories)
    resampled = tables.read_rows(given.resampled, tables.RESAMPLED)
    compared = comparison.compare_models(rows, params.top, resampled, concepts, categories, absent)

    vectors = tables.stack_lists(embedded["values"])
    names = None
    if given.get("class_names"):
        names = comparison.vectors_by_name(tables.read_table(given.class_names, tables.EMBEDDINGS))
    models = json.loads(Path(given.check).read_text())["models"]
    for model, layer in sorted({(row["model"], row["layer"]) for row in rows}):
        if model in models and layer == models[model]["output_layer"]:
            compared += comparison.compare_with_classes(
                rows,
                model,
                layer,
                models[model]["class_names"],
                concepts,
                vectors,
                names,
                resampled,
            )
    tables.write_table(neurons, output.neurons, tables.NEURONS)
    descriptions.write_neurons(neurons, output.descriptions)
    tables.write_table(comparison.count_concepts(rows), output.concepts, tables.CONCEPTS)
    tables.write_table(compared, output.comparison, tables.COMPARISON)
