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
        faithfulness=ordered(STUDY["faithfulness"] | {"extra": ADDED["faithfulness"]}),
        localization=ADDED["localization"],
        extensions=added_metrics(),
        segmentation=lime_settings()["segmentation"],
        segmentation_seed=lime_settings()["segmentation_seed"],
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
        compute_threads=THREADS,
    message:
        "Audit every metric on planted explanations"
    script:
        "../workflow/scripts/audit_metrics.py"


rule measure_responses:
    input:
        check=checked(),
        weights=model_files,
        classes=lambda wildcards: class_name_files([wildcards.model]),
    output:
        BENCH / "{model}/responses.parquet",
    log:
        LOGS / "measure_responses-{model}.log",
    benchmark:
        TIMES / "measure_responses-{model}.tsv"
    conda:
        "../envs/explain.yaml"
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("measure_responses.py"),
        model=lambda wildcards: model_spec(wildcards.model),
        layers=lambda wildcards: MODELS[wildcards.model]["dissect_layers"],
        pool=lambda wildcards: MODELS[wildcards.model]["pool"],
        tokens=lambda wildcards: MODELS[wildcards.model]["tokens"],
        bases=NEURONS.get("bases"),
        clutter=NEURONS.get("clutter"),
        size=WORLD["size"] if WORLD else None,
        seed=SEED,
        compute_threads=THREADS,
    message:
        "Ask {wildcards.model} about pictures with one factor changed"
    script:
        "../workflow/scripts/measure_responses.py"


rule plant_neurons:
    input:
        activations=lambda wildcards: expand(
            by_group(rules.extract_activations.output, model=wildcards.model),
            shard=wildcards.shard,
        ),
        pictures=RESULTS / "probe/{shard}.parquet",
    output:
        BENCH / "{model}/planted-{shard}.parquet",
    log:
        LOGS / "plant_neurons-{model}-{shard}.log",
    benchmark:
        TIMES / "plant_neurons-{model}-{shard}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code("plant_neurons.py"),
        layers=lambda wildcards: NEURONS["beside"]
        or MODELS[wildcards.model]["dissect_layers"],
        seed=SEED,
    message:
        "Plant neurons beside those of {wildcards.model} on shard {wildcards.shard}"
    script:
        "../workflow/scripts/plant_neurons.py"


use rule choose_temperature as choose_temperature_of with:
    output:
        table=BENCH / "temperature-{similarity}.parquet",
    log:
        LOGS / "choose_temperature_of-{similarity}.log",
    benchmark:
        TIMES / "choose_temperature_of-{similarity}.tsv"
    params:
        code=code("choose_temperature.py"),
        layers=PLACED,
        held_out=STUDY["dissection"]["held_out"],
        similarity=lambda wildcards: wildcards.similarity,
        settings=lambda wildcards: settings_of(wildcards.similarity),
    message:
        "Choose the temperature of {wildcards.similarity}"


# As the study itself labels neurons, by each similarity; planted neurons are labelled beside the
# real ones in a labelling of their own, so that they have no say in what is said of these.
use rule label_neurons as label_by with:
    input:
        activations=labelled_activations,
        untrained=lambda wildcards: (
            expand(
                by_group(rules.extract_untrained.output, model=wildcards.model),
                shard=SHARDS,
            )
            if STUDY["dissection"]["untrained"]
            else []
        ),
        pictures=expand(rules.embed_probe.output, shard=SHARDS),
        concepts=rules.embed_concepts.output.concepts,
        temperature=temperature_of,
    output:
        neurons=BENCH / "{model}/{crowd}-{similarity}.parquet",
        resampled=temp(BENCH / "{model}/{crowd}-{similarity}-resampled.parquet"),
    log:
        LOGS / "label_by-{model}-{crowd}-{similarity}.log",
    benchmark:
        TIMES / "label_by-{model}-{crowd}-{similarity}.tsv"
    params:
        code=code("label_neurons.py"),
        layers=labelled_layers,
        similarity=lambda wildcards: wildcards.similarity,
        settings=lambda wildcards: settings_of(wildcards.similarity),
        held_out=STUDY["dissection"]["held_out"],
        resamples=0,
        significance=STUDY["dissection"]["significance"],
        seed=SEED,
        world_words=STUDY["concepts"] == "world",
        extensions=lambda wildcards: registered("similarity", [wildcards.similarity]),
    message:
        "Label neurons of {wildcards.model} ({wildcards.crowd}) by {wildcards.similarity}"


