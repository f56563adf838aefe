"""Fetch one file of others, or take it from a folder."""

from pathlib import Path

from consilience import assets, steps

with steps.logged(snakemake.log[0]) as log:
    # None of this is a parameter: it does not say what the file is.
    given = snakemake.config
    index = Path("results") / given["study"] / "index" / "assets.json"
    asset = assets.read_indexed(index, snakemake.output[0])
    source = assets.Source(given.get("assets_dir"), given.get("assets_mirror"))
    assets.fetch_asset(asset, log, source)
