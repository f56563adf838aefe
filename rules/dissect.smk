# First act: label the neurons of each model with concepts, and compare what the models learned.


CLIP_NAME = (STUDY["clip"] or {}).get("name")


# Layers share passes over the pictures in groups. One that comes to the study later makes one of
# its own, so that what is there already stays. They are written down when a run begins, since which layers
# came first shows nowhere else; by architecture, since another one has other layers.
GROUPS_FILE = RESULTS / "index" / "layers.json"
KNOWN_GROUPS = index.read_json(GROUPS_FILE)


def network(name):
    """What decides which layers a model has, as a short digest."""
    spec = model_spec(name)
    said = [spec.get(key) for key in ("architecture", "arguments", "code")]
    return sha256(repr(said).encode()).hexdigest()[:8]


GROUPS = {
    name: index.group_layers(
        MODELS[name]["dissect_layers"],
        KNOWN_GROUPS.get(name, {}).get(network(name), {}),
    )
    for name in DISSECTED
}
# Those with a layer that the study asks for, which is not always one that it once asked for.
ASKED = [
    (name, group)
    for name in DISSECTED
    for group, layers in GROUPS[name].items()
    if set(layers) & set(MODELS[name]["dissect_layers"])
]


def write_groups():
    """Write down which layers share a pass, for the jobs and for later runs."""
    known = {
        name: KNOWN_GROUPS.get(name, {}) | {network(name): GROUPS[name]}
        for name in DISSECTED
    }
    text = json.dumps(KNOWN_GROUPS | known, indent=1, sort_keys=True) + "\n"
    with refusing():
        files.write_if_changed(GROUPS_FILE, text)


def layers_of(wildcards):
    """The layers of a group, perhaps some among them that the study asks for no more."""
    return GROUPS[wildcards.model][wildcards.group]


def wanted_layers(wildcards):
    """Those of them that the study asks for."""
    named = MODELS[wildcards.model]["dissect_layers"]
    return [layer for layer in layers_of(wildcards) if layer in named]


def by_group(pattern, model=None):
    """A pattern filled in for each group that the study asks for, of one model or of all."""
    asked = [pair for pair in ASKED if model in (None, pair[0])]
    models, groups = zip(*asked) if asked else ((), ())
    return expand(pattern, zip, model=models, group=groups, allow_missing=True)


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
        mem_mb=growing(4000),
        runtime=growing(60),
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
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
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


rule choose_temperature:
    input:
        activations=expand(by_group(rules.extract_activations.output), shard=SHARDS),
        pictures=expand(rules.embed_probe.output, shard=SHARDS),
        concepts=rules.embed_concepts.output.concepts,
    output:
        RESULTS / "tables/temperature.parquet",
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
        layers=[
            [name, layer, place]
            for name in DISSECTED
            for layer in MODELS[name]["dissect_layers"]
            for place, (other, group) in enumerate(ASKED)
            if other == name and layer in GROUPS[name][group]
        ],
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
        temperature=rules.choose_temperature.output if CHOOSES_TEMPERATURE else [],
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
        directory(RESULTS / "dissect/{model}/cards"),
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
        categories=STUDY["comparison"]["categories"] or [],
    output:
        by_model=expand(RESULTS / "dissect/{model}/descriptions.csv", model=DISSECTED),
        neurons=RESULTS / "tables/neurons.parquet",
        descriptions=RESULTS / "tables/neurons.csv",
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
