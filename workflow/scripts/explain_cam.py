"""Explain the pictures of a batch with one class activation map method."""

from consilience import cam, classifiers, images, registry, steps, tables
from consilience.computing import computing

with steps.logged(snakemake.log[0]) as log, computing(snakemake, log) as device:
    params = snakemake.params
    registry.load(params.extensions)
    classifier = classifiers.load_classifier(
        params.model, *snakemake.input.weights, keep=params.layers, device=device
    )
    views = {
        row["picture"]: images.decode_png(row["view"])
        for row in tables.read_rows(snakemake.input.views, tables.VIEWS)
    }
    targets = tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS)
    heatmaps = cam.explain_cam(
        classifier,
        snakemake.wildcards.method,
        params.layers,
        [views[target["picture"]] for target in targets],
        [target["target_index"] for target in targets],
        params.batch_size,
        lambda done, status: log(
            f"{targets[done - 1]['picture']}, {targets[done - 1]['target_class']}: {status} "
            f"({done} of {len(targets)})"
        ),
    )
    of_picture = ("model", "picture", "target_index", "target_class")
    rows = [
        {key: target[key] for key in of_picture} | heatmap
        for target, heatmap in zip(targets, heatmaps, strict=True)
    ]
    tables.write_table(rows, snakemake.output[0], tables.HEATMAPS)
