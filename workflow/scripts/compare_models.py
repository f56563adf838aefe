"""Compare what the models learned, layer by layer."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from consilience import comparison, descriptions, sheets, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    given, output, params = snakemake.input, snakemake.output, snakemake.params
    published = tables.make_table(descriptions.read_all(params.published), tables.NEURONS)
    own = tables.read_table(given.neurons, tables.NEURONS)
    own = comparison.order_neurons(own, params.layers)
    for (model, _), path in zip(params.layers, output.by_model, strict=True):
        rows = own.filter(pc.field("model") == model).to_pylist()
        descriptions.write_descriptions(rows, path)
    neurons = pa.concat_tables([own, published])
    log(f"{len(neurons)} neurons, {len(published)} of them published")
    rows, resampled = neurons.to_pylist(), tables.read_rows(given.resampled, tables.RESAMPLED)
    concepts = tables.read_table(given.concepts, tables.EMBEDDINGS)
    class_names = tables.read_table(given.class_names, tables.EMBEDDINGS)
    categories = None
    if given.get("categories"):
        categories = descriptions.read_categories(given.categories[0])
    absent = world.ABSENT_CONCEPTS if params.world_words else None
    kinds = world.categories() if params.world_words else None
    words = concepts["key"].to_pylist()
    compared = comparison.compare_models(
        rows, params.top, resampled, words, categories, absent, kinds
    )
    models = json.loads(Path(given.check).read_text())["models"]
    compared += comparison.compare_outputs(rows, models, concepts, class_names, resampled)
    tables.write_table(neurons, output.neurons, tables.NEURONS)
    tables.write_table(comparison.count_concepts(rows), output.concepts, tables.CONCEPTS)
    tables.write_table(compared, output.comparison, tables.COMPARISON)
    sheets.write_sheets(output.sheets)
