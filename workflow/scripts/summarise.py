"""Join the measures of all pictures, and summarise them by clutter level."""

from consilience import agreement, localization, steps, tables

with steps.logged(snakemake.log[0]):
    params, source, target = snakemake.params, snakemake.input, snakemake.output
    pictures = tables.read_rows(source.pictures, tables.PICTURES)
    agreed = tables.read_table(source.agreement, tables.AGREEMENT)
    located = tables.read_table(source.localization, tables.LOCALIZATION)
    tables.write_table(agreed, target.agreement, tables.AGREEMENT)
    tables.write_table(located, target.localization, tables.LOCALIZATION)
    for rows, summarise, path, schema in (
        (agreed, agreement.summarise_agreement, target.agreement_summary, tables.AGREEMENT_SUMMARY),
        (
            located,
            localization.summarise_localization,
            target.localization_summary,
            tables.LOCALIZATION_SUMMARY,
        ),
    ):
        summary = summarise(rows.to_pylist(), pictures, params.bootstrap, params.seed)
        tables.write_table(summary, path, schema)
