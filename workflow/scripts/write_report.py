"""Write the report of a study."""

import shutil
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
    hashes = {f"weights {path}": provenance.hash_file(path) for path in files["weights"]}
    hashes |= {f"data {Path(path).name}": provenance.hash_file(path) for path in files["data"]}
    for name, what in (("pictures", "pictures"), ("probe", "probe pictures")):
        if rows := content.get(name):
            hashes[f"all {len(rows)} {what}"] = provenance.hash_pictures(rows)
    hashes |= {f"table {path}": provenance.hash_file(path) for path in params.tables}
    content = report.Content(
        study=params.study,
        registered=params.registered,
        versions=provenance.reported_versions(),
        hashes=hashes,
        times=provenance.read_times(params.times),
        printed=params.printed,
        **content,
    )
    beside = output.get("pictures")
    report.write_report(content, output.page, beside)
    # What an earlier page had beside it, and this one has not, would pass for its own.
    if beside is None:
        shutil.rmtree(Path(output.page).with_name("report_pictures"), ignore_errors=True)
    if not params.printed:
        Path(output.page).with_suffix(".pdf").unlink(missing_ok=True)
    log(f"{Path(output.page).stat().st_size / 1e6:.1f} MB")
