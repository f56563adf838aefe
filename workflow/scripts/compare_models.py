"""Compare what the models learned, layer by layer."""

import json
from pathlib import Path

from consilience import comparison, steps, tables

with steps.logged(snakemake.log[0]) as log:
    output = snakemake.output
    neurons = tables.read_table(snakemake.input.neurons, tables.NEURONS)
    rows = neurons.to_pylist()
    compared = comparison.compare_models(rows)
    embedded = tables.read_table(snakemake.input.concepts, tables.EMBEDDINGS)
    concepts = embedded.column("key").to_pylist()
    models = json.loads(Path(snakemake.input.check).read_text())
    for model, layer in sorted({(row["model"], row["layer"]) for row in rows}):
        if layer == models[model]["output_layer"]:
            names = models[model]["class_names"]
            compared += comparison.compare_with_classes(rows, model, layer, names, concepts)
    tables.write_table(neurons, output.neurons, tables.NEURONS)
    tables.write_table(comparison.count_concepts(rows), output.concepts, tables.CONCEPTS)
    tables.write_table(compared, output.comparison, tables.COMPARISON)
