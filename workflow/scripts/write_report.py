"""Write the report of a study."""

from pathlib import Path

from consilience import explain_params, lime_image, provenance, report, steps, tables

with steps.logged(snakemake.log[0]) as log:
    study, parts = snakemake.params.study, dict(snakemake.input.items())
    weights = parts.pop("weights")
    params = {
        Path(path).parent.name: explain_params.read_params(path)
        for path in parts.pop("explain_params", [])
    }
    content = {
        name: tables.read_rows(
            paths, tables.PICTURES if name == "probe" else getattr(tables, name.upper())
        )
        for name, paths in parts.items()
    }
    content = report.Content(
        study=study,
        explain_params=params,
        versions=provenance.reported_versions(),
        hashes={f"weights: {path}": provenance.hash_file(path) for path in weights},
        **content,
    )
    report.write_report(content, snakemake.output[0], lime_image.outline)
    log(f"{Path(snakemake.output[0]).stat().st_size / 1e6:.1f} MB")
