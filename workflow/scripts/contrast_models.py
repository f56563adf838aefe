"""Contrast the explanations of a net that tells objects with those of one that tells scenes."""

from consilience import contrast, effects, measures, steps, tables

with steps.logged(snakemake.log[0]) as log:
    files, names = snakemake.input, snakemake.wildcards
    cams = tables.read_rows(files.cams, tables.HEATMAPS)
    limes = tables.read_rows(files.lime, tables.LIME)
    predictions = tables.read_rows(files.predictions, tables.PREDICTIONS)
    changed = tables.read_rows(files.effects, tables.EFFECTS)

    def of(rows, name):
        return [row for row in rows if row["model"] == name]

    nets = [
        contrast.Asked(
            name,
            measures.collect_explanations(of(cams, name), of(limes, name)),
            of(predictions, name),
            effects.find_matters(of(changed, name)),
            tells,
        )
        for name, tells in ((names.model, "object"), (names.other, "scene"))
    ]
    views = of(tables.read_rows(files.views, tables.VIEWS), names.model)
    pictures = tables.read_rows(files.pictures, tables.PICTURES)
    rows = contrast.measure_contrast(*nets, views, pictures)
    log(f"{len(rows)} values of {len(pictures)} pictures")
    tables.write_table(rows, snakemake.output[0], tables.CONTRAST)
