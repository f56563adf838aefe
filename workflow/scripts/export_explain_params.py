"""Export the parameters that LIME was run with, by picture."""

from consilience import lime_image, steps, tables

with steps.logged(snakemake.log[0]):
    rows = tables.read_rows(snakemake.input, tables.PREDICTIONS)
    params = lime_image.explain_params(snakemake.params.settings, rows)
    lime_image.write_explain_params(params, snakemake.output[0])
