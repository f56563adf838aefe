"""Embed the concept words with CLIP."""

from consilience import clip_encoder, steps, tables, world

with steps.logged(snakemake.log[0]) as log:
    params = snakemake.params
    steps.set_threads(params.compute_threads)
    if snakemake.input.get("concepts"):
        concepts = clip_encoder.read_concepts(snakemake.input.concepts)
        log(str(concepts))
        words = concepts.words
    else:
        words = world.concepts()
    encoder = clip_encoder.load_clip(params.name or snakemake.input.clip[0])
    vectors = encoder.embed_texts(words)
    embeddings = [
        {"key": word, "values": vector} for word, vector in zip(words, vectors, strict=True)
    ]
    tables.write_table(embeddings, snakemake.output[0], tables.EMBEDDINGS)
