"""Check the study's models, layers and classes."""

from consilience import check, steps

with steps.logged(snakemake.log[0]) as log:
    check.answer(snakemake.params.question, snakemake.output[0], log)
