"""Join the agreement of all pictures, and summarise it by clutter level."""

from consilience import agreement, registry, sheets, steps, tables

with steps.logged(snakemake.log[0]):
    params, target = snakemake.params, snakemake.output
    registry.load(params.extensions)
    pictures = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    agreed = tables.read_table(snakemake.input.agreement, tables.AGREEMENT)
    tables.write_table(agreed, target.agreement, tables.AGREEMENT)
    summary = agreement.summarise_agreement(
        agreed.to_pylist(), pictures, params.bootstrap, params.seed
    )
    tables.write_table(summary, target.summary, tables.AGREEMENT_SUMMARY)
    sheets.write_sheets(target.sheets)
