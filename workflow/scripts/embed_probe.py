"""Embed one shard of the probe pictures with CLIP."""

from consilience import clip_encoder, images, progress, steps, store, tables
from consilience.computing import computing

with (
    steps.logged(snakemake.log[0]) as log,
    store.shared(snakemake, log),
    computing(snakemake, log) as device,
):
    params = snakemake.params
    encoder = clip_encoder.load_clip(params.name or snakemake.input.clip[0], device)
    rows = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    rows = [row for row in rows if row["error"] is None]
    waiting = progress.track(rows, "pictures")
    vectors = encoder.embed_pictures(images.read_picture(row) for row in waiting)
    embeddings = [
        {"key": row["name"], "values": vector} for row, vector in zip(rows, vectors, strict=True)
    ]
    tables.write_table(embeddings, snakemake.output[0], tables.EMBEDDINGS)
