# Fourth act: how faithful the explanations are to the model.


rule measure_faithfulness:
    input:
        unpack(explanations),
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        predictions=rules.predict.output.predictions,
        views=rules.predict.output.views,
    output:
        RESULTS / "agree/{model}/faithfulness-{batch}.parquet",
    log:
        LOGS / "measure_faithfulness-{model}-{batch}.log",
    benchmark:
        TIMES / "measure_faithfulness-{model}-{batch}.tsv"
    conda:
        "../envs/explain.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
        gpu=1,
    params:
        code=code("measure_faithfulness.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        settings=ordered(STUDY["faithfulness"]),
        seed=SEED,
        compute_threads=THREADS,
        extensions=registered("faithfulness", STUDY["faithfulness"]["extra"]),
    message:
        "Measure how faithful the explanations of batch {wildcards.batch} are to {wildcards.model}"
    script:
        "../workflow/scripts/measure_faithfulness.py"


rule summarise_faithfulness:
    input:
        faithfulness=scattered("faithfulness"),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
    output:
        faithfulness=RESULTS / "tables/faithfulness.parquet",
        summary=RESULTS / "tables/faithfulness_summary.parquet",
        sheets=sheets("faithfulness", "faithfulness_summary"),
    log:
        LOGS / "summarise_faithfulness.log",
    benchmark:
        TIMES / "summarise_faithfulness.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("summarise_faithfulness.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
        # Which say whether a higher value is more faithful.
        extensions=registered("faithfulness", STUDY["faithfulness"]["extra"]),
    message:
        "Summarise over the pictures how faithful the explanations are"
    script:
        "../workflow/scripts/summarise_faithfulness.py"
