"""Embed the concept words, and the class names of the dissected models, with CLIP."""

from consilience import classifiers, clip_encoder, steps, store, tables, words, world
from consilience.computing import computing

with (
    steps.logged(snakemake.log[0]) as log,
    store.shared(snakemake, log),
    computing(snakemake, log) as device,
):
    params = snakemake.params
    if snakemake.input.get("concepts"):
        listed = words.read_concepts(snakemake.input.concepts)
        log(str(listed))
        concepts = listed.words
    else:
        concepts = world.concepts()
    class_names = classifiers.collect_class_names(params.models)
    log(f"{len(class_names)} class names of {len(params.models)} models")
    encoder = clip_encoder.load_clip(params.name or snakemake.input.clip[0], device)
    for keys, path in (
        (concepts, snakemake.output.concepts),
        (class_names, snakemake.output.class_names),
    ):
        vectors = encoder.embed_texts(keys)
        rows = [{"key": key, "values": vector} for key, vector in zip(keys, vectors, strict=True)]
        tables.write_table(rows, path, tables.EMBEDDINGS)
