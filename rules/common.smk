# What the rules share: the study, its models, and helper functions. No rules.
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from consilience import (
    configuration,
    devices,
    extensions,
    files,
    index,
    outlook,
    provenance,
    runs,
    store,
)
from consilience.errors import ConsilienceError
from consilience.similarity import SIMILARITIES
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile
from snakemake.logging import logger
from snakemake.persistence.file import FilePersistence
from snakemake.settings.enums import Quietness

SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"

try:
    STUDY = configuration.resolve_study(config)  # assets.smk has looked at its files
    # What files of the user's register, without running them.
    REGISTERED = extensions.find_entries(STUDY["extensions"])
    RESULTS = Path("results") / STUDY["study"]
    if workflow.is_main_process:
        configuration.check_files(STUDY)
        files.make_folder(RESULTS)
    # Snakemake grants a rule's `gpu=1` up to this limit, which a profile may have set.
    GPUS = devices.limit_gpus(
        STUDY["device"],
        workflow.global_resources.get("gpu").value,
        workflow.is_main_process,
    )
    workflow.register_resource("gpu", GPUS)
except ConsilienceError as error:
    raise WorkflowError(f"This study cannot run:\n{error}")

LOGS = RESULTS / "logs"
TIMES = RESULTS / "benchmarks"
ACTS = STUDY["acts"]
HOW = configuration.HOW
WORLD = STUDY["world"]
SEED = STUDY["seed"]
THREADS = STUDY["compute_threads"]
# A GPU would wait for pictures that one thread decodes.
READERS = max(THREADS, 8) if GPUS else THREADS
BATCHES = range(STUDY["batches"])
SHARDS = range(STUDY["shards"])
TRAINING_SHARDS = range(WORLD["training"]["shards"]) if WORLD else []
CAM_METHODS = STUDY["cam"]["methods"] if ACTS["cam"] else []
MODELS = {model["name"]: model for model in STUDY["models"]}
TRAINED = [name for name, model in MODELS.items() if "train" in model]
EXPLAINED = [name for name, model in MODELS.items() if model["explain"]]
EXPLAINED = EXPLAINED if ACTS["cam"] or ACTS["lime"] else []
DISSECTED = [name for name, model in MODELS.items() if model["dissect_layers"]]
DISSECTED = DISSECTED if ACTS["dissect"] else []
PUBLISHED = STUDY["published"]
BENCHMARK = STUDY["benchmark"] or {}
BENCH = RESULTS / "benchmark"
NEURONS = BENCHMARK.get("neurons") or {}
# All names that files of the user's register, by kind: the benchmark judges every one.
ADDED = {
    kind: [entry.name for entry in REGISTERED if entry.kind == kind]
    for kind in extensions.KINDS
}
JUDGED = NEURONS.get("similarities") or [*SIMILARITIES, *ADDED["similarity"]]
# What pictures that a model is wrong about are drawn with, and whether any picture is rendered.
WRONG = next((s["wrong"] for s in STUDY["pictures"] if "wrong" in s), {})
RENDERED = any("world" in s or "wrong" in s for s in STUDY["pictures"])


if workflow.is_main_process:
    # What the library says while the folders are read; and how much longer the run takes, beside
    # Snakemake's count of steps (and, with `--quiet progress`, as silent).
    logging.getLogger("consilience").handlers = [outlook.Relay(logger)]
    logging.getLogger("consilience").setLevel(logging.INFO)
    logger.addHandler(
        outlook.Outlook(
            lambda line: logger.info(line, extra={"quietness": Quietness.PROGRESS}),
            TIMES,
            targets=["all"],
        )
    )


wildcard_constraints:
    batch=r"\d+",
    group=r"\d+",
    shard=r"\d+",
    model="|".join(MODELS),
    method="|".join(map(re.escape, STUDY["cam"]["methods"])),
    shortcut=r"[0-9.]+",
    similarity="|".join(map(re.escape, [*SIMILARITIES, *ADDED["similarity"]])),
    crowd="own|planted",
    other="|".join(MODELS),


