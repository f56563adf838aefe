"""Embed one shard of the probe pictures with CLIP."""

from consilience import clip_encoder, images, steps, tables

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    steps.set_threads(params.compute_threads)
    encoder = clip_encoder.load_clip(params.name or snakemake.input.clip[0])
    rows = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    rows = [row for row in rows if row["error"] is None]
    vectors = encoder.embed_pictures(images.read_picture(row) for row in rows)
    embeddings = [
        {"key": row["name"], "values": vector} for row, vector in zip(rows, vectors, strict=True)
    ]
    tables.write_table(embeddings, snakemake.output[0], tables.EMBEDDINGS)
