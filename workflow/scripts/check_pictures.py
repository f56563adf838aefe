"""See whether any of the pictures can be used."""

from pathlib import Path

from consilience import files, images, steps, tables

with steps.logged(snakemake.log[0]) as log:
    rows = tables.read_rows(snakemake.input, tables.PICTURES)
    usable = images.check_usable(rows)
    log(f"{usable} of {len(rows)} can be used")
    text = f'{{"pictures": {len(rows)}, "usable": {usable}}}\n'
    files.write_atomically(snakemake.output[0], lambda part: Path(part).write_text(text))
