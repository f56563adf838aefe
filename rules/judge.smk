# Fourth act: what the measures say of the study's questions and of the original study's claims.

# What tells which data a compared model was trained on. Claims about these data are not judged by
# the world's own nets, so that a study of these alone does not wait for the comparison.
ORIGINS = ordered(
    {
        entry["name"]: [
            entry[key]
            for key in ("weights", "checkpoint", "path", "paths")
            if entry.get(key)
        ]
        for entry in [*STUDY["models"], *PUBLISHED]
        if "train" not in entry
    }
)


rule judge_study:
    input:
        pictures=expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES),
        predictions=RESULTS / "tables/predictions.parquet",
        agreement=RESULTS / "tables/agreement.parquet",
        localization=RESULTS / "tables/localization.parquet",
        faithfulness=(
            [RESULTS / "tables/faithfulness.parquet"] if ACTS["faithfulness"] else []
        ),
        heatmaps=scattered("heatmaps"),
        comparison=(
            [RESULTS / "tables/comparison.parquet"]
            if ORIGINS and (DISSECTED or PUBLISHED)
            else []
        ),
    output:
        questions=RESULTS / "tables/questions.parquet",
        correctness=RESULTS / "tables/correctness.parquet",
        claims=RESULTS / "tables/claims.parquet",
        sheets=sheets("questions", "correctness", "claims"),
    log:
        LOGS / "judge_study.log",
    benchmark:
        TIMES / "judge_study.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("judge_study.py"),
        primary=ordered(STUDY["primary"]),
        cams=CAM_METHODS,
        # Models that wrong pictures were drawn for.
        drawn_for=sorted(
            {
                source["wrong"]["model"]
                for source in STUDY["pictures"]
                if "wrong" in source
            }
        ),
        origins=ORIGINS,
        top=STUDY["comparison"]["top"],
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
    message:
        "Judge the study's questions and the original study's claims"
    script:
        "../workflow/scripts/judge_study.py"
