# Fourth act: how far the explanations agree, and how right they are where the truth is known.


def explanations(wildcards):
    """Every explanation of one batch of one model."""
    model, batch = wildcards.model, wildcards.batch
    cams = expand(rules.explain_cam.output, model=model, method=CAM_METHODS, batch=batch)
    lime = expand(rules.explain_lime.output, model=model, batch=batch)
    return {"cams": cams, "lime": lime if ACTS["lime"] else []}


rule compare_explanations:
    message:
        "Compare the explanations of batch {wildcards.batch} of {wildcards.model}"
    input:
        unpack(explanations),
        views=rules.predict.output.views,
    output:
        agreement=RESULTS / "agree/{model}/agreement-{batch}.parquet",
        localization=RESULTS / "agree/{model}/localization-{batch}.parquet",
    log:
        LOGS / "compare_explanations-{model}-{batch}.log",
    benchmark:
        TIMES / "compare_explanations-{model}-{batch}.tsv"
    params:
        code=code("compare_explanations.py"),
        top_fraction=STUDY["agreement"]["top_fraction"],
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    conda:
        "../envs/base.yaml"
    script:
        "../workflow/scripts/compare_explanations.py"


def scattered(kind):
    """Files of one kind over all explained models and batches."""
    folder = {"predictions": "explain", "agreement": "agree", "localization": "agree"}[kind]
    return expand(
        RESULTS / folder / "{model}" / (kind + "-{batch}.parquet"),
        model=EXPLAINED,
        batch=BATCHES,
    )


rule gather_predictions:
    message:
        "Gather the predictions"
    input:
        scattered("predictions"),
    output:
        RESULTS / "tables/predictions.parquet",
    log:
        LOGS / "gather_predictions.log",
    benchmark:
        TIMES / "gather_predictions.tsv"
    params:
        code=code("gather_tables.py"),
        schema="PREDICTIONS",
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    conda:
        "../envs/base.yaml"
    script:
        "../workflow/scripts/gather_tables.py"


rule gather_accuracy:
    message:
        "Gather the accuracy of the trained models"
    input:
        expand(RESULTS / "models/{model}/accuracy.parquet", model=TRAINED),
        [RESULTS / "clip/accuracy.parquet"] if (STUDY["clip"] or {}).get("train") else [],
    output:
        RESULTS / "tables/accuracy.parquet",
    log:
        LOGS / "gather_accuracy.log",
    benchmark:
        TIMES / "gather_accuracy.tsv"
    params:
        code=code("gather_tables.py"),
        schema="ACCURACY",
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    conda:
        "../envs/base.yaml"
    script:
        "../workflow/scripts/gather_tables.py"


rule summarise:
    message:
        "Summarise agreement and localisation over the pictures"
    input:
        agreement=scattered("agreement"),
        localization=scattered("localization"),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
    output:
        agreement=RESULTS / "tables/agreement.parquet",
        localization=RESULTS / "tables/localization.parquet",
        agreement_summary=RESULTS / "tables/agreement_summary.parquet",
        localization_summary=RESULTS / "tables/localization_summary.parquet",
    log:
        LOGS / "summarise.log",
    benchmark:
        TIMES / "summarise.tsv"
    params:
        code=code("summarise.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    conda:
        "../envs/base.yaml"
    script:
        "../workflow/scripts/summarise.py"
