"""Score the explanations of a batch against the masks of what they should be about."""

from consilience import effects, localization, measures, registry, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params, files = snakemake.params, snakemake.input
    registry.load(params.extensions)
    explanations = measures.collect_explanations(
        tables.read_rows(files.cams, tables.HEATMAPS), tables.read_rows(files.lime, tables.LIME)
    )
    views = {row["picture"]: row for row in tables.read_rows(files.views, tables.VIEWS)}
    distractors = {
        row["name"]: row["distractors"] for row in tables.read_rows(files.pictures, tables.PICTURES)
    }
    matters = effects.find_matters(tables.read_rows(files.effects, tables.EFFECTS))
    rows = []
    for prediction in tables.read_rows(files.predictions, tables.PREDICTIONS):
        name = prediction["picture"]
        maps = explanations[name, prediction["target_index"]]
        rows += localization.score_picture(
            maps, prediction, views[name], distractors[name], params.tells, matters, params.extra
        )
    log(f"{len(rows)} scores, {sum(row['value'] is None for row in rows)} of them undefined")
    tables.write_table(rows, snakemake.output[0], tables.LOCALIZATION)
