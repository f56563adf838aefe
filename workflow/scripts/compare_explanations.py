"""Compare each picture's explanations with one another, and with the mask where it is known."""

import numpy as np

from consilience import agreement, images, localization, measures, steps, tables

with steps.logged(snakemake.log[0]) as log:
    explanations = {}
    for row in tables.read_rows(snakemake.input.cams, tables.HEATMAPS):
        heatmap = np.float32(row["heatmap"]).reshape(row["height"], row["width"])
        explanations.setdefault(row["picture"], {})[row["method"]] = heatmap
    for row in tables.read_rows(snakemake.input.lime, tables.LIME):
        segments = np.int32(row["segment_map"]).reshape(row["height"], row["width"])
        superpixels = measures.Superpixels(segments, row["weights"])
        explanations.setdefault(row["picture"], {})[agreement.LIME] = superpixels

    agreed, located = [], []
    for view in tables.read_rows(snakemake.input.views, tables.VIEWS):
        of_picture = {"model": view["model"], "picture": view["picture"]}
        maps = explanations[view["picture"]]
        compared = agreement.compare_explanations(
            maps, {"top_fraction": snakemake.params.top_fraction}
        )
        agreed += [of_picture | row for row in compared]
        if view["mask_visible"] is None:
            continue
        mask = images.decode_png(view["mask_visible"])
        for method in sorted(maps):
            scored = localization.score_localization(maps[method], mask)
            located += [of_picture | {"method": method} | row for row in scored]
    tables.write_table(agreed, snakemake.output.agreement, tables.AGREEMENT)
    tables.write_table(located, snakemake.output.localization, tables.LOCALIZATION)
