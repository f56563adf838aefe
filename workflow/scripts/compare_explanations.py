"""Compare each picture's explanations with one another, and with the mask where it is known."""

from consilience import agreement, images, localization, measures, steps, tables

with steps.logged(snakemake.log[0]) as log:
    explanations = measures.collect_explanations(
        tables.read_rows(snakemake.input.cams, tables.HEATMAPS),
        tables.read_rows(snakemake.input.lime, tables.LIME),
    )
    views = {row["picture"]: row for row in tables.read_rows(snakemake.input.views, tables.VIEWS)}
    settings = {"top_fraction": snakemake.params.top_fraction}
    agreed, located = [], []
    for row in tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS):
        about = {key: row[key] for key in ("model", "picture", "target_index", "target_class")}
        maps = explanations[row["picture"], row["target_index"]]
        agreed += [about | found for found in agreement.compare_explanations(maps, settings)]
        if (data := views[row["picture"]]["mask_visible"]) is not None:
            mask = images.decode_png(data)
            for method in sorted(maps):
                scores = localization.score_localization(maps[method], mask)
                located += [
                    about | {"method": method, "truth": "object"} | score for score in scores
                ]
    tables.write_table(agreed, snakemake.output.agreement, tables.AGREEMENT)
    tables.write_table(located, snakemake.output.localization, tables.LOCALIZATION)
