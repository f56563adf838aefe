# A short job before all others: what only the models themselves can tell to be wrong.


rule check:
    input:
        [model["checkpoint"] for model in MODELS.values() if "checkpoint" in model],
        class_name_files(MODELS),
    output:
        RESULTS / "check.json",
    log:
        LOGS / "check.log",
    benchmark:
        TIMES / "check.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("check_study.py"),
        models=[model_spec(name) for name in MODELS],
        layers={
            name: (model["dissect_layers"] if name in DISSECTED else [])
            + (cam_layers(name) if name in EXPLAINED and CAM_METHODS else [])
            for name, model in sorted(MODELS.items())
        },
        target=STUDY["target"],
        explained=EXPLAINED,
    message:
        "Check the study's models, layers and classes"
    script:
        "../workflow/scripts/check_study.py"
