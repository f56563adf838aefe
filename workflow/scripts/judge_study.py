"""Answer the study's questions, ask whether agreement tells right from wrong, and judge claims."""

from consilience import claims, correctness, questions, sheets, steps, tables

with steps.logged(snakemake.log[0]) as log:
    given, output, params = snakemake.input, snakemake.output, snakemake.params
    pictures = tables.read_rows(given.pictures, tables.PICTURES)
    predictions = tables.read_rows(given.predictions, tables.PREDICTIONS)
    agreement = tables.read_rows(given.agreement, tables.AGREEMENT)
    localization = tables.read_rows(given.localization, tables.LOCALIZATION)
    faithfulness = tables.read_rows(given.faithfulness, tables.FAITHFULNESS)
    comparison = tables.read_rows(given.comparison, tables.COMPARISON)
    models = [row["model"] for row in predictions]
    draws = {"resamples": params.bootstrap, "seed": params.seed}

    source = questions.collect_sources(
        predictions, pictures, agreement, localization, faithfulness, params.cams
    )
    answers = questions.answer_questions(source, models, params.primary, **draws)
    tables.write_table(answers, output.questions, tables.QUESTIONS)
    log(f"{len(answers)} questions")

    found = correctness.predict_correctness(
        predictions,
        pictures,
        agreement,
        localization,
        params.cams[0] if params.cams else None,
        params.primary,
        params.drawn_for,
        **draws,
    )
    tables.write_table(found, output.correctness, tables.CORRECTNESS)

    verdicts = claims.judge_claims(
        source,
        predictions,
        agreement,
        claims.read_sharpness(given.heatmaps),
        comparison,
        params.origins,
        params.primary,
        params.top,
        **draws,
    )
    tables.write_table(verdicts, output.claims, tables.CLAIMS)
    sheets.write_sheets(output.sheets)
    for row in verdicts:
        log(f"{row['claim']}: {row['verdict']}")
