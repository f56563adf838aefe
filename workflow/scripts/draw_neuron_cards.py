"""Draw the cards of a model's neurons."""

from consilience import cards, steps, tables

with steps.logged(snakemake.log[0]) as log:
    neurons = tables.read_rows(snakemake.input.neurons, tables.NEURONS)
    pictures = tables.read_rows(snakemake.input.pictures, tables.PICTURES)
    pages = cards.write_cards(neurons, pictures, snakemake.output[0])
    log(f"{len(pages)} pages")
