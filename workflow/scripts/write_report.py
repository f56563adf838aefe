"""Write the report of a study."""

from pathlib import Path

from consilience import files, provenance, report, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params, output, parts = snakemake.params, snakemake.output, dict(snakemake.input.items())
    hashed = {name: parts.pop(name) for name in ("weights", "data")}
    content = {
        name: tables.read_rows(
            paths,
            tables.PICTURES if name == "probe" else getattr(tables, name.upper()),
            without=params.unread,
        )
        for name, paths in parts.items()
    }
    hashes = {f"weights {path}": provenance.hash_file(path) for path in hashed["weights"]}
    hashes |= {f"data {Path(path).name}": provenance.hash_file(path) for path in hashed["data"]}
    for name, what in (("pictures", "pictures"), ("probe", "probe pictures")):
        if rows := content.get(name):
            hashes[f"all {len(rows)} {what}"] = provenance.hash_pictures(rows)
    hashes |= {f"table {path}": provenance.hash_file(path) for path in params.tables}
    content = report.Content(
        study=params.study,
        registered=params.registered,
        versions=provenance.reported_versions(),
        hashes=hashes,
        times=provenance.read_times(params.times, params.timed),
        printed=params.printed,
        **content,
    )
    report.write_report(content, output.page, output.get("pictures"))
    files.remove(params.leftovers)
    log(f"{Path(output.page).stat().st_size / 1e6:.1f} MB")
