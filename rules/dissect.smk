# First act: label the neurons of each model with concepts, and compare what the models learned.


CLIP_NAME = (STUDY["clip"] or {}).get("name")


rule embed_probe:
    input:
        clip=clip_files,
        pictures=RESULTS / "probe/{shard}.parquet",
    output:
        RESULTS / "dissect/pictures-{shard}.parquet",
    log:
        LOGS / "embed_probe-{shard}.log",
    benchmark:
        TIMES / "embed_probe-{shard}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code("embed_probe.py"),
        name=CLIP_NAME,
        compute_threads=THREADS,
    message:
        "Embed the probe pictures of shard {wildcards.shard} with CLIP"
    script:
        "../workflow/scripts/embed_probe.py"


rule embed_concepts:
    input:
        clip=clip_files,
        concepts=[] if STUDY["concepts"] in (None, "world") else STUDY["concepts"],
        classes=class_name_files(DISSECTED),
    output:
        concepts=RESULTS / "dissect/concepts.parquet",
        class_names=RESULTS / "dissect/class_names.parquet",
    log:
        LOGS / "embed_concepts.log",
    benchmark:
        TIMES / "embed_concepts.tsv"
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code("embed_concepts.py"),
        name=CLIP_NAME,
        models=[naming(name) for name in DISSECTED],
        compute_threads=THREADS,
    message:
        "Embed the concepts and the class names with CLIP"
    script:
        "../workflow/scripts/embed_concepts.py"


rule extract_activations:
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
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code("extract_activations.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        layers=lambda wildcards: MODELS[wildcards.model]["dissect_layers"],
        pool=lambda wildcards: MODELS[wildcards.model]["pool"],
        tokens=lambda wildcards: MODELS[wildcards.model]["tokens"],
        compute_threads=THREADS,
    message:
        "Extract the activations of {wildcards.model} on shard {wildcards.shard}"
    script:
        "../workflow/scripts/extract_activations.py"


rule label_neurons:
    input:
        activations=expand(
            rules.extract_activations.output, shard=SHARDS, allow_missing=True
        ),
        pictures=expand(rules.embed_probe.output, shard=SHARDS),
        concepts=rules.embed_concepts.output.concepts,
    output:
        neurons=RESULTS / "dissect/{model}/neurons.parquet",
        descriptions=RESULTS / "dissect/{model}/descriptions.csv",
    log:
        LOGS / "label_neurons-{model}.log",
    benchmark:
        TIMES / "label_neurons-{model}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=code("label_neurons.py"),
        layers=lambda wildcards: MODELS[wildcards.model]["dissect_layers"],
        settings=ordered(STUDY["dissection"]),
        world_words=STUDY["concepts"] == "world",
    message:
        "Label the neurons of {wildcards.model}"
    script:
        "../workflow/scripts/label_neurons.py"


rule compare_models:
    input:
        check=checked(),
        neurons=expand(rules.label_neurons.output.neurons, model=DISSECTED),
        concepts=rules.embed_concepts.output.concepts,
    output:
        neurons=RESULTS / "tables/neurons.parquet",
        concepts=RESULTS / "tables/concepts.parquet",
        comparison=RESULTS / "tables/comparison.parquet",
    log:
        LOGS / "compare_models.log",
    benchmark:
        TIMES / "compare_models.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("compare_models.py"),
    message:
        "Compare what the models learned"
    script:
        "../workflow/scripts/compare_models.py"
