# A short job before all others: what only the models themselves can tell to be wrong.


# There only as long as its answer is not. Were it to run again, for whichever reason (a question that
# has changed, another weight's file, -R), Snakemake would not look at what comes after it: it takes
# all that descends from a job that runs as settled, and then, as its output is ancient() to them,
# leaves them as they are. So a question that has changed is answered in onstart, before any job.
if not ANSWER_FILE.is_file():

    rule check:
        input:
            [ancient(asset.path) for asset in PINNED + NAMED],
        output:
            ANSWER_FILE,
        log:
            LOGS / "check.log",
        benchmark:
            TIMES / "check.tsv"
        # It loads files of the user's, which may register a CAM.
        conda:
            "../envs/explain.yaml"
        threads: 1
        resources:
            mem_mb=growing(2000),
            runtime=growing(10),
        params:
            question=str(QUESTION_FILE),
        message:
            "Check the study's models, layers and classes"
        script:
            "../workflow/scripts/check_study.py"


onstart:
    begin_run()
    list_times()
    write_groups()
    answer_question()
