"""Join tables of one schema."""

from consilience import sheets, steps, tables

with steps.logged(snakemake.log[0]):
    schema = getattr(tables, snakemake.params.schema)
    table = tables.read_table(snakemake.input, schema)
    tables.write_table(table, snakemake.output.table, schema)
    sheets.write_sheets(snakemake.output.sheets)
