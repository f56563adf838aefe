"""Embed one shard of the probe pictures with CLIP."""

from consilience import clip_encoder, images, progress, steps, store, tables
from consilience.computing import computing, reading_threads

with (
    steps.logged(snakemake.log[0]) as log,
    store.shared(snakemake, log),
    computing(snakemake, log) as device,
):
    params = snakemake.params
    encoder = clip_encoder.load_clip(params.name or snakemake.input.clip[0], device)
    rows = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    rows = [row for row in rows if row["error"] is None]
    pictures = images.read_pictures(
        progress.track(rows, "pictures"), encoder.preprocess_picture, reading_threads(snakemake)
    )
    vectors = encoder.embed_inputs(picture for _, picture in pictures)
    embeddings = [
        {"key": row["name"], "values": vector} for row, vector in zip(rows, vectors, strict=True)
    ]
    tables.write_table(embeddings, snakemake.output[0], tables.EMBEDDINGS)
