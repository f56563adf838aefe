# Last act: the page that tells the whole story.


def report_parts(wildcards):
    """Everything the page shows, by name; what the study does not have is not there."""

    def table(name):
        return RESULTS / "tables" / f"{name}.parquet"

    parts = {path.stem: path for path in final_tables()}
    parts["pictures"] = expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES)
    grid = dict(model=EXPLAINED, batch=BATCHES)
    parts["views"] = expand(rules.predict.output.views, **grid)
    if ACTS["cam"]:
        parts["heatmaps"] = expand(rules.explain_cam.output, method=CAM_METHODS, **grid)
    if ACTS["lime"]:
        parts["lime"] = expand(rules.explain_lime.output, **grid)
    if DISSECTED:
        parts["probe"] = expand(RESULTS / "probe/{shard}.parquet", shard=SHARDS)
    used = sorted(set(EXPLAINED + DISSECTED))
    parts["weights"] = [path for name in used for path in weights_of(name)]
    if DISSECTED:
        parts["weights"] += clip_files()
    return parts


rule write_report:
    message:
        "Write the report"
    input:
        unpack(report_parts),
        templates=sorted(
            path
            for path in (Path(workflow.basedir) / "workflow/report").iterdir()
            if path.is_file()
        ),
    output:
        RESULTS / "report.html",
    log:
        LOGS / "write_report.log",
    benchmark:
        TIMES / "write_report.tsv"
    params:
        code=code("write_report.py"),
        study=ordered(STUDY),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    conda:
        "../envs/explain.yaml"
    script:
        "../workflow/scripts/write_report.py"
