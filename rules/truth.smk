# Fourth act: how right the explanations are where the truth is known.


# All batches in one job: a picture takes less time than starting torch does.
rule measure_effects:
    input:
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        predictions=expand(
            rules.predict.output.predictions,
            batch=BATCHES,
            allow_missing=True,
        ),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
    output:
        RESULTS / "agree/{model}/effects.parquet",
    log:
        LOGS / "measure_effects-{model}.log",
    benchmark:
        TIMES / "measure_effects-{model}.tsv"
    priority: 20
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("measure_effects.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        sources=rendered_sources(),
        seed=SEED,
        size=WORLD["size"] if WORLD else None,
        compute_threads=THREADS,
    message:
        "Measure what the parts of the pictures do to {wildcards.model}"
    script:
        "../workflow/scripts/measure_effects.py"


rule gather_effects:
    input:
        scattered("effects"),
    output:
        table=RESULTS / "tables/effects.parquet",
        sheets=sheets("effects"),
    log:
        LOGS / "gather_effects.log",
    benchmark:
        TIMES / "gather_effects.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("gather_tables.py"),
        schema="EFFECTS",
    message:
        "Gather what the parts of the pictures do"
    script:
        "../workflow/scripts/gather_tables.py"


rule score_localization:
    input:
        unpack(explanations),
        predictions=rules.predict.output.predictions,
        views=rules.predict.output.views,
        pictures=RESULTS / "pictures/{batch}.parquet",
        effects=rules.measure_effects.output if RENDERED else [],
    output:
        RESULTS / "agree/{model}/localization-{batch}.parquet",
    log:
        LOGS / "score_localization-{model}-{batch}.log",
    benchmark:
        TIMES / "score_localization-{model}-{batch}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("score_localization.py"),
        tells=lambda wildcards: tells(wildcards.model),
        extra=STUDY["localization"]["extra"],
        extensions=registered("localization", STUDY["localization"]["extra"]),
    message:
        "Score the explanations of batch {wildcards.batch} of {wildcards.model}"
    script:
        "../workflow/scripts/score_localization.py"


rule summarise_localization:
    input:
        localization=scattered("localization"),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
    output:
        localization=RESULTS / "tables/localization.parquet",
        localization_summary=RESULTS / "tables/localization_summary.parquet",
        sheets=sheets("localization", "localization_summary"),
    log:
        LOGS / "summarise_localization.log",
    benchmark:
        TIMES / "summarise_localization.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("summarise_localization.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
        wrong_of=WRONG.get("model"),
    message:
        "Summarise how right the explanations are over the pictures"
    script:
        "../workflow/scripts/summarise_localization.py"
