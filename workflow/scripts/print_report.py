"""Print the page of a study."""

from pathlib import Path

from consilience import pdf, steps

with steps.logged(snakemake.log[0]) as log:
    path = snakemake.output[0]
    pages = pdf.print_page(snakemake.input.page, path, snakemake.params.pictures)
    log(f"{pages} pages, {Path(path).stat().st_size / 1e6:.1f} MB")
