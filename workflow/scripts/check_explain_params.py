"""Hold a file of explanation parameters against the study's pictures."""

import json
from pathlib import Path

from consilience import explain_params, files, steps, tables

with steps.logged(snakemake.log[0]) as log:
    pictures = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    names = {row["name"] for row in pictures}
    given = explain_params.check_params(snakemake.input.given, names)
    log(f"{len(given)} of {len(names)} pictures have parameters of their own")
    text = json.dumps(sorted(given), indent=1) + "\n"
    files.write_atomically(snakemake.output[0], lambda part: Path(part).write_text(text))
