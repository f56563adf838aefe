"""Draw the gallery's pictures of a batch."""

from consilience import explain_params, lime_image, steps, tables, thumbnails

with steps.logged(snakemake.log[0]) as log:
    given, params = snakemake.input, snakemake.params
    views = tables.read_rows(given.views, tables.VIEWS)
    names = [view["picture"] for view in views]
    drawn = thumbnails.draw_thumbnails(
        views,
        tables.iterate_rows(given.cams, tables.HEATMAPS),
        tables.iterate_rows(given.lime, tables.LIME),
        lime_image.outline,
        explain_params.resolve_outlines(names, params.num_features, given.get("given") or None),
    )
    tables.write_table(drawn, snakemake.output[0], tables.THUMBNAILS)
    log(f"{len(names)} pictures")
