"""Compare each picture's explanations with one another, beside floors and a ceiling."""

from collections import defaultdict

from consilience import controls, images, measures, progress, registry, steps, tables

with steps.logged(snakemake.log[0]) as log:
    source, params = snakemake.input, snakemake.params
    registry.load(params.extensions)
    explanations = measures.collect_explanations(
        tables.read_rows(source.cams, tables.HEATMAPS),
        tables.read_rows(source.lime, tables.LIME),
    )
    repeats = defaultdict(list)
    for row in tables.read_rows(source.repeats, tables.LIME_REPEATS):
        repeats[row["picture"], row["target_index"]].append(row["weights"])
    views = {row["picture"]: row["view"] for row in tables.read_rows(source.views, tables.VIEWS)}
    pictures = tables.read_rows(source.pictures, tables.PICTURES)
    batch = controls.Batch(explanations, pictures, params.settings, params.seed)
    rows, predictions = [], tables.read_rows(source.predictions, tables.PREDICTIONS)
    for row in progress.track(predictions, "pictures"):
        about = {key: row[key] for key in ("model", "picture", "target_index", "target_class")}
        key = row["picture"], row["target_index"]
        view = images.decode_png(views[row["picture"]])
        rows += [about | found for found in batch.compare(*key, view, repeats[key])]
        log(f"{row['picture']}, {row['target_class']}")
    tables.write_table(rows, snakemake.output[0], tables.AGREEMENT)
