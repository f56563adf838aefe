"""What reruns after which change: docs/invalidation.md, row by row.

The study explains photographs in three batches with one model and dissects two models on three
shards of probe pictures. Each change is made in a copy of one finished checkout, and the steps that
a dry run then lists are held against a set that was written down beforehand.

What a step computes does not matter here, only what it is recorded to have been made from. So the
checkout is finished by ``snakemake --touch``, with empty files for results. `make soak` runs the
study instead and repeats all of this.
"""

import base64
import os
import random
import re
import shutil
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import dry_runs
from conftest import REPOSITORY
from consilience import images
from dry_runs import describe, name_steps

pytestmark = pytest.mark.slow

BATCHES = SHARDS = ("0", "1", "2")
METHODS = ("grad-cam", "layer-cam")
STUDY = {
    "study": "own",
    "world": None,
    "models": [
        {
            "name": "a",
            "architecture": "nets:make_net",
            "arguments": {"width": 6},
            "checkpoint": "data/a.safetensors",
            "classes": "data/classes.txt",
            "transform": {"resize": 32, "crop": 32},
            "cam_layer": "second",
            "dissect_layers": ["second", "head"],
        },
        {
            "name": "b",
            "architecture": "nets:make_net",
            "arguments": {"width": 8},
            "checkpoint": "data/b.safetensors",
            "classes": "data/classes.txt",
            "transform": {"resize": 32, "crop": 32},
            "dissect_layers": ["second"],
            "explain": False,
        },
    ],
    "pictures": [{"folder": "data/photographs", "labels": "data/labels.csv"}],
    "batches": len(BATCHES),
    "probe": [{"folder": "data/probe"}],
    "shards": len(SHARDS),
    "concepts": "data/words.txt",
    "clip": {"train": None, "path": "data/clip.pt"},
    "dissection": {"soft-wpmi": {"top_k": 5, "a": 2}, "resamples": 2},
    "target": 1,
    "cam": {"methods": list(METHODS)},
    "lime": {"num_samples": 20, "repeats": 1, "segmentation": "slic"},
    "agreement": {"metrics": ["spearman", "iou"], "draws": 2},
    "faithfulness": {"steps": 2, "road": [0.5]},
    "sanity": {"pictures": 1, "methods": ["grad-cam"], "stages": ["head"]},
}
NETS = '''
"""A net."""
from collections import OrderedDict

from torch import nn


def make_net(width):
    layers = {
        "first": nn.Conv2d(3, width, 3, padding=1),
        "bend": nn.ReLU(),
        "second": nn.Conv2d(width, 8, 3, padding=1),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "head": nn.Linear(8, 3),
    }
    return nn.Sequential(OrderedDict(layers))
'''


# More than Snakemake compares by content of itself.
LARGE = bytes(1_100_000)

# The study's steps, by what they are for.


def of_batches(rule, batches=BATCHES, **others):
    """A rule's steps for batches; ``others`` are its other wildcards' values."""
    names = sorted(["batch", *others])
    values = {"batch": batches, **{name: [value] for name, value in others.items()}}
    return {describe(rule, *chosen) for chosen in product(*(values[name] for name in names))}


def explained_by(methods=METHODS, batches=BATCHES):
    return {
        step
        for method in methods
        for step in of_batches("explain_cam", batches, method=method, model="a")
    }


def lime(batches=BATCHES):
    """LIME and what only it is needed for."""
    return (
        of_batches("explain_lime", batches, model="a")
        | repeated_lime(batches)
        | {"export_explain_params of a"}
    )


def repeated_lime(batches=BATCHES):
    return of_batches("repeat_lime", batches, model="a") | {"gather_lime_stability"}


PAGE = {"write_report", "print_report"}
JUDGED = {"judge_study"} | PAGE
SANITY = {"check_sanity of a", "summarise_sanity"} | PAGE


