# The pictures: those to explain, and the probe set of the dissection.


rule select_wrong:
    input:
        check=checked(),
        weights=weights_of(WRONG["model"]) if WRONG else [],
    output:
        pictures=RESULTS / "pictures/wrong.parquet",
        accuracy=RESULTS / "pictures/candidates.parquet",
    log:
        LOGS / "select_wrong.log",
    benchmark:
        TIMES / "select_wrong.tsv"
    priority: 20
    conda:
        "../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("select_wrong.py"),
        model=model_spec(WRONG["model"]) if WRONG else None,
        tells=tells(WRONG["model"]) if WRONG else None,
        wrong=ordered({key: WRONG[key] for key in WRONG if key != "model"}),
        seed=SEED,
        size=WORLD["size"] if WORLD else None,
        compute_threads=THREADS,
    message:
        "Draw pictures that a model is wrong about"
    script:
        "../workflow/scripts/select_wrong.py"


rule gather_pictures:
    input:
        check=checked(),
        index=lambda wildcards: LISTS["pictures"][int(wildcards.batch)],
        others=lambda wildcards: other_lists("pictures", int(wildcards.batch)),
        wrong=rules.select_wrong.output.pictures if WRONG else [],
    output:
        RESULTS / "pictures/{batch}.parquet",
    log:
        LOGS / "gather_pictures-{batch}.log",
    benchmark:
        TIMES / "gather_pictures-{batch}.tsv"
    priority: 20
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        code=code("gather_pictures.py"),
        kind="study",
        on_bad=STUDY["on_bad_picture"],
        settings=gathering("pictures"),
        # Of what the list said when this run began, whatever it says when the job reads it.
        listed=lambda wildcards: LISTED["pictures"].get(int(wildcards.batch)),
    message:
        "Gather the pictures of batch {wildcards.batch}"
    script:
        "../workflow/scripts/gather_pictures.py"


rule gather_probe:
    input:
        check=checked(),
        index=lambda wildcards: LISTS["probe"][int(wildcards.batch)],
        others=lambda wildcards: other_lists("probe", int(wildcards.batch)),
    output:
        RESULTS / "probe/{batch}.parquet",
    log:
        LOGS / "gather_probe-{batch}.log",
    benchmark:
        TIMES / "gather_probe-{batch}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        code=code("gather_pictures.py"),
        kind="probe",
        on_bad=STUDY["on_bad_picture"],
        settings=gathering("probe"),
        # Of what the list said when this run began, whatever it says when the job reads it.
        listed=lambda wildcards: LISTED["probe"].get(int(wildcards.batch)),
    message:
        "Gather the probe pictures of shard {wildcards.batch}"
    script:
        "../workflow/scripts/gather_pictures.py"
