"""Explain the pictures of a batch with LIME."""

from consilience import classifiers, images, lime_image, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    steps.set_threads(params.compute_threads)
    classifier = classifiers.load_classifier(params.model, *snakemake.input.weights, keep=())
    views = tables.read_rows(snakemake.input.views, tables.VIEWS)
    targets = tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS)
    rows = []
    for view, target in zip(views, targets, strict=True):
        pixels = images.decode_png(view["view"])
        row = lime_image.explain_lime(classifier, pixels, target["target_index"], params.settings)
        log(f"{view['picture']}: {row['status']}, R² {row['r2']:.2f}")
        of_picture = ("model", "picture", "target_index", "target_class")
        rows.append({key: target[key] for key in of_picture} | row)
    tables.write_table(rows, snakemake.output[0], tables.LIME)