# glibc gives large tensors back to the system at every layer and takes them again, which costs time
# on some machines (and made no difference on others): here it is told not to. The library reaches
# the scripts by path, not by installation, so that other environments need not have it. Libraries
# compute with the threads that Snakemake grants the step (OMP_NUM_THREADS), and with no more than the
# study's.
shell.prefix(
    "export PYTHONPATH={library} "
    "OMP_NUM_THREADS=$((OMP_NUM_THREADS < {threads} ? OMP_NUM_THREADS : {threads})) "
    "OPENCV_FOR_THREADS_NUM=1 ARROW_IO_THREADS=1 PYTORCH_ENABLE_MPS_FALLBACK=1 "
    "MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 "
    "MALLOC_TOP_PAD_=268435456; ".format(
        library=shlex.quote(str(Path(workflow.basedir) / "workflow")),
        threads=THREADS,
    )
)


@contextmanager
def refusing():
    """Say what is wrong with the study, instead of where in the code it was found."""
    try:
        yield
    except ConsilienceError as error:
        raise WorkflowError(f"This study cannot run:\n{error}")


def write_lists(name):
    """Deal the folders of `pictures` or `probe` into one list a batch, in the main process only.

    Jobs on other nodes parse this file too; they find the lists there.
    """
    batches = {"pictures": BATCHES, "probe": SHARDS}[name]
    folder = RESULTS / "index" / name
    if not any("folder" in source for source in STUDY[name]):
        return {batch: [] for batch in batches}
    if workflow.is_main_process:
        with refusing():
            index.write_index(
                STUDY[name], len(batches), folder, STUDY["on_bad_picture"]
            )
    return {batch: [folder / f"{batch}.json"] for batch in batches}


LISTS = {name: write_lists(name) for name in ("pictures", "probe")}
# What they say when this run begins: a file can be added, and the lists with it, while it goes on.
LISTED = {
    name: (
        dict(enumerate(index.hash_lists(RESULTS / "index" / name)))
        if workflow.is_main_process and any(lists.values())
        else {}
    )
    for name, lists in LISTS.items()
}


# What is kept from one run to the next, and no result.
STATE = Path(".snakemake/consilience")
RUN_LOCK = STATE / f"{STUDY['study']}.run"
KNOWN_CODE = STATE / "code.json"
# The benchmark files of the steps that this run is about, those among them that are done included.
TIMED = STATE / f"{STUDY['study']}.times"


provenance.read_known(KNOWN_CODE)


def begin_run():
    """Take the study for this run alone. Profiles turn Snakemake's own lock off: it outlives a
    Snakemake that is killed, and ending one study takes away another's."""
    with refusing():
        runs.claim_study(RUN_LOCK, RESULTS, logger.info)
    if STUDY["store"]:
        store.Store(STUDY["store"]).prune()


def list_times():
    """Write down, for the page, what the study's steps are measured in; beside it lie files of steps
    that it had under other settings, whose times tell how long those would take again.
    """
    paths = {str(job.benchmark) for job in workflow.dag.jobs if job.benchmark}
    paths.add(str(TIMES / "check.tsv"))  # no step of a run that finds its answer
    with refusing():
        files.write_if_changed(TIMED, "".join(f"{path}\n" for path in sorted(paths)))


def mark_unrecorded():
    """Have steps done again whose results are there without Snakemake's record of them.

    On a cluster, steps go on where Snakemake is killed. What they were made with is written down
    by nobody, so that no change would ever outdate them.
    """
    persistence = FilePersistence()
    found = runs.find_unrecorded(
        RUN_LOCK, RESULTS, lambda path: persistence.metadata(IOFile(path)) is not None
    )
    persistence.started(SimpleNamespace(output=[IOFile(path) for path in found]))


if workflow.is_main_process:
    mark_unrecorded()