def agreed(batches=BATCHES):
    """What follows when the explanations of some batches change."""
    return of_batches("compare_explanations", batches, model="a") | {"summarise_agreement"} | JUDGED


def drawn(batches=BATCHES):
    return of_batches("draw_thumbnails", batches, model="a") | PAGE


def measured(batches=BATCHES):
    """The same of what is drawn, and held against masks and against the model."""
    return (
        drawn(batches)
        | of_batches("score_localization", batches, model="a")
        | {"summarise_localization"}
        | faithful(batches)
    )


def faithful(batches=BATCHES):
    return (
        of_batches("measure_faithfulness", batches, model="a") | {"summarise_faithfulness"} | JUDGED
    )


def asked(batches=BATCHES):
    """All that follows when pictures of some batches, or what is asked about them, change."""
    return (
        of_batches("predict", batches, model="a")
        | {"gather_predictions"}
        | explained_by(batches=batches)
        | lime(batches)
        | agreed(batches)
        | measured(batches)
        | SANITY
    )


def shown(batches):
    """What a picture of each of these batches that changes, comes or goes is shown to."""
    return of_batches("gather_pictures", batches) | asked(batches)


def labelled(*models):
    """What follows when the activations of models change, or what they are held against."""
    return (
        {describe("label_neurons", "0", model) for model in models}
        | {describe("draw_neuron_cards", model) for model in models}
        | {"compare_models"}
        | JUDGED
    )


def recorded(models=("a", "b"), shards=SHARDS, group="0"):
    return {
        describe("extract_activations", group, model, shard)
        for model, shard in product(models, shards)
    }


def untrained(models=("a", "b"), shards=SHARDS, group="0"):
    return {
        describe("extract_untrained", group, model, shard)
        for model, shard in product(models, shards)
    }


def embedded(shards=SHARDS):
    return {describe("embed_probe", shard) for shard in shards}


def probed(shards):
    """What a probe picture of each of these shards that changes, comes or goes is shown to."""
    return (
        {describe("gather_probe", shard) for shard in shards}
        | embedded(shards)
        | recorded(shards=shards)
        | untrained(shards=shards)
        | labelled("a", "b")
    )


COMPUTED = asked() | embedded() | {"embed_concepts"} | recorded() | untrained() | labelled("a", "b")
GATHERED = of_batches("gather_pictures") | {describe("gather_probe", shard) for shard in SHARDS}
EVERYTHING = COMPUTED | GATHERED | {"check"}


# The checkout.


def names_in(batch, count, prefix="n"):
    """Names of pictures that are dealt to a batch, of three."""
    names = (f"{prefix}{number:03d}.png" for number in range(1000))
    return [name for name in names if images.batch_of(name, 3) == int(batch)][:count]


def draw(path, seed):
    """Write a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_checkout(folder):
    """Make a checkout with the study's files, and nothing run."""
    folder.mkdir(exist_ok=True)
    leave = shutil.ignore_patterns("__pycache__", "slurm")
    for name in ("Snakefile", "config.yaml", "rules", "workflow", "profiles", "envs", "studies"):
        place = REPOSITORY / name
        copy = shutil.copytree if place.is_dir() else shutil.copy2
        copy(place, folder / name, **({"ignore": leave} if place.is_dir() else {}))
    for batch in BATCHES:
        for seed, name in enumerate(names_in(batch, 2)):
            draw(folder / "data/photographs" / name, seed)
        for seed, name in enumerate(names_in(batch, 6)):
            draw(folder / "data/probe" / name, seed)
    (folder / "data/classes.txt").write_text("cat\ndog\nowl\n")
    (folder / "data/words.txt").write_text("fur\nfeather\nwater\n")
    (folder / "data/labels.csv").write_text(f"name,label\n{names_in(0, 1)[0]},cat\n")
    (folder / "nets.py").write_text(NETS)
    (folder / "studies/own.yaml").write_text(yaml.safe_dump(STUDY))
    for name in ("a.safetensors", "b.safetensors", "clip.pt"):
        (folder / "data" / name).write_bytes(LARGE)


