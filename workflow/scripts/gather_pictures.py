"""Gather one batch of a study's pictures: render them, or describe the files of a folder."""

from consilience import images, index, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    settings = snakemake.params.settings
    batch = int(snakemake.wildcards.batch)
    rows = []
    for source in settings["world"]:
        if snakemake.params.kind == "study":
            pictures = world.study_pictures(settings["seed"], **source)
        else:
            pictures = world.probe_pictures(settings["seed"], source["pictures"], source["clutter"])
        mine = {
            name: picture
            for name, picture in pictures.items()
            if images.batch_of(name, settings["batches"]) == batch
        }
        rows += world.describe_rows(mine, settings["size"])
    for path in snakemake.input.get("index", []):
        rows += images.describe_files(index.read_index(path))
    for row in tables.read_rows(snakemake.input.get("wrong", []), tables.PICTURES):
        if images.batch_of(row["name"], settings["batches"]) == batch:
            rows.append(row)
    for row in rows:
        if row.get("error"):
            log(f"skipped: {row['error']}")
    if snakemake.params.on_bad == "stop":
        images.refuse_unusable(rows)
    if not settings["world"] and not snakemake.input.get("wrong"):
        index.check_usable(rows, snakemake.input.others)
    log(f"{len(rows)} pictures")
    tables.write_table(
        sorted(rows, key=lambda row: row["name"]), snakemake.output[0], tables.PICTURES
    )
