"""Join the faithfulness of all explanations, and summarise it by clutter level."""

from consilience import faithfulness, registry, sheets, steps, tables

with steps.logged(snakemake.log[0]):
    params, source, target = snakemake.params, snakemake.input, snakemake.output
    registry.load(params.extensions)
    pictures = tables.read_rows(source.pictures, tables.PICTURES)
    measured = tables.read_table(source.faithfulness, tables.FAITHFULNESS)
    tables.write_table(measured, target.faithfulness, tables.FAITHFULNESS)
    summary = faithfulness.summarise_faithfulness(
        measured.to_pylist(), pictures, params.bootstrap, params.seed
    )
    tables.write_table(summary, target.summary, tables.FAITHFULNESS_SUMMARY)
    sheets.write_sheets(target.sheets)
