"""Find the true concepts of neurons, and hold the labels of every similarity against them."""

from consilience import causal, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params, files = snakemake.params, snakemake.input
    bases = causal.sample_bases(params.seed, params.bases, params.clutter)
    planted = causal.find_planted_truth(bases, params.seed, params.least)
    truth = []
    for model, path in zip(params.models, files.responses, strict=True):
        responses = causal.stack_responses(tables.read_rows(path, tables.RESPONSES))
        for layer, found in responses.items():
            rows = causal.find_truth(found, params.least)
            known = sum(bool(row["concepts"]) for row in rows)
            log(f"{model}, {layer}: {known} of {len(rows)} neurons have a true concept")
            truth += [{"model": model, "layer": layer, "planted": None} | row for row in rows]
        truth += [{"model": model} | row for row in planted]
    judged = []
    paths = iter(files.labels)
    for _model in params.models:
        for similarity in params.similarities:
            for planted in (False, True):  # the layers' own neurons, then planted ones
                labels = tables.read_rows(next(paths), tables.NEURONS)
                judged += causal.judge_labels(labels, truth, similarity, planted)
    tables.write_table(truth, snakemake.output.causal, tables.CAUSAL)
    tables.write_table(judged, snakemake.output.judged, tables.DISSECTION_TRUTH)
