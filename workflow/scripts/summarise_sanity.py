"""Join the sanity checks of all models, and judge the methods."""

from consilience import sanity, sheets, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    checked = tables.read_table(snakemake.input, tables.SANITY)
    summary = sanity.summarise_sanity(checked.to_pylist(), params.bootstrap, params.seed)
    for row in summary:
        if "passed" in row:
            said = {True: "passed", False: "failed", None: row.get("reason")}[row["passed"]]
            log(f"{row['model']}, {row['method']}, {row['test']}: {said}")
    tables.write_table(checked, snakemake.output.sanity, tables.SANITY)
    tables.write_table(summary, snakemake.output.summary, tables.SANITY_SUMMARY)
    sheets.write_sheets(snakemake.output.sheets)