# Where Snakemake's own report (`--report`) has each table: category, subcategory, and its title.
SHOWN = {
    "accuracy": ("2 Models", "Accuracy", "Accuracy on held-out pictures"),
    "temperature": ("3 Neurons", "Tables", "Choice of the temperature"),
    "neurons": ("3 Neurons", "Tables", "Neurons and their labels"),
    "concepts": ("3 Neurons", "Tables", "Concepts by frequency"),
    "comparison": ("3 Neurons", "Tables", "Models compared"),
    "predictions": ("4 Explanations", "Predictions", "Predictions"),
    "lime_stability": ("4 Explanations", "LIME", "How far LIME agrees with itself"),
    "agreement": ("5 Cross-examination", "Agreement", "By picture"),
    "agreement_summary": ("5 Cross-examination", "Agreement", "Summary"),
    "faithfulness": ("5 Cross-examination", "Faithfulness", "By picture"),
    "faithfulness_summary": ("5 Cross-examination", "Faithfulness", "Summary"),
    "sanity": ("5 Cross-examination", "Sanity", "By picture"),
    "sanity_summary": ("5 Cross-examination", "Sanity", "Summary"),
    "localization": ("5 Cross-examination", "Truth", "Localisation by picture"),
    "localization_summary": ("5 Cross-examination", "Truth", "Localisation, summary"),
    "effects": ("5 Cross-examination", "Truth", "What the parts of a picture do"),
    "questions": ("6 Verdicts", "Tables", "Questions of this study"),
    "correctness": ("6 Verdicts", "Tables", "Does agreement tell right from wrong?"),
    "claims": ("6 Verdicts", "Tables", "Claims of the original study"),
}


def shown(path, caption, category, subcategory, labels, **patterns):
    """Mark a result for Snakemake's own report; its caption is no input, and reruns nothing."""
    return report(
        path,
        caption=f"../workflow/report/captions/{caption}.rst",
        category=category,
        subcategory=subcategory,
        labels=labels,
        **patterns,
    )


def sheets(*names):
    """Tables as people read them, beside the Parquet files: a page and CSV, for the report too."""
    return [
        shown(
            RESULTS / f"tables/{name}.{ending}",
            name,
            *SHOWN[name][:2],
            {"Table": SHOWN[name][2], "As": form},
        )
        for name in names
        for ending, form in (("html", "page"), ("csv", "spreadsheet (CSV)"))
    ]


def other_lists(name, batch):
    """The lists of the other batches, which a batch looks at if it has no picture of use itself."""
    lists = LISTS[name].items()
    return [ancient(path) for number, own in lists if number != batch for path in own]


def ordered(value):
    """Sort the keys of mappings at every depth: their order in a file means nothing, but
    Snakemake would rerun on it."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [ordered(item) for item in value]
    return value


def code(script, read=()):
    """Digest of a script, the library modules it imports and the packages these use, and of files
    of the workflow's own that it reads.

    Snakemake itself sees neither modules nor package versions. Jobs on a cluster need it too, for
    what studies share; the main process has left them what it found (KNOWN_CODE).
    """
    return provenance.digest(SCRIPTS / script, read)


def name_params():
    """Give every rule a digest of its parameters and their names.

    Snakemake compares the values of all of a rule's parameters as one set: that a seed of 1 and
    2 threads have become a seed of 2 and 1 thread it does not see. Functions of more than the
    wildcards are left out.
    """

    def digest_of(params):
        def evaluate(wildcards):
            found = {
                name: value(wildcards) if callable(value) else value
                for name, value in params.items()
                if not callable(value) or len(signature(value).parameters) == 1
            }
            return sha256(repr(ordered(found)).encode()).hexdigest()[:16]

        return evaluate

    for each in workflow.rules:
        if params := dict(each.params.items()):
            each.set_params(named=digest_of(params))


def registered(kind, names):
    """The files of the user's that register any of these names, with digests of their code."""
    return extensions.select(REGISTERED, [(kind, name) for name in names])


def described_extensions():
    """What files of the user's register, with their docstrings' words, for the page."""
    kept = ("kind", "name", "path", "about")
    return [{key: getattr(entry, key) for key in kept} for entry in REGISTERED]


def end_parsing():
    """What remains when all rules are there; jobs on other nodes can do without."""
    if workflow.is_main_process:
        name_params()
        provenance.write_known(KNOWN_CODE)


def model_spec(name):
    """What loading the model needs to know, and nothing else of its entry in the study."""
    model = MODELS[name]
    keys = [
        "name",
        "architecture",
        "arguments",
        "keep_resolution",
        "precision",
        "classes",
        "preprocessing",
        "transform",
    ]
    spec = {key: model[key] for key in keys + ["weights", "checkpoint"] if key in model}
    if "train" in model:
        from consilience import world

        names = {"object": world.OBJECTS, "scene": world.SCENES}[
            model["train"]["target"]
        ]
        spec["classes"] = list(names)
        spec["transform"] = world.TRANSFORM.to_dict()
    if ":" in model["architecture"]:
        # A function of the user's: steps rerun when its code changes.
        spec["code"] = provenance.digest_module(model["architecture"].split(":")[0])
    return ordered(spec)