rule judge_dissection:
    input:
        responses=expand(rules.measure_responses.output, model=DISSECTED),
        labels=expand(
            rules.label_by.output.neurons,
            model=DISSECTED,
            similarity=JUDGED,
            crowd=["own", "planted"],
        ),
    output:
        causal=RESULTS / "tables/causal.parquet",
        judged=RESULTS / "tables/dissection_truth.parquet",
    log:
        LOGS / "judge_dissection.log",
    benchmark:
        TIMES / "judge_dissection.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(20),
    params:
        code=code("judge_dissection.py"),
        models=DISSECTED,
        similarities=JUDGED,
        bases=NEURONS.get("bases"),
        clutter=NEURONS.get("clutter"),
        least=NEURONS.get("least"),
        seed=SEED,
    message:
        "Hold the labels of neurons against their causal truth"
    script:
        "../workflow/scripts/judge_dissection.py"


# A job a pair of nets and batch: maps are large.
rule contrast_models:
    input:
        unpack(
            lambda wildcards: explained_files(
                [wildcards.model, wildcards.other], wildcards.batch
            )
        ),
    output:
        BENCH / "contrast-{model}-against-{other}-{batch}.parquet",
    log:
        LOGS / "contrast_models-{model}-{other}-{batch}.log",
    benchmark:
        TIMES / "contrast_models-{model}-{other}-{batch}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(20),
    params:
        code=code("contrast_models.py"),
    message:
        "Contrast explanations of {wildcards.model} with those of {wildcards.other}, batch {wildcards.batch}"
    script:
        "../workflow/scripts/contrast_models.py"


rule summarise_contrast:
    input:
        [
            BENCH
            / f"contrast-{pair['object']}-against-{pair['scene']}-{batch}.parquet"
            for pair in BENCHMARK.get("contrast", [])
            for batch in BATCHES
        ],
    output:
        contrast=RESULTS / "tables/contrast.parquet",
        summary=RESULTS / "tables/contrast_summary.parquet",
    log:
        LOGS / "summarise_contrast.log",
    benchmark:
        TIMES / "summarise_contrast.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        code=code("summarise_contrast.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
    message:
        "Summarise how far explanations move with the model"
    script:
        "../workflow/scripts/summarise_contrast.py"


rule judge_trust:
    input:
        unpack(lambda wildcards: explained_files([wildcards.model], wildcards.batch)),
        agreement=rules.compare_explanations.output,
    output:
        BENCH / "{model}/trust-{batch}.parquet",
    log:
        LOGS / "judge_trust-{model}-{batch}.log",
    benchmark:
        TIMES / "judge_trust-{model}-{batch}.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(20),
    params:
        code=code("judge_trust.py"),
    message:
        "Judge what explanations of {wildcards.model} point at, batch {wildcards.batch}"
    script:
        "../workflow/scripts/judge_trust.py"


rule calibrate_trust:
    input:
        expand(rules.judge_trust.output, model=EXPLAINED, batch=BATCHES),
    output:
        trust=RESULTS / "tables/trust.parquet",
        calibration=RESULTS / "tables/calibration.parquet",
    log:
        LOGS / "calibrate_trust.log",
    benchmark:
        TIMES / "calibrate_trust.tsv"
    conda:
        "../envs/base.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        code=code("calibrate_trust.py"),
        bootstrap=STUDY["agreement"]["bootstrap"],
        seed=SEED,
    message:
        "Calibrate agreement against being right"
    script:
        "../workflow/scripts/calibrate_trust.py"


rule rank_entrants:
    input:
        **ranked_tables(),
    output:
        table=RESULTS / "tables/leaderboard.parquet",
        csv=RESULTS / "tables/leaderboard.csv",
    log:
        LOGS / "rank_entrants.log",
    benchmark:
        TIMES / "rank_entrants.tsv"
    conda:
        "../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("rank_entrants.py"),
        models=[
            {"name": name, "family": model["family"]} for name, model in MODELS.items()
        ],
    message:
        "Rank methods, similarities and metrics"
    script:
        "../workflow/scripts/rank_entrants.py"
