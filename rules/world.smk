# The rendered world of the embedded study, and the models trained on it.


rule render_training:
    output:
        RESULTS / "world/training-{shard}.npz",
    log:
        LOGS / "render_training-{shard}.log",
    benchmark:
        TIMES / "render_training-{shard}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("render_pictures.py"),
        seed=SEED,
        size=WORLD["size"] if WORLD else None,
        stream="training",
        pictures=WORLD["training"]["pictures"] if WORLD else None,
        shards=len(TRAINING_SHARDS),
        clutter=WORLD["training"]["clutter"] if WORLD else None,
    message:
        "Render training pictures, shard {wildcards.shard}"
    script:
        "../workflow/scripts/render_pictures.py"


# The same pictures with scenes that tell the objects, for nets that are to learn a shortcut.
use rule render_training as render_shortcut with:
    output:
        RESULTS / "world/shortcut-{shortcut}-{shard}.npz",
    log:
        LOGS / "render_shortcut-{shortcut}-{shard}.log",
    benchmark:
        TIMES / "render_shortcut-{shortcut}-{shard}.tsv"
    message:
        "Render training pictures with a shortcut of {wildcards.shortcut}, shard {wildcards.shard}"


rule render_held_out:
    output:
        RESULTS / "world/held-out.npz",
    log:
        LOGS / "render_held_out.log",
    benchmark:
        TIMES / "render_held_out.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("render_pictures.py"),
        seed=SEED,
        size=WORLD["size"] if WORLD else None,
        stream="held-out",
        pictures=WORLD["held_out"]["pictures"] if WORLD else None,
        shards=1,
        clutter=[0, 1, 2, 3, 4],
    message:
        "Render held-out pictures"
    script:
        "../workflow/scripts/render_pictures.py"


rule train_classifier:
    input:
        check=checked(),
        training=training_files,
        held_out=rules.render_held_out.output,
    output:
        weights=RESULTS / "models/{model}/weights.safetensors",
        accuracy=RESULTS / "models/{model}/accuracy.parquet",
    log:
        LOGS / "train_classifier-{model}.log",
    benchmark:
        TIMES / "train_classifier-{model}.tsv"
    priority: 30
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("train_classifier.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        settings=lambda wildcards: training_settings(wildcards.model),
        clutter=WORLD["training"]["clutter"] if WORLD else None,
        seed=SEED,
        compute_threads=THREADS,
    message:
        "Train {wildcards.model}"
    script:
        "../workflow/scripts/train_classifier.py"


rule train_clip:
    input:
        check=checked(),
        training=expand(rules.render_training.output, shard=TRAINING_SHARDS),
        held_out=rules.render_held_out.output,
    output:
        weights=RESULTS / "clip/weights.pt",
        accuracy=RESULTS / "clip/accuracy.parquet",
    log:
        LOGS / "train_clip.log",
    benchmark:
        TIMES / "train_clip.tsv"
    priority: 30
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("train_clip.py"),
        settings=ordered(STUDY["clip"]["train"]) if STUDY["clip"] else None,
        clutter=WORLD["training"]["clutter"] if WORLD else None,
        seed=SEED,
        compute_threads=THREADS,
    message:
        "Train the small CLIP"
    script:
        "../workflow/scripts/train_clip.py"