def tells(name):
    """What the model tells apart; taken for objects where it was not trained here."""
    return MODELS[name].get("train", {}).get("target", "object")


def naming(name):
    """What finding a model's class names needs to know."""
    spec = model_spec(name)
    keys = ["name", "architecture", "classes", "preprocessing", "weights"]
    return {key: spec[key] for key in keys if key in spec}


def cam_layers(name):
    """The layers that the model's class activation maps are taken from."""
    layers = MODELS[name]["cam_layer"]
    return layers if isinstance(layers, list) else [layers]


def weights_of(name):
    """The file that the model's weights lie in; none where torchvision fetches them."""
    model = MODELS[name]
    if "train" in model:
        return [RESULTS / "models" / name / "weights.safetensors"]
    return [model["checkpoint"]] if "checkpoint" in model else []


def model_files(wildcards):
    """The same as an input function."""
    return weights_of(wildcards.model)


def clip_files(wildcards=None):
    """The file that the CLIP's weights lie in; none where one of OpenAI's is fetched."""
    clip = STUDY["clip"] or {}
    if clip.get("train"):
        return [RESULTS / "clip/weights.pt"]
    return [clip["path"]] if clip.get("path") else []


def training_settings(name):
    """How a model is trained, without what the pictures are rendered by."""
    settings = MODELS[name]["train"]
    return ordered({key: settings[key] for key in settings if key != "shortcut"})


def training_files(wildcards):
    """The pictures that a model is trained on."""
    shortcut = MODELS[wildcards.model]["train"]["shortcut"]
    kind = "training" if shortcut is None else f"shortcut-{shortcut}"
    return [RESULTS / f"world/{kind}-{shard}.npz" for shard in TRAINING_SHARDS]


def untrained_spec(name):
    """The same for a network that was never trained."""
    spec = model_spec(name)
    spec = {key: spec[key] for key in spec if key not in ("weights", "checkpoint")}
    if MODELS[name].get("weights") and not spec.get("preprocessing"):
        # Their class names and preprocessing, but not they themselves.
        spec["preprocessing"] = MODELS[name]["weights"]
    return ordered(spec | {"untrained": SEED})


def similarity_settings():
    """The parameters of the study's similarity, without a temperature that is yet to be chosen."""
    dissection = STUDY["dissection"]
    settings = dissection.get(dissection["similarity"], {})
    return ordered(
        {key: value for key, value in settings.items() if value != "absent-words"}
    )


CHOOSES_TEMPERATURE = bool(DISSECTED) and (
    "absent-words"
    in STUDY["dissection"].get(STUDY["dissection"]["similarity"], {}).values()
)


def lime_settings():
    """What LIME's explanations depend on, of the segmentations the chosen one only."""
    settings = dict(STUDY["lime"])
    for name in ("num_features", "repeats", "params"):
        del settings[name]
    method = settings["segmentation"]
    parameters = {
        name: settings.pop(name) for name in ("quickshift", "slic", "felzenszwalb")
    }
    settings["segmentation"] = {"method": method, **parameters[method]}
    for name in ("segmentation_seed", "perturbation_seed"):
        settings[name] += SEED
    return ordered(settings)


def rendered_sources():
    """What the study's rendered pictures are made from, without what only chooses among them."""
    sources = []
    for source in STUDY["pictures"]:
        if "world" in source:
            sources.append({"world": source["world"]})
        if "wrong" in source:
            sources.append({"wrong": {"clutter": source["wrong"]["clutter"]}})
    return ordered(sources)


def sanity_methods(name):
    """The methods whose explanations of a model are held against other weights and classes."""
    methods = STUDY["sanity"]["methods"]
    if methods is None:
        methods = CAM_METHODS + ["lime"]
    # Of an act that is off no method is checked, whichever the default study names.
    methods = [m for m in methods if ACTS["lime" if m == "lime" else "cam"]]
    # The control takes a layer, which a model that only LIME explains need not have.
    control = ["eigen-cam"] if MODELS[name]["cam_layer"] else []
    return sorted({*methods, *control})


