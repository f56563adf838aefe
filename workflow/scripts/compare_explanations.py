"""Compare each picture's explanations with one another, and with the mask where it is known."""

from consilience import agreement, images, localization, measures, steps, tables

with steps.logged(snakemake.log[0]) as log:
    explanations = measures.collect_explanations(
        tables.read_rows(snakemake.input.cams, tables.HEATMAPS),
        tables.read_rows(snakemake.input.lime, tables.LIME),
    )
    settings = {"top_fraction": snakemake.params.top_fraction}
    agreed, located = [], []
    for view in tables.read_rows(snakemake.input.views, tables.VIEWS):
        of_picture = {key: view[key] for key in ("model", "picture")}
        maps = explanations[view["picture"]]
        agreed += [of_picture | row for row in agreement.compare_explanations(maps, settings)]
        if view["mask_visible"] is not None:
            mask = images.decode_png(view["mask_visible"])
            for method in sorted(maps):
                scores = localization.score_localization(maps[method], mask)
                located += [of_picture | {"method": method} | row for row in scores]
    tables.write_table(agreed, snakemake.output.agreement, tables.AGREEMENT)
    tables.write_table(located, snakemake.output.localization, tables.LOCALIZATION)
