# The pictures: those to explain, and the probe set of the dissection.


rule gather_pictures:
    input:
        check=checked(),
        index=lambda wildcards: LISTS["pictures"][int(wildcards.batch)],
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
        mem_mb=1000,
        runtime=20,
    params:
        code=code("gather_pictures.py"),
        world=ordered(
            [source["world"] for source in STUDY["pictures"] if "world" in source]
        ),
        kind="study",
        seed=SEED,
        size=WORLD["size"] if WORLD else None,
        batches=len(BATCHES),
    message:
        "Gather the pictures of batch {wildcards.batch}"
    script:
        "../workflow/scripts/gather_pictures.py"


rule gather_probe:
    input:
        check=checked(),
        index=lambda wildcards: LISTS["probe"][int(wildcards.batch)],
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
        mem_mb=1000,
        runtime=20,
    params:
        code=code("gather_pictures.py"),
        world=ordered(
            [source["world"] for source in STUDY["probe"] if "world" in source]
        ),
        kind="probe",
        seed=SEED,
        size=WORLD["size"] if WORLD else None,
        batches=len(SHARDS),
    message:
        "Gather the probe pictures of shard {wildcards.batch}"
    script:
        "../workflow/scripts/gather_pictures.py"
