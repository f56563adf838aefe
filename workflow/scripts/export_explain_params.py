"""Export the parameters that LIME was run with, by picture."""

from consilience import explain_params, steps, tables

with steps.logged(snakemake.log[0]):
    params, given = snakemake.params, snakemake.input.get("given")
    predictions = tables.read_rows(snakemake.input.predictions, tables.PREDICTIONS)
    names = {row["picture"] for row in predictions}
    by_picture = explain_params.resolve_params(params.settings, names, given or None)
    collected = explain_params.collect_params(by_picture, predictions, params.num_features)
    explain_params.write_params(collected, snakemake.output[0])