def sanity_explanations(wildcards):
    """The study's explanations of one model by these methods, of all batches."""
    folder = RESULTS / "explain" / wildcards.model
    methods = sanity_methods(wildcards.model)
    cams = expand(
        folder / "cam-{method}-{batch}.parquet",
        method=[method for method in CAM_METHODS if method in methods],
        batch=BATCHES,
    )
    lime = "lime" in methods
    return {
        "cams": cams,
        "lime": (
            [folder / f"lime-{batch}.parquet" for batch in BATCHES]
            if lime and ACTS["lime"]
            else []
        ),
        "given": expand(given_params(), model=wildcards.model) if lime else [],
    }


def given_params():
    """The file that LIME's parameters are taken from, if any; {model} in it is a wildcard."""
    return STUDY["lime"]["params"] or []


def class_name_files(names):
    """Text files of class names that the models take."""
    found = [MODELS[name]["classes"] for name in names]
    return sorted({path for path in found if isinstance(path, str)})


def growing(amount):
    """Memory (MB) or time (minutes) of a step: so much, and so much more at each new attempt.

    Only where a profile asks for retries, as profiles/slurm does, is there a second attempt.
    """
    return lambda wildcards, attempt: amount * attempt


def checked():
    """The check's result, as an input that never makes anything rerun by itself."""
    return ancient(RESULTS / "check.json")


def final_tables():
    """The tables that the study is about, by act."""
    names = []
    if TRAINED:
        names += ["accuracy"]
    if DISSECTED or PUBLISHED:
        names += ["neurons", "concepts", "comparison"]
        names += ["temperature"] if CHOOSES_TEMPERATURE else []
    if EXPLAINED:
        names += ["predictions"]
        if ACTS["lime"] and STUDY["lime"]["repeats"]:
            names += ["lime_stability"]
        if ACTS["agree"]:
            names += [
                "agreement",
                "agreement_summary",
                "localization",
                "localization_summary",
                "questions",
                "correctness",
                "claims",
            ]
            names += ["effects"] if RENDERED else []
        if ACTS["faithfulness"]:
            names += ["faithfulness", "faithfulness_summary"]
        if ACTS["sanity"]:
            names += ["sanity", "sanity_summary"]
    if BENCHMARK.get("audit"):
        names += ["audit", "audit_rules"]
    if BENCHMARK.get("neurons"):
        names += ["causal", "dissection_truth"]
    if BENCHMARK.get("contrast"):
        names += ["contrast", "contrast_summary"]
    if BENCHMARK.get("trust"):
        names += ["trust", "calibration"]
    if any(BENCHMARK.values()):
        names += ["leaderboard"]
    return [RESULTS / "tables" / f"{name}.parquet" for name in names]


def explain_params():
    """The files of parameters that LIME explained each model with."""
    names = EXPLAINED if ACTS["lime"] else []
    return [RESULTS / "explain" / name / "explain_params.pkl" for name in names]


def concept_files():
    """The list of words that neurons are labelled with; none where it is the world's."""
    return [] if STUDY["concepts"] in (None, "world") else [STUDY["concepts"]]


def category_files():
    """The list of words by category; none where neurons are not counted by it."""
    if not (name := STUDY["comparison"]["categories"]):
        return []
    path = configuration.find_categories(name)
    # One of ours by its place in the checkout, wherever that lies.
    here = Path.cwd()
    return [path.relative_to(here) if path.is_relative_to(here) else path]


def published_files():
    """The files of published descriptions."""
    return [
        path
        for entry in PUBLISHED
        for path in ([entry["path"]] if "path" in entry else entry["paths"].values())
    ]


def neuron_cards():
    """The folders of pictures of each model's neurons."""
    return [RESULTS / "dissect" / name / "cards" for name in DISSECTED]


def gathering(name):
    """What gathering depends on beside the lists of files: of rendered pictures all that they are
    made from, of files nothing, so that the seed does not concern them."""
    rendered = [source["world"] for source in STUDY[name] if "world" in source]
    drawn = name == "pictures" and WRONG
    return {
        "world": ordered(rendered),
        "seed": SEED if rendered else None,
        "size": WORLD["size"] if rendered else None,
        "batches": len(LISTS[name]) if rendered or drawn else None,
    }


