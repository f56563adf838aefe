"""Check the study's models, layers and classes."""

import json
from pathlib import Path

from consilience import check, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    found = check.check_models(params.models, params.layers, params.target, params.explained, log)
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    tables.write_atomically(snakemake.output[0], lambda part: Path(part).write_text(text))
