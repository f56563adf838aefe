# Fourth act: whether explanations follow the weights and the class.


# One job a model: the pictures that are explained again are few, and chosen from all.
rule check_sanity:
    input:
        unpack(sanity_explanations),
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
        predictions=expand(
            rules.predict.output.predictions, batch=BATCHES, allow_missing=True
        ),
        views=expand(rules.predict.output.views, batch=BATCHES, allow_missing=True),
    output:
        RESULTS / "agree/{model}/sanity.parquet",
    log:
        LOGS / "check_sanity-{model}.log",
    benchmark:
        TIMES / "check_sanity-{model}.tsv"
    conda:
        "../envs/explain.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(6000),
        runtime=growing(240),
        gpu=1,
    params:
        code=code("check_sanity.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        layers=lambda wildcards: (
            cam_layers(wildcards.model) if MODELS[wildcards.model]["cam_layer"] else []
        ),
        methods=lambda wildcards: sanity_methods(wildcards.model),
        pictures=STUDY["sanity"]["pictures"],
        stages=STUDY["sanity"]["stages"],
        lime=lambda wildcards: (
            lime_settings() if "lime" in sanity_methods(wildcards.model) else None
        ),
        batch_size=STUDY["cam"]["batch_size"],
        seed=SEED,
        compute_threads=THREADS,
        extensions=lambda wildcards: registered("cam", sanity_methods(wildcards.model)),
    message:
        "Explain {wildcards.model} with randomised weights"
    script:
        "../workflow/scripts/check_sanity.py"


rule summarise_sanity:
    input:
        expand(rules.check_sanity.output, model=EXPLAINED),
    output:
        sanity=RESULTS / "tables/sanity.parquet",
        summary=RESULTS / "tables/sanity_summary.parquet",
        sheets=sheets("sanity", "sanity_summary"),
    log:
        LOGS / "summarise_sanity.log",
    benchmark:
        TIMES / "summarise_sanity.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("summarise_sanity.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
    message:
        "Summarise whether the explanations follow the weights and the class"
    script:
        "../workflow/scripts/summarise_sanity.py"
