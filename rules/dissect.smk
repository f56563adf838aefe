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
    threads: READERS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
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
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
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
        RESULTS / "dissect/{model}/activations-{group}-{shard}.parquet",
    log:
        LOGS / "extract_activations-{model}-{group}-{shard}.log",
    benchmark:
        TIMES / "extract_activations-{model}-{group}-{shard}.tsv"
    conda:
        "../envs/torch.yaml"
    threads: READERS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("extract_activations.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        layers=layers_of,
        pool=lambda wildcards: MODELS[wildcards.model]["pool"],
        tokens=lambda wildcards: MODELS[wildcards.model]["tokens"],
        compute_threads=THREADS,
    message:
        "Extract the activations of {wildcards.model} on shard {wildcards.shard}"
    script:
        "../workflow/scripts/extract_activations.py"


use rule extract_activations as extract_untrained with:
    input:
        check=checked(),
        weights=[],
        classes=lambda wildcards: class_name_files([wildcards.model]),
        pictures=RESULTS / "probe/{shard}.parquet",
    output:
        RESULTS / "dissect/{model}/untrained-{group}-{shard}.parquet",
    log:
        LOGS / "extract_untrained-{model}-{group}-{shard}.log",
    benchmark:
        TIMES / "extract_untrained-{model}-{group}-{shard}.tsv"
    params:
        code=code("extract_activations.py"),
        model=lambda wildcards: untrained_spec(wildcards.model),
        layers=layers_of,
        pool=lambda wildcards: MODELS[wildcards.model]["pool"],
        tokens=lambda wildcards: MODELS[wildcards.model]["tokens"],
        compute_threads=THREADS,
    message:
        "Show shard {wildcards.shard} to {wildcards.model} as it is before any training"


# Layers by model, each with the place of its group among those that are asked for.
PLACED = [
    [name, layer, place]
    for name in DISSECTED
    for layer in MODELS[name]["dissect_layers"]
    for place, (other, group) in enumerate(ASKED)
    if other == name and layer in GROUPS[name][group]
]


rule choose_temperature:
    input:
        activations=expand(by_group(rules.extract_activations.output), shard=SHARDS),
        pictures=expand(rules.embed_probe.output, shard=SHARDS),
        concepts=rules.embed_concepts.output.concepts,
    output:
        table=RESULTS / "tables/temperature.parquet",
        sheets=sheets("temperature"),
    log:
        LOGS / "choose_temperature.log",
    benchmark:
        TIMES / "choose_temperature.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("choose_temperature.py"),
        layers=PLACED,
        held_out=STUDY["dissection"]["held_out"],
        similarity=STUDY["dissection"]["similarity"],
        settings={
            key: value for key, value in similarity_settings().items() if key != "a"
        },
    message:
        "Choose the temperature of the dissection"
    script:
        "../workflow/scripts/choose_temperature.py"


rule label_neurons:
    input:
        activations=expand(
            rules.extract_activations.output, shard=SHARDS, allow_missing=True
        ),
        untrained=(
            expand(rules.extract_untrained.output, shard=SHARDS, allow_missing=True)
            if STUDY["dissection"]["untrained"]
            else []
        ),
        pictures=expand(rules.embed_probe.output, shard=SHARDS),
        concepts=rules.embed_concepts.output.concepts,
        temperature=rules.choose_temperature.output.table if CHOOSES_TEMPERATURE else [],
    output:
        neurons=RESULTS / "dissect/{model}/neurons-{group}.parquet",
        resampled=RESULTS / "dissect/{model}/resampled-{group}.parquet",
    log:
        LOGS / "label_neurons-{model}-{group}.log",
    benchmark:
        TIMES / "label_neurons-{model}-{group}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("label_neurons.py"),
        layers=wanted_layers,
        similarity=STUDY["dissection"]["similarity"],
        settings=similarity_settings(),
        held_out=STUDY["dissection"]["held_out"],
        resamples=STUDY["dissection"]["resamples"],
        significance=STUDY["dissection"]["significance"],
        seed=SEED,
        world_words=STUDY["concepts"] == "world",
        extensions=registered("similarity", [STUDY["dissection"]["similarity"]]),
    message:
        "Label the neurons of {wildcards.model}"
    script:
        "../workflow/scripts/label_neurons.py"


rule draw_neuron_cards:
    input:
        neurons=lambda wildcards: by_group(
            rules.label_neurons.output.neurons, model=wildcards.model
        ),
        pictures=expand(RESULTS / "probe/{shard}.parquet", shard=SHARDS),
    output:
        shown(
            directory(RESULTS / "dissect/{model}/cards"),
            "cards",
            "3 Neurons",
            "Cards",
            {"Model": "{model}", "Layer": "{layer}", "Page": "{page}"},
            patterns=["{layer}-{page}.png"],
        ),
    log:
        LOGS / "draw_neuron_cards-{model}.log",
    benchmark:
        TIMES / "draw_neuron_cards-{model}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("draw_neuron_cards.py"),
    message:
        "Draw the neurons of {wildcards.model}"
    script:
        "../workflow/scripts/draw_neuron_cards.py"


rule compare_models:
    input:
        check=checked(),
        neurons=by_group(rules.label_neurons.output.neurons),
        resampled=by_group(rules.label_neurons.output.resampled),
        concepts=rules.embed_concepts.output.concepts if DISSECTED else [],
        class_names=rules.embed_concepts.output.class_names if DISSECTED else [],
        published=published_files(),
        categories=category_files(),
    output:
        by_model=[
            shown(
                RESULTS / f"dissect/{name}/descriptions.csv",
                "descriptions",
                "3 Neurons",
                "Descriptions as CLIP-Dissect writes them",
                {"Model": name},
            )
            for name in DISSECTED
        ],
        neurons=RESULTS / "tables/neurons.parquet",
        concepts=RESULTS / "tables/concepts.parquet",
        comparison=RESULTS / "tables/comparison.parquet",
        sheets=sheets("neurons", "concepts", "comparison"),
    log:
        LOGS / "compare_models.log",
    benchmark:
        TIMES / "compare_models.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("compare_models.py"),
        layers=[[name, MODELS[name]["dissect_layers"]] for name in DISSECTED],
        published=ordered(PUBLISHED),
        top=STUDY["comparison"]["top"],
        world_words=STUDY["concepts"] == "world",
    message:
        "Compare what the models learned"
    script:
        "../workflow/scripts/compare_models.py"
