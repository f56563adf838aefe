"""Write the report of a study."""

from pathlib import Path

from consilience import provenance, report, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params, output, parts = snakemake.params, snakemake.output, dict(snakemake.input.items())
    files = {name: parts.pop(name) for name in ("weights", "data")}
    content = {
        name: tables.read_rows(
            paths,
            tables.PICTURES if name == "probe" else getattr(tables, name.upper()),
            without=params.unread,
        )
        for name, paths in parts.items()
    }
    hashes = {
        f"{kind} {path}": provenance.hash_file(path)
        for kind, paths in (
            ("weights", files["weights"]),
            ("data", files["data"]),
            ("table", params.tables),
        )
        for path in paths
    } | {
        f"all {name}": provenance.hash_pictures(content[name])
        for name in ("pictures", "probe")
        if content.get(name)
    }
    content = report.Content(
        study=params.study,
        registered=params.registered,
        versions=provenance.reported_versions(),
        hashes=hashes,
        times=provenance.read_times(params.times),
        printed=params.printed,
        **content,
    )
    report.write_report(content, output.page, output.get("pictures"))
    log(f"{Path(output.page).stat().st_size / 1e6:.1f} MB")
