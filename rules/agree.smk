# Fourth act: how far the explanations agree, between floors and a ceiling.


rule compare_explanations:
    input:
        unpack(explanations),
        repeats=lime_repeats,
        predictions=rules.predict.output.predictions,
        views=rules.predict.output.views,
        pictures=RESULTS / "pictures/{batch}.parquet",
    output:
        RESULTS / "agree/{model}/agreement-{batch}.parquet",
    log:
        LOGS / "compare_explanations-{model}-{batch}.log",
    benchmark:
        TIMES / "compare_explanations-{model}-{batch}.tsv"
    conda:
        "../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code("compare_explanations.py"),
        settings=agreement_settings(),
        seed=SEED,
        extensions=registered("agreement", STUDY["agreement"]["metrics"]),
    message:
        "Compare the explanations of batch {wildcards.batch} of {wildcards.model}"
    script:
        "../workflow/scripts/compare_explanations.py"


rule gather_predictions:
    input:
        scattered("predictions"),
    output:
        table=RESULTS / "tables/predictions.parquet",
        sheets=sheets("predictions"),
    log:
        LOGS / "gather_predictions.log",
    benchmark:
        TIMES / "gather_predictions.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("gather_tables.py"),
        schema="PREDICTIONS",
    message:
        "Gather the predictions"
    script:
        "../workflow/scripts/gather_tables.py"


rule gather_accuracy:
    input:
        expand(RESULTS / "models/{model}/accuracy.parquet", model=TRAINED),
        [RESULTS / "clip/accuracy.parquet"]
        if (STUDY["clip"] or {}).get("train")
        else [],
    output:
        table=RESULTS / "tables/accuracy.parquet",
        sheets=sheets("accuracy"),
    log:
        LOGS / "gather_accuracy.log",
    benchmark:
        TIMES / "gather_accuracy.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("gather_tables.py"),
        schema="ACCURACY",
    message:
        "Gather the accuracy of the trained models"
    script:
        "../workflow/scripts/gather_tables.py"


rule summarise_agreement:
    input:
        agreement=scattered("agreement"),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
    output:
        agreement=RESULTS / "tables/agreement.parquet",
        summary=RESULTS / "tables/agreement_summary.parquet",
        sheets=sheets("agreement", "agreement_summary"),
    log:
        LOGS / "summarise_agreement.log",
    benchmark:
        TIMES / "summarise_agreement.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("summarise_agreement.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
        # Which say whether a higher value agrees.
        extensions=registered("agreement", STUDY["agreement"]["metrics"]),
    message:
        "Summarise agreement over the pictures"
    script:
        "../workflow/scripts/summarise_agreement.py"