def scattered(kind):
    """Files of one kind over all explained models and batches."""
    place = {
        "predictions": "explain/{model}/predictions-{batch}.parquet",
        "views": "explain/{model}/views-{batch}.parquet",
        "heatmaps": "explain/{model}/cam-{method}-{batch}.parquet",
        "lime": "explain/{model}/lime-{batch}.parquet",
        "lime_stability": "explain/{model}/lime_stability-{batch}.parquet",
        "thumbnails": "explain/{model}/thumbnails-{batch}.parquet",
        "agreement": "agree/{model}/agreement-{batch}.parquet",
        "localization": "agree/{model}/localization-{batch}.parquet",
        "effects": "agree/{model}/effects.parquet",
        "faithfulness": "agree/{model}/faithfulness-{batch}.parquet",
    }[kind]
    return expand(RESULTS / place, model=EXPLAINED, batch=BATCHES, method=CAM_METHODS)


def explanations(wildcards):
    """Every explanation of one batch of one model."""
    folder = RESULTS / "explain" / wildcards.model
    cams = [
        folder / f"cam-{method}-{wildcards.batch}.parquet" for method in CAM_METHODS
    ]
    lime = [folder / f"lime-{wildcards.batch}.parquet"] if ACTS["lime"] else []
    return {"cams": cams, "lime": lime}


def lime_repeats(wildcards):
    """What LIME with other seeds said of one batch of one model, where it was repeated."""
    if not (ACTS["lime"] and STUDY["lime"]["repeats"]):
        return []
    folder = RESULTS / "explain" / wildcards.model
    return [folder / f"lime_repeats-{wildcards.batch}.parquet"]


def agreement_settings():
    """What agreement and its controls depend on, of the measures that are taken only."""
    settings = STUDY["agreement"]
    used = {"metrics", "draws"}
    if "iou" in settings["metrics"]:
        used.add("top_fraction")
    if any(name.endswith("-agreement") for name in settings["metrics"]):
        used.add("k")
    if registered("agreement", settings["metrics"]):
        used |= {"top_fraction", "k"}  # which a measure of the user's may read
    return ordered({key: settings[key] for key in used})


def added_metrics():
    """The files of the user's that register metrics of explanations."""
    kinds = ("agreement", "faithfulness", "localization")
    return extensions.select(
        REGISTERED, [(kind, name) for kind in kinds for name in ADDED[kind]]
    )


def labelled_layers(wildcards):
    """The layers whose neurons are labelled: those that get planted ones, or all."""
    layers = MODELS[wildcards.model]["dissect_layers"]
    if wildcards.crowd == "own" or NEURONS["beside"] is None:
        return layers
    return [layer for layer in layers if layer in NEURONS["beside"]]


def labelled_activations(wildcards):
    """Recorded activations, of the layers' own neurons or with planted ones beside them."""
    if wildcards.crowd == "own":
        return expand(
            by_group(rules.extract_activations.output, model=wildcards.model),
            shard=SHARDS,
        )
    return expand(rules.plant_neurons.output, shard=SHARDS, **wildcards)


def settings_of(similarity):
    """A similarity's parameters, without a temperature that is yet to be chosen."""
    settings = STUDY["dissection"].get(similarity, {})
    return ordered({k: v for k, v in settings.items() if v != "absent-words"})


def temperature_of(wildcards):
    """The file of the temperature that is chosen for a similarity, if one is."""
    similarity = wildcards.similarity
    if "absent-words" not in STUDY["dissection"].get(similarity, {}).values():
        return []
    if similarity == STUDY["dissection"]["similarity"]:
        return rules.choose_temperature.output.table
    return expand(rules.choose_temperature_of.output.table, similarity=similarity)


def explained_files(names, batch=None):
    """Explanations, what they are of and what changing the pictures did, of several models."""
    batches = BATCHES if batch is None else [batch]

    def over(place, **also):
        return expand(RESULTS / place, model=names, batch=batches, **also)

    return {
        "cams": over(
            "explain/{model}/cam-{method}-{batch}.parquet", method=CAM_METHODS
        ),
        "lime": over("explain/{model}/lime-{batch}.parquet") if ACTS["lime"] else [],
        "predictions": over("explain/{model}/predictions-{batch}.parquet"),
        "views": over("explain/{model}/views-{batch}.parquet"),
        "effects": expand(rules.measure_effects.output, model=names),
        "pictures": expand(RESULTS / "pictures/{batch}.parquet", batch=batches),
    }


