"""Change the rendered pictures, and measure what that does to a model's logits."""

from consilience import classifiers, effects, steps, tables, world
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params = snakemake.params
    classifier = classifiers.load_classifier(
        params.model, *snakemake.input.weights, keep=(), device=device
    )
    pictures = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    predictions = tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS)
    rendered = [row["name"] for row in pictures if row["image"]["path"] is None]
    shown = world.recreate_pictures(rendered, params.seed, params.sources)
    rows = list(
        effects.measure_effects(classifier, predictions, pictures, shown, params.seed, params.size)
    )
    matters = effects.find_matters(rows)
    for kind in sorted({kind for *_, kind in matters}):
        found = [matters[key] for key in matters if key[-1] == kind]
        log(f"the {kind} matters to {sum(found)} of {len(found)} targets")
    tables.write_table(rows, snakemake.output[0], tables.EFFECTS)