OWN = ("--configfile", "studies/own.yaml")


@pytest.fixture(scope="module")
def server():
    return dry_runs.server()


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """A checkout with the study finished, its results empty files."""
    folder = tmp_path_factory.mktemp("finished")
    make_checkout(folder)
    _, jobs = server.run(folder, "-n", *OWN)
    assert name_steps(jobs) == EVERYTHING
    for name in [name for job in jobs for name in job["output"]]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.name == "cards" else path.write_text("")
    (folder / "results/own/explain/a/views-0.parquet").write_bytes(LARGE)
    check = folder / "results/own/check.json"
    check.unlink()  # its content is read before each run, and would be wanted
    server.run(folder, "--touch", "--forceall", "--cores", "1", *OWN)
    check.write_text("{}")
    return folder


@pytest.fixture
def checkout(finished, tmp_path):
    """A copy to change, all times as they are."""
    return Path(shutil.copytree(finished, tmp_path / "checkout", symlinks=True))


# Changes.


def restudy(**changes):
    """Change keys of the study, those of mappings one by one."""

    def change(checkout):
        study = yaml.safe_load((checkout / "studies/own.yaml").read_text())
        for key, value in changes.items():
            study[key] = study[key] | value if isinstance(value, dict) else value
        (checkout / "studies/own.yaml").write_text(yaml.safe_dump(study))

    return change


def together(*changes):
    def change(checkout):
        for each in changes:
            each(checkout)

    return change


def remodel(model, **changes):
    """Change keys of a model of the study."""
    models = [entry | changes if entry["name"] == model else entry for entry in STUDY["models"]]
    return restudy(models=models)


def edit(path, old, new):
    """Replace a text in a file; all places where it stands."""

    def change(checkout):
        text = (checkout / path).read_text()
        assert old in text
        (checkout / path).write_text(text.replace(old, new))

    return change


def append(path, text):
    def change(checkout):
        with open(checkout / path, "a") as file:
            file.write(text)

    return change


def picture(batch, kind="photographs", new=False):
    return f"data/{kind}/{names_in(batch, 9)[8] if new else names_in(batch, 1)[0]}"


def add(path):
    return lambda checkout: draw(checkout / path, 99)


def remove(path):
    return lambda checkout: (checkout / path).unlink()


def rename(path, new):
    return lambda checkout: (checkout / path).rename(checkout / new)


def upgrade(package):
    """Put a newer version of a package where Python looks first."""

    def change(checkout):
        folder = checkout / "newer" / f"{package.replace('-', '_')}-99.dist-info"
        folder.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 99\n"
        (folder / "METADATA").write_text(metadata)

    return change


def all_files(checkout):
    """Every file, results and Snakemake's own notes included, in an order of no meaning."""
    files = sorted(path for path in checkout.rglob("*") if path.is_file())
    random.Random(0).shuffle(files)
    return files


def touch_all(checkout):
    """Give every file another time, a thousandth of a second apart."""
    now = time.time_ns()
    for number, path in enumerate(all_files(checkout)):
        os.utime(path, ns=(now + number * 10**6,) * 2)


def comment(checkout):
    for path in ("config.yaml", "studies/own.yaml"):
        text = (checkout / path).read_text().replace("\n", " # why?\n", 1)
        (checkout / path).write_text(f"# How?\n\n{text}# The end.\n")


