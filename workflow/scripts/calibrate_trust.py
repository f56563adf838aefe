"""Draw calibration curves of agreement against being right."""

from consilience import steps, tables, trust

with steps.logged(snakemake.log[0]) as log:
    params, output = snakemake.params, snakemake.output
    rows = tables.read_rows(snakemake.input, tables.TRUST)
    curves = trust.calibrate(rows, params.bootstrap, params.seed)
    log(f"{len(rows)} pairs of explanations, {len(curves)} points of curves")
    tables.write_table(rows, output.trust, tables.TRUST)
    tables.write_table(curves, output.calibration, tables.CALIBRATION)
