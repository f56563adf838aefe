# First act: label the neurons of each model with concepts, and compare what the models learned.


CLIP_NAME = (STUDY["clip"] or {}).get("name")


rule embed_probe:
    message:
        "Embed the probe pictures of shard {wildcards.shard} with CLIP"
    input:
        clip=clip_files,
        pictures=RESULTS / "probe/{shard}.parquet",
    output:
        RESULTS / "dissect/pictures-{shard}.parquet",
    log:
        LOGS / "embed_probe-{shard}.log",
    benchmark:
        TIMES / "embed_probe-{shard}.tsv"
    params:
        code=code("embed_probe.py"),
        name=CLIP_NAME,
        compute_threads=THREADS,
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    conda:
        "../envs/torch.yaml"
    script:
        "../workflow/scripts/embed_probe.py"


rule embed_concepts:
    message:
        "Embed the concepts with CLIP"
    input:
        clip=clip_files,
        concepts=[] if STUDY["concepts"] in (None, "world") else STUDY["concepts"],
    output:
        RESULTS / "dissect/concepts.parquet",
    log:
        LOGS / "embed_concepts.log",
    benchmark:
        TIMES / "embed_concepts.tsv"
    params:
        code=code("embed_concepts.py"),
        name=CLIP_NAME,
        compute_threads=THREADS,
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    conda:
        "../envs/torch.yaml"
    script:
        "../workflow/scripts/embed_concepts.py"


rule extract_activations:
    message:
        "Extract the activations of {wildcards.model} on shard {wildcards.shard}"
    input:
        check=checked(),
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
        pictures=RESULTS / "probe/{shard}.parquet",
    output:
        RESULTS / "dissect/{model}/activations-{shard}.parquet",
    log:
        LOGS / "extract_activations-{model}-{shard}.log",
    benchmark:
        TIMES / "extract_activations-{model}-{shard}.tsv"
    params:
        code=code("extract_activations.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        layers=lambda wildcards: MODELS[wildcards.model]["dissect_layers"],
        compute_threads=THREADS,
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    conda:
        "../envs/torch.yaml"
    script:
        "../workflow/scripts/extract_activations.py"


rule label_neurons:
    message:
        "Label the neurons of {wildcards.model}"
    input:
        activations=expand(
            rules.extract_activations.output, shard=SHARDS, allow_missing=True
        ),
        pictures=expand(rules.embed_probe.output, shard=SHARDS),
        concepts=rules.embed_concepts.output,
    output:
        neurons=RESULTS / "dissect/{model}/neurons.parquet",
        descriptions=RESULTS / "dissect/{model}/descriptions.csv",
    log:
        LOGS / "label_neurons-{model}.log",
    benchmark:
        TIMES / "label_neurons-{model}.tsv"
    params:
        code=code("label_neurons.py"),
        layers=lambda wildcards: MODELS[wildcards.model]["dissect_layers"],
        settings=ordered(STUDY["dissection"]),
        world_words=STUDY["concepts"] == "world",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    conda:
        "../envs/base.yaml"
    script:
        "../workflow/scripts/label_neurons.py"


rule compare_models:
    message:
        "Compare what the models learned"
    input:
        expand(rules.label_neurons.output.neurons, model=DISSECTED),
    output:
        neurons=RESULTS / "tables/neurons.parquet",
        concepts=RESULTS / "tables/concepts.parquet",
        comparison=RESULTS / "tables/comparison.parquet",
    log:
        LOGS / "compare_models.log",
    benchmark:
        TIMES / "compare_models.tsv"
    params:
        code=code("compare_models.py"),
        # Labels of an output layer can be held against the names of its classes.
        classes={
            name: model_spec(name)["classes"] for name in DISSECTED if name in TRAINED
        },
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    conda:
        "../envs/base.yaml"
    script:
        "../workflow/scripts/compare_models.py"
