# The benchmark: methods and metrics judged by the world's causal truth. Its rules have targets only
# where the study says `benchmark`.


# No model of the study is asked, so that nothing is waited for.
rule audit_metrics:
    output:
        audit=RESULTS / "tables/audit.parquet",
        rules=RESULTS / "tables/audit_rules.parquet",
    log:
        LOGS / "audit_metrics.log",
    benchmark:
        TIMES / "audit_metrics.tsv"
    conda:
        "../envs/explain.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("audit_metrics.py"),
        audit=ordered(BENCHMARK.get("audit")),
        size=WORLD["size"] if WORLD else None,
        agreement={key: STUDY["agreement"][key] for key in ("k", "top_fraction")},
        faithfulness=ordered(STUDY["faithfulness"]),
        segmentation=lime_settings()["segmentation"],
        segmentation_seed=lime_settings()["segmentation_seed"],
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
        compute_threads=THREADS,
    message:
        "Audit every metric on planted explanations"
    script:
        "../workflow/scripts/audit_metrics.py"
