"""Train the small CLIP on the world's pictures and captions, and measure it on held-out ones."""

from consilience import clip_encoder, clip_training, steps, store, tables, world
from consilience.computing import computing

with (
    steps.logged(snakemake.log[0]) as log,
    store.shared(snakemake, log),
    computing(snakemake, log) as device,
):
    params = snakemake.params
    data = tables.read_arrays(snakemake.input.training)
    words = {"object": world.OBJECTS, "scene": world.SCENES, "colour": world.COLOURS}
    captions = world.caption_training_set(params.seed, "training", 0, len(data["images"]))
    model = clip_training.train_clip(
        data,
        words,
        world.ABSENT_CONCEPTS,
        captions,
        params.settings,
        params.seed + params.settings["seed"],
        log,
        device,
    )
    clip_training.save_clip(model, snakemake.output.weights)
    encoder = clip_encoder.load_clip(snakemake.output.weights, device)
    held_out = tables.read_arrays(snakemake.input.held_out)
    rows = clip_training.evaluate_clip(encoder, held_out, words, params.clutter)
    for row in rows:
        log(f"zero-shot {row['target']}, clutter {row['clutter']}: {row['accuracy']:.3f}")
    tables.write_table(rows, snakemake.output.accuracy, tables.ACCURACY)