def ranked_tables():
    """The tables that the leaderboard is made from, by name; those that the study has."""
    names = ["audit_rules", "dissection_truth", "contrast_summary", "trust"]
    names += ["localization", "faithfulness"]
    return {path.stem: path for path in final_tables() if path.stem in names}


def count_cards():
    """How many pictures the report's gallery has, if all of them decode."""
    count = 0
    for source in STUDY["pictures"]:
        if "world" in source:
            count += source["world"]["bases"] * len(source["world"]["clutter"])
        if "wrong" in source:
            count += source["wrong"]["pictures"]
    listed = [path for paths in LISTS["pictures"].values() for path in paths]
    count += sum(len(index.read_index(path)) for path in listed)
    return count * len(EXPLAINED)


def can_print():
    """Whether the report is printed: the study wants it and there is what prints it."""
    if not (ACTS["report"] and STUDY["report"]["pdf"]):
        return False
    deployment = workflow.deployment_settings
    if find_spec("typst") or (deployment and deployment.deployment_method):
        return True  # with --sdm conda it is in the step's own environment
    if workflow.is_main_process:
        logger.warning(
            "No report.pdf: typst is not installed here. `pip install typst` and run again, or set "
            "report.pdf to false. The page itself, report.html, does without."
        )
    return False


BESIDE = count_cards() > STUDY["report"]["inline_pictures"]
PRINTED = can_print()


def report_parts(wildcards):
    """Everything the page shows, by name; what the study does not have is not there."""
    parts = {path.stem: path for path in final_tables()}
    if STUDY["pictures"]:
        parts["pictures"] = expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES)
    parts["thumbnails"] = scattered("thumbnails")
    if ACTS["cam"]:
        parts["heatmaps"] = scattered("heatmaps")
    if ACTS["lime"]:
        parts["lime"] = scattered("lime")
    parts["data"] = concept_files() + category_files() + published_files()
    used = sorted(set(EXPLAINED + DISSECTED))
    parts["weights"] = [path for name in used for path in weights_of(name)]
    if DISSECTED:
        parts["probe"] = expand(RESULTS / "probe/{shard}.parquet", shard=SHARDS)
        parts["weights"] += clip_files()
    return parts


QUESTION_FILE = RESULTS / "index" / "check.json"
ANSWER_FILE = RESULTS / "check.json"


def write_question():
    """Write down what is to be checked, in the main process only, and return a digest of it."""
    paths = [model["checkpoint"] for model in MODELS.values() if "checkpoint" in model]
    states = [(path, os.stat(path)) for path in paths + class_name_files(MODELS)]
    question = {
        "code": code("check_study.py"),
        "files": [[path, state.st_size, state.st_mtime_ns] for path, state in states],
        "models": [model_spec(name) for name in MODELS],
        "layers": {
            name: (model["dissect_layers"] if name in DISSECTED else [])
            + (cam_layers(name) if name in EXPLAINED and CAM_METHODS else [])
            for name, model in sorted(MODELS.items())
        },
        "target": STUDY["target"],
        "explained": EXPLAINED,
        "extensions": extensions.select(
            REGISTERED, [(entry.kind, entry.name) for entry in REGISTERED]
        ),
    }
    if ACTS["sanity"]:
        question["stages"] = STUDY["sanity"]["stages"]
    text = json.dumps(question, indent=1, sort_keys=True) + "\n"
    if workflow.is_main_process:
        with refusing():
            files.write_if_changed(QUESTION_FILE, text)
    return sha256(text.encode()).hexdigest()


ASKED = write_question()


def answer_question():
    """Check the study anew where the answer that is there is to another question."""
    if not ANSWER_FILE.is_file():
        return  # the check's own job will
    try:
        if json.loads(ANSWER_FILE.read_text())["asked"] == ASKED:
            return
    except (ValueError, TypeError, KeyError):
        pass  # a broken file is written anew
    if find_spec("torch") is None:
        logger.warning(
            "No torch here: what is wrong with a model, its own steps will say."
        )
        return
    library = str(Path(workflow.basedir) / "workflow")
    command = [sys.executable, "-m", "consilience.check", QUESTION_FILE, ANSWER_FILE]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": library})
    if run.returncode:
        raise WorkflowError("This study cannot run: see above.")
