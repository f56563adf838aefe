"""Join how right the explanations of all pictures are, and summarise it by clutter level."""

from consilience import localization, sheets, steps, tables

with steps.logged(snakemake.log[0]):
    params, source, target = snakemake.params, snakemake.input, snakemake.output
    pictures = tables.read_rows(source.pictures, tables.PICTURES)
    rows = tables.read_table(source.localization, tables.LOCALIZATION)
    tables.write_table(rows, target.localization, tables.LOCALIZATION)
    summary = localization.summarise_localization(
        rows.to_pylist(), pictures, params.bootstrap, params.seed, params.wrong_of
    )
    tables.write_table(summary, target.localization_summary, tables.LOCALIZATION_SUMMARY)
    sheets.write_sheets(target.sheets)