def reorder(checkout):
    study = {key: STUDY[key] for key in reversed(STUDY)}
    study["lime"] = {key: STUDY["lime"][key] for key in reversed(STUDY["lime"])}
    (checkout / "studies/own.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def ask_for_more(checkout):
    for path in (checkout / "rules").glob("*.smk"):
        text = re.sub(r"growing\(\d+\)", "growing(12345)", path.read_text())
        path.write_text(re.sub(r"^    threads: .*$", "    threads: 3", text, flags=re.MULTILINE))


LIBRARY = "workflow/consilience"
# As a new version of the workflow may: nothing that descends from a step that runs again is looked
# at by Snakemake, and all steps descend from the check.
RECHECK = edit("rules/check.smk", "question=str(QUESTION_FILE),", "question=0,")
OF_LIME = lime() | agreed() | measured() | SANITY
CHANGES = {
    "nothing": (lambda checkout: None, set()),
    # Pictures.
    "picture added": (add(picture(1, new=True)), shown("1")),
    "picture changed": (add(picture(1)), shown("1")),
    "picture removed": (remove(picture(2)), shown("2")),
    "picture renamed": (rename(picture(1), picture(2, new=True)), shown("12")),
    "picture labelled": (append("data/labels.csv", f"{names_in(2, 1)[0]},dog\n"), shown("2")),
    "probe picture added": (add(picture(1, "probe", new=True)), probed("1")),
    "probe picture changed": (add(picture(0, "probe")), probed("0")),
    "probe picture removed": (remove(picture(0, "probe")), probed("0")),
    "probe picture renamed": (
        rename(picture(1, "probe"), picture(0, "probe", new=True)),
        probed("01"),
    ),
    # Words.
    "concept added": (append("data/words.txt", "wool\n"), {"embed_concepts"} | labelled("a", "b")),
    "class renamed": (
        edit("data/classes.txt", "owl", "eagle"),
        asked() | recorded() | untrained() | {"embed_concepts"} | labelled("a", "b"),
    ),
    # Dissection.
    "similarity": (restudy(dissection={"similarity": "rank-reorder"}), labelled("a", "b")),
    "its parameter": (
        restudy(dissection={"soft-wpmi": {"top_k": 5, "a": 3}}),
        labelled("a", "b"),
    ),
    "layer added": (
        remodel("a", dissect_layers=["first", "second", "head"]),
        recorded("a", group="1")
        | untrained("a", group="1")
        | {"label_neurons of 1, a", "draw_neuron_cards of a", "compare_models"}
        | JUDGED,
    ),
    "layer removed": (remodel("a", dissect_layers=["second"]), labelled("a")),
    "layers in another order": (
        remodel("a", dissect_layers=["head", "second"]),
        {"compare_models"} | JUDGED,
    ),
    "pooling": (remodel("b", pool="max"), recorded("b") | untrained("b") | labelled("b")),
    # Explanations.
    "LIME's samples": (restudy(lime={"num_samples": 30}), lime() | agreed() | measured()),
    "LIME's repeats": (restudy(lime={"repeats": 2}), repeated_lime() | agreed()),
    "LIME's features": (
        restudy(lime={"num_features": 3}),
        {"export_explain_params of a"} | drawn(),
    ),
    "parameter of another segmentation": (restudy(lime={"quickshift": {"ratio": 0.5}}), PAGE),
    "CAM added": (
        restudy(cam={"methods": [*METHODS, "score-cam"]}),
        explained_by(["score-cam"]) | agreed() | measured(),
    ),
    "CAM removed": (restudy(cam={"methods": ["grad-cam"]}), agreed() | measured()),
    "CAM's layer": (
        remodel("a", cam_layer="first"),
        explained_by() | agreed() | measured() | SANITY,
    ),
    "target": (restudy(target=2), asked()),
    # What is made of them.
    "faithfulness": (restudy(faithfulness={"steps": 3}), faithful()),
    "sanity": (restudy(sanity={"pictures": 2}), SANITY),
    "value that another parameter has": (restudy(sanity={"pictures": 32}), SANITY),
    "agreement": (restudy(agreement={"draws": 3}), agreed()),
    "bootstrap": (
        restudy(agreement={"bootstrap": 100}),
        {f"summarise_{what}" for what in ("agreement", "localization", "faithfulness", "sanity")}
        | JUDGED,
    ),
    # All together.
    "seed": (
        restudy(seed=1),
        untrained() | labelled("a", "b") | OF_LIME,
    ),
    "compute threads": (restudy(compute_threads=2), COMPUTED),
    "weights": (
        append("data/a.safetensors", "."),
        recorded("a") | labelled("a") | asked(),
    ),
    "weights of the CLIP": (
        append("data/clip.pt", "."),
        embedded() | {"embed_concepts"} | labelled("a", "b"),
    ),
    "code of the user's net": (
        edit("nets.py", "nn.ReLU()", "nn.ELU()"),
        recorded() | untrained() | labelled("a", "b") | asked(),
    ),
    # Code.
    "module for one act": (append(f"{LIBRARY}/similarity.py", "_ = 0\n"), labelled("a", "b")),
    "module imported by many": (append(f"{LIBRARY}/lime_image.py", "_ = 0\n"), OF_LIME),
    "module imported by others only": (append(f"{LIBRARY}/convolution.py", "_ = 0\n"), COMPUTED),
    "module for no step": (append(f"{LIBRARY}/submit.py", "_ = 0\n"), set()),
    "comment in a module": (append(f"{LIBRARY}/images.py", "# The end.\n"), set()),
    "script": (
        append("workflow/scripts/summarise_sanity.py", "_ = 0\n"),
        SANITY - {"check_sanity of a"},
    ),
    "comment in a script": (append("workflow/scripts/predict.py", "# The end.\n"), set()),
    "comment in the user's net": (append("nets.py", "# The end.\n"), set()),
    "version of lime": (upgrade("lime"), OF_LIME),
    "version of scikit-learn": (upgrade("scikit-learn"), OF_LIME | explained_by()),
    "version of matplotlib": (upgrade("matplotlib"), PAGE),
    "version of tqdm": (upgrade("tqdm"), set()),
    "rule of the check": (RECHECK, set()),
    "rule of the check, and a similarity": (
        together(RECHECK, restudy(dissection={"similarity": "rank-reorder"})),
        labelled("a", "b"),
    ),
    # Words on the page.
    "title": (restudy(title="Another"), PAGE),
    "template": (append("workflow/report/report.html.j2", " "), PAGE),
    "template on paper": (append("workflow/report/report.typ", "\n"), {"print_report"}),
    "caption": (append("workflow/report/captions/page.rst", "Seen.\n"), set()),
    # What means nothing.
    "comment in the configuration": (comment, set()),
    "order in the configuration": (reorder, set()),
    "threads and memory in the rules": (ask_for_more, set()),
    "threads and memory in the profile": (
        append(
            "profiles/default/config.yaml",
            "set-threads: {explain_cam: 2}\nset-resources: {explain_lime: {mem_mb: 9000}}\n",
        ),
        set(),
    ),
    "touched": (touch_all, set()),
}


# What the suite tries one by one; the others take as long again, and wait for `make soak`.
EACH = (
    "picture added",
    "picture removed",
    "picture renamed",
    "probe picture added",
    "concept added",
    "similarity",
    "layer added",
    "LIME's samples",
    "CAM added",
    "CAM's layer",
    "target",
    "value that another parameter has",
    "seed",
    "weights",
    "module for one act",
    "module imported by many",
    "module imported by others only",
    "version of scikit-learn",
    "rule of the check, and a similarity",
    "template",
)
TRIED = [
    pytest.param(*case, id=name, marks=[] if name in EACH else pytest.mark.soak)
    for name, case in CHANGES.items()
]


def steps_after(server, checkout, change):
    change(checkout)
    return server.steps(checkout, *OWN, path=[checkout / "newer"])


@pytest.mark.parametrize(("change", "expected"), TRIED)
def test_a_change_reruns_what_it_must_and_no_more(server, checkout, change, expected):
    assert steps_after(server, checkout, change) == expected


def test_what_means_nothing_reruns_nothing_all_at_once(server, checkout):
    means_nothing = [change for change, expected in CHANGES.values() if not expected]
    assert len(means_nothing) > 9
    for change in means_nothing:
        change(checkout)
    assert server.steps(checkout, *OWN, path=[checkout / "newer"]) == set()


def test_a_copy_elsewhere_runs_nothing(server, finished, tmp_path):
    copy = Path(shutil.copytree(finished, tmp_path / "elsewhere", copy_function=shutil.copyfile))
    touch_all(copy)  # as a copy that keeps no times, in an order of no meaning
    assert server.steps(copy, *OWN) == set()


def test_a_dry_run_of_another_study_leaves_no_trace(server, checkout):
    study = (checkout / "studies/own.yaml").read_text()
    remodel("a", dissect_layers=["first", "second"], precision="bfloat16")(checkout)
    remodel("b", architecture="resnet18", arguments={})(checkout)
    add(picture(1, new=True))(checkout)
    assert server.steps(checkout, *OWN)
    (checkout / "studies/own.yaml").write_text(study)
    remove(picture(1, new=True))(checkout)
    assert server.steps(checkout, *OWN) == set()


def test_a_result_without_a_record_is_made_again(server, checkout):
    """As a step leaves it that ends on a cluster when Snakemake has been killed."""
    key = base64.urlsafe_b64encode(b"results/own/explain/a/lime-1.parquet").decode()
    (checkout / ".snakemake/metadata" / key).unlink()
    expected = (lime("1") - {"export_explain_params of a"}) | agreed("1") | measured("1")
    assert server.steps(checkout, *OWN) == expected
    assert server.steps(checkout, *OWN) == expected  # it stays so until it is done


# The same of a study that ran.


def make_weights(checkout):
    """Put weights in place that the study can run with; random ones."""
    import torch
    from safetensors.torch import save_file

    from consilience import clip_training

    sys.path.insert(0, str(checkout))
    try:
        from nets import make_net
    finally:
        sys.path.remove(str(checkout))
    for name in ("a", "b"):
        torch.manual_seed(0)
        arguments = next(entry["arguments"] for entry in STUDY["models"] if entry["name"] == name)
        save_file(make_net(**arguments).state_dict(), checkout / f"data/{name}.safetensors")
    clip_training.save_clip(clip_training.build_small_clip(0), checkout / "data/clip.pt")


@pytest.mark.soak
def test_a_study_that_ran_reruns_the_same(server, tmp_path):
    ran = tmp_path / "ran"
    make_checkout(ran)
    make_weights(ran)
    server.run(ran, "--cores", "2", *OWN)
    wrong = {}
    for name, (change, expected) in CHANGES.items():
        copy = Path(shutil.copytree(ran, tmp_path / "copy"))
        found = steps_after(server, copy, change)
        if found != expected:
            wrong[name] = {"missing": expected - found, "too many": found - expected}
        shutil.rmtree(copy)
    assert wrong == {}


@pytest.mark.soak
def test_a_study_that_grew_gives_what_it_gives_at_once(server, tmp_path):
    """Layers, pictures and methods that come later leave the tables as if they had been there."""
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    for folder in (grown, whole):
        make_checkout(folder)
        make_weights(folder)
    server.run(grown, "--cores", "2", *OWN)
    changes = [
        remodel("a", dissect_layers=["first", "second", "head"]),
        add(picture(1, new=True)),
        add(picture(2, "probe", new=True)),
        append("data/words.txt", "wool\n"),
        restudy(cam={"methods": [*METHODS, "eigen-cam"]}),
    ]
    for change in changes:
        change(grown)
        change(whole)
        server.run(grown, "--cores", "2", *OWN)
    server.run(whole, "--cores", "2", *OWN)
    tables = sorted((whole / "results/own/tables").iterdir())
    assert len(tables) > 15
    for path in [*tables, *(whole / "results/own/explain/a").iterdir()]:
        assert (grown / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.name
