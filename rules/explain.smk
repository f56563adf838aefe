# Second and third act: where the model looked (CAM), and which regions carried the decision (LIME).


rule predict:
    input:
        check=checked(),
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        pictures=RESULTS / "pictures/{batch}.parquet",
    output:
        predictions=RESULTS / "explain/{model}/predictions-{batch}.parquet",
        views=RESULTS / "explain/{model}/views-{batch}.parquet",
    log:
        LOGS / "predict-{model}-{batch}.log",
    benchmark:
        TIMES / "predict-{model}-{batch}.tsv"
    priority: 20
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("predict.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        # Which column of the pictures the model's classes are held against.
        labels=lambda wildcards: MODELS[wildcards.model]
        .get("train", {})
        .get("target", "object"),
        target=STUDY["target"],
        compute_threads=THREADS,
    message:
        "Ask {wildcards.model} about batch {wildcards.batch}"
    script:
        "../workflow/scripts/predict.py"


rule explain_cam:
    input:
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        predictions=rules.predict.output.predictions,
        views=rules.predict.output.views,
    output:
        RESULTS / "explain/{model}/cam-{method}-{batch}.parquet",
    log:
        LOGS / "explain_cam-{model}-{method}-{batch}.log",
    benchmark:
        TIMES / "explain_cam-{model}-{method}-{batch}.tsv"
    # The long ones first, so that the last of them does not run alone at the end.
    priority: 10
    conda:
        "../envs/explain.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
        gpu=1,
    params:
        code=code("explain_cam.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        layers=lambda wildcards: cam_layers(wildcards.model),
        batch_size=STUDY["cam"]["batch_size"],
        compute_threads=THREADS,
        extensions=lambda wildcards: registered("cam", [wildcards.method]),
    message:
        "Explain batch {wildcards.batch} of {wildcards.model} with {wildcards.method}"
    script:
        "../workflow/scripts/explain_cam.py"


# Every entry must be of a picture of the study, which no batch knows alone. Early by its priority:
# as an ancient() input of LIME it would, when it reran, keep Snakemake from seeing that LIME must.
rule check_explain_params:
    input:
        given=given_params(),
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
    output:
        RESULTS / "explain/{model}/given_params.json",
    log:
        LOGS / "check_explain_params-{model}.log",
    benchmark:
        TIMES / "check_explain_params-{model}.tsv"
    priority: 20
    conda:
        "../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("check_explain_params.py"),
    message:
        "Check the parameters that LIME is given for {wildcards.model}"
    script:
        "../workflow/scripts/check_explain_params.py"


rule explain_lime:
    input:
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        predictions=rules.predict.output.predictions,
        views=rules.predict.output.views,
        given=given_params(),
    output:
        RESULTS / "explain/{model}/lime-{batch}.parquet",
    log:
        LOGS / "explain_lime-{model}-{batch}.log",
    benchmark:
        TIMES / "explain_lime-{model}-{batch}.tsv"
    priority: 10
    conda:
        "../envs/explain.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
        gpu=1,
    params:
        code=code("explain_lime.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        settings=lime_settings(),
        compute_threads=THREADS,
    message:
        "Explain batch {wildcards.batch} of {wildcards.model} with LIME"
    script:
        "../workflow/scripts/explain_lime.py"


rule repeat_lime:
    input:
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        views=rules.predict.output.views,
        lime=rules.explain_lime.output,
        given=given_params(),
    output:
        stability=RESULTS / "explain/{model}/lime_stability-{batch}.parquet",
        repeats=RESULTS / "explain/{model}/lime_repeats-{batch}.parquet",
    log:
        LOGS / "repeat_lime-{model}-{batch}.log",
    benchmark:
        TIMES / "repeat_lime-{model}-{batch}.tsv"
    # What agreement waits for goes before what only the page waits for.
    priority: 10
    conda:
        "../envs/explain.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(480),
        gpu=1,
    params:
        code=code("repeat_lime.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        settings=lime_settings(),
        repeats=STUDY["lime"]["repeats"],
        top_fraction=STUDY["agreement"]["top_fraction"],
        compute_threads=THREADS,
    message:
        "Repeat LIME on batch {wildcards.batch} of {wildcards.model}"
    script:
        "../workflow/scripts/repeat_lime.py"


rule gather_lime_stability:
    input:
        scattered("lime_stability"),
    output:
        table=RESULTS / "tables/lime_stability.parquet",
        sheets=sheets("lime_stability"),
    log:
        LOGS / "gather_lime_stability.log",
    benchmark:
        TIMES / "gather_lime_stability.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("gather_tables.py"),
        schema="LIME_STABILITY",
    message:
        "Gather how far LIME agrees with itself"
    script:
        "../workflow/scripts/gather_tables.py"


rule export_explain_params:
    input:
        predictions=expand(
            rules.predict.output.predictions,
            batch=BATCHES,
            allow_missing=True,
        ),
        given=given_params(),
        checked=rules.check_explain_params.output if given_params() else [],
    output:
        RESULTS / "explain/{model}/explain_params.pkl",
    log:
        LOGS / "export_explain_params-{model}.log",
    benchmark:
        TIMES / "export_explain_params-{model}.tsv"
    conda:
        "../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("export_explain_params.py"),
        settings=lime_settings(),
        num_features=STUDY["lime"]["num_features"],
    message:
        "Export the parameters that LIME explained {wildcards.model} with"
    script:
        "../workflow/scripts/export_explain_params.py"
