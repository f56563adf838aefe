# Fourth act: how far the explanations agree, and how right they are where the truth is known.


rule compare_explanations:
    input:
        unpack(explanations),
        predictions=rules.predict.output.predictions,
        views=rules.predict.output.views,
    output:
        agreement=RESULTS / "agree/{model}/agreement-{batch}.parquet",
    log:
        LOGS / "compare_explanations-{model}-{batch}.log",
    benchmark:
        TIMES / "compare_explanations-{model}-{batch}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("compare_explanations.py"),
        top_fraction=STUDY["agreement"]["top_fraction"],
    message:
        "Compare the explanations of batch {wildcards.batch} of {wildcards.model}"
    script:
        "../workflow/scripts/compare_explanations.py"


rule gather_predictions:
    input:
        scattered("predictions"),
    output:
        RESULTS / "tables/predictions.parquet",
    log:
        LOGS / "gather_predictions.log",
    benchmark:
        TIMES / "gather_predictions.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
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
        RESULTS / "tables/accuracy.parquet",
    log:
        LOGS / "gather_accuracy.log",
    benchmark:
        TIMES / "gather_accuracy.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("gather_tables.py"),
        schema="ACCURACY",
    message:
        "Gather the accuracy of the trained models"
    script:
        "../workflow/scripts/gather_tables.py"


rule summarise:
    input:
        agreement=scattered("agreement"),
        localization=scattered("localization"),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
    output:
        agreement=RESULTS / "tables/agreement.parquet",
        agreement_summary=RESULTS / "tables/agreement_summary.parquet",
    log:
        LOGS / "summarise.log",
    benchmark:
        TIMES / "summarise.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("summarise.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
    message:
        "Summarise agreement and localisation over the pictures"
    script:
        "../workflow/scripts/summarise.py"
