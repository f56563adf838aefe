"""Join tables of one schema."""

from consilience import steps, tables

with steps.logged(snakemake.log[0]):
    schema = getattr(tables, snakemake.params.schema)
    tables.write_table(tables.read_table(snakemake.input, schema), snakemake.output[0], schema)
