"""Summarise over base pictures how far explanations move with the model."""

from consilience import contrast, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params, output = snakemake.params, snakemake.output
    rows = tables.read_rows(snakemake.input, tables.CONTRAST)
    summary = contrast.summarise_contrast(rows, params.bootstrap, params.seed)
    for row in summary:
        if row["metric"] == contrast.PRIMARY and row["move"] is not None:
            log(
                f"{row['object_model']} against {row['scene_model']}, {row['method']}"
                f"{', causal' if row['causal'] else ''}: {row['move']:.3f}, {row['bases']} bases"
            )
    tables.write_table(rows, output.contrast, tables.CONTRAST)
    tables.write_table(summary, output.summary, tables.CONTRAST_SUMMARY)
