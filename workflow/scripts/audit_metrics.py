"""Score planted explanations by every metric, and say which metrics rank them rightly."""

from consilience import audit, computing, lime_image, registry, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    registry.load(params.extensions)
    computing.set_threads(snakemake, log)
    cut = lime_image.make_segmentation(params.segmentation, params.segmentation_seed)
    settings = {
        "agreement": params.agreement,
        "faithfulness": params.faithfulness,
        "localization": params.localization,
    }
    pictures = world.study_pictures(params.seed, params.audit["bases"], params.audit["clutter"])
    rows = []
    for picture in world.describe_rows(pictures, params.size):
        rows += audit.audit_picture(picture, settings, params.seed, cut)
        log(picture["name"])
    judged = audit.judge_metrics(rows, params.bootstrap, params.seed)
    for metric in audit.rank_metrics(judged):
        fill = f" with {metric['fill']}" if metric["fill"] else ""
        log(
            f"{metric['family']}, {metric['metric']}{fill}, {metric['reading']}: "
            f"{metric['right']} of {metric['rules']} rules right"
        )
    tables.write_table(rows, snakemake.output.audit, tables.AUDIT)
    tables.write_table(judged, snakemake.output.rules, tables.AUDIT_RULES)
