# Last act: the page that tells the whole story.


# No inputs: where the workflow lies, and when it came there, says nothing.
TEMPLATES = [
    path
    for path in (Path(workflow.basedir) / "workflow/report").iterdir()
    if path.suffix in (".j2", ".css", ".js")
]


rule write_report:
    input:
        unpack(report_parts),
    output:
        RESULTS / "report.html",
    log:
        LOGS / "write_report.log",
    benchmark:
        TIMES / "write_report.tsv"
    conda:
        "../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("write_report.py", TEMPLATES),
        study=ordered({key: STUDY[key] for key in STUDY if key not in HOW}),
    message:
        "Write the report"
    script:
        "../workflow/scripts/write_report.py"
