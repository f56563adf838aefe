"""Explain the pictures of a batch with one class activation map method."""

from consilience import cam, classifiers, predictions, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params, method = snakemake.params, snakemake.wildcards.method
    steps.set_threads(params.compute_threads)
    classifier = classifiers.load_classifier(params.model, *snakemake.input.weights)
    views = tables.read_rows(snakemake.input.views, tables.VIEWS)
    targets = tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS)
    rows = []
    for view, target in zip(views, targets, strict=True):
        (heatmap,) = cam.explain_cam(
            classifier,
            method,
            params.layer,
            predictions.stack_views([view]),
            [target["target_index"]],
            params.batch_size,
        )
        log(f"{view['picture']}: {heatmap['status']} ({len(rows) + 1} of {len(views)})")
        of_picture = {
            key: target[key] for key in ("model", "picture", "target_index", "target_class")
        }
        rows.append(of_picture | {"method": method, "layer": params.layer} | heatmap)
    tables.write_table(rows, snakemake.output[0], tables.HEATMAPS)
