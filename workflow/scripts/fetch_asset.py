"""Fetch one file of others, or take it from a folder."""

from consilience import assets, steps

with steps.logged(snakemake.log[0]) as log:
    asset = assets.read_indexed(snakemake.params.index, snakemake.output[0])
    # Where it comes from is no parameter: it says nothing of what the file is.
    source = assets.Source(
        snakemake.config.get("assets_dir"), snakemake.config.get("assets_mirror")
    )
    assets.fetch_asset(asset, log, source)
