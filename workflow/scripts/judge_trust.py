"""Judge whether LIME and each CAM agree on a batch of pictures, and whether they are right."""

from consilience import effects, measures, steps, tables, trust

with steps.logged(snakemake.log[0]) as log:
    files = snakemake.input
    explanations = measures.collect_explanations(
        tables.read_rows(files.cams, tables.HEATMAPS), tables.read_rows(files.lime, tables.LIME)
    )
    rows = trust.judge_pictures(
        explanations,
        tables.read_rows(files.predictions, tables.PREDICTIONS),
        tables.read_rows(files.views, tables.VIEWS),
        tables.read_rows(files.pictures, tables.PICTURES),
        tables.read_rows(files.agreement, tables.AGREEMENT),
        effects.find_matters(tables.read_rows(files.effects, tables.EFFECTS)),
    )
    known = sum(row["counterfactual"] is not None for row in rows)
    log(f"{len(rows)} pairs of explanations, {known} of them right or wrong")
    tables.write_table(rows, snakemake.output[0], tables.TRUST)
