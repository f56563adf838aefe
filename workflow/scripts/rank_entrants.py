"""Write the leaderboard, as a table and as CSV."""

from consilience import leaderboard, steps, tables

with steps.logged(snakemake.log[0]) as log:
    found = {
        "trusted" if name == "trust" else name: tables.read_rows(
            path, getattr(tables, name.upper())
        )
        for name, path in snakemake.input.items()
    }
    rows = leaderboard.build_leaderboard(snakemake.params.models, **found)
    for row in rows:
        log(
            f"{row['board']}: {row['entrant']}, {row['measure']} on {row['measured_on']}: "
            f"{row['value']:.3f}"
        )
    tables.write_table(rows, snakemake.output.table, tables.LEADERBOARD)
    leaderboard.write_csv(rows, snakemake.output.csv)
