# Last act: the page that tells the whole story, and the same on paper.


rule draw_thumbnails:
    input:
        unpack(explanations),
        views=rules.predict.output.views,
        given=given_params(),
    output:
        RESULTS / "explain/{model}/thumbnails-{batch}.parquet",
    log:
        LOGS / "draw_thumbnails-{model}-{batch}.log",
    benchmark:
        TIMES / "draw_thumbnails-{model}-{batch}.tsv"
    conda:
        "../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("draw_thumbnails.py"),
        num_features=STUDY["lime"]["num_features"],
    message:
        "Draw batch {wildcards.batch} of {wildcards.model} for the gallery"
    script:
        "../workflow/scripts/draw_thumbnails.py"


# No inputs: where the workflow lies, and when it came there, says nothing.
REPORT = Path(workflow.basedir) / "workflow/report"
TEMPLATES = [path for path in REPORT.iterdir() if path.suffix in (".j2", ".css", ".js")]


# Pictures that are too many to stand in the page lie beside it.
PICTURES_BESIDE = RESULTS / "report_pictures"
PDF = RESULTS / "report.pdf"


rule write_report:
    input:
        unpack(report_parts),
    output:
        **({"pictures": directory(PICTURES_BESIDE)} if BESIDE else {}),
        page=shown(
            RESULTS / "report.html",
            "page",
            "1 Report",
            "Page",
            {"Page": "The whole story"},
        ),
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
        registered=described_extensions(),
        tables=final_tables(),
        times=TIMES,
        timed=str(TIMED),
        printed=PRINTED,
        # What an earlier page had beside it, and this one has not, would pass for its own.
        leftovers=([] if BESIDE else [PICTURES_BESIDE]) + ([] if PRINTED else [PDF]),
        # Of these the page says no more than what the thumbnails show.
        unread=["layer_map", "heatmap", "segment_map"],
    message:
        "Write the report"
    script:
        "../workflow/scripts/write_report.py"


rule print_report:
    input:
        page=rules.write_report.output.page,
        pictures=rules.write_report.output.get("pictures", []),
    output:
        shown(
            PDF,
            "page",
            "1 Report",
            "Page",
            {"Page": "The same on paper"},
        ),
    log:
        LOGS / "print_report.log",
    benchmark:
        TIMES / "print_report.tsv"
    conda:
        "../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("print_report.py", [REPORT / "report.typ"]),
        pictures=STUDY["report"]["printed_pictures"],
    message:
        "Print the report"
    script:
        "../workflow/scripts/print_report.py"
