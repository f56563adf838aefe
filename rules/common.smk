# What the rules share: the study, its models, and helper functions. No rules.
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from consilience import configuration, files, index, provenance, runs
from consilience.errors import ConsilienceError
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile
from snakemake.logging import logger
from snakemake.persistence.file import FilePersistence

SCRIPTS = Path(workflow.basedir) / "workflow" / "scripts"

try:
    STUDY = configuration.resolve_study(config, workflow.configfiles)
except ConsilienceError as error:
    raise WorkflowError(f"This study cannot run:\n{error}")

RESULTS = Path("results") / STUDY["study"]
LOGS = RESULTS / "logs"
TIMES = RESULTS / "benchmarks"
ACTS = STUDY["acts"]
WORLD = STUDY["world"]
SEED = STUDY["seed"]
THREADS = STUDY["compute_threads"]
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
# What pictures that a model is wrong about are drawn with, and whether any picture is rendered.
WRONG = next((s["wrong"] for s in STUDY["pictures"] if "wrong" in s), {})
RENDERED = any("world" in s or "wrong" in s for s in STUDY["pictures"])


wildcard_constraints:
    batch=r"\d+",
    group=r"\d+",
    shard=r"\d+",
    model="|".join(MODELS),
    method="|".join(map(re.escape, STUDY["cam"]["methods"])),


# glibc gives large tensors back to the system at every layer and takes them again, which costs time
# on some machines (and made no difference on others): here it is told not to. The library reaches the scripts by path, not by
# installation, so that other environments need not have it.
shell.prefix(
    "export PYTHONPATH={library} OMP_NUM_THREADS={threads} "
    "MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 "
    "MALLOC_TOP_PAD_=268435456; ".format(
        library=Path(workflow.basedir) / "workflow", threads=THREADS
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
            index.write_index(STUDY[name], len(batches), folder)
    return {batch: [folder / f"{batch}.json"] for batch in batches}


LISTS = {name: write_lists(name) for name in ("pictures", "probe")}
# What they say when this run begins: a file can be added, and the lists with it, while it goes on.
LISTED = {
    name: {
        batch: provenance.hash_file(path)
        for batch, paths in lists.items()
        for path in paths
        if workflow.is_main_process
    }
    for name, lists in LISTS.items()
}


# What is kept from one run to the next, and no result.
STATE = Path(".snakemake/consilience")
RUN_LOCK = STATE / f"{STUDY['study']}.run"
KNOWN_CODE = STATE / "code.json"


provenance.read_known(KNOWN_CODE)


def begin_run():
    """Take the study for this run alone. Profiles turn Snakemake's own lock off: it outlives a
    Snakemake that is killed, and ending one study takes away another's."""
    with refusing():
        runs.claim_study(RUN_LOCK, RESULTS, logger.info)


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

    Snakemake itself sees neither modules nor package versions.
    """
    # Only the main process holds a job against what was recorded of it.
    return (
        provenance.digest(SCRIPTS / script, read) if workflow.is_main_process else None
    )


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
    return [RESULTS / "tables" / f"{name}.parquet" for name in names]


def explain_params():
    """The files of parameters that LIME explained each model with."""
    names = EXPLAINED if ACTS["lime"] else []
    return [RESULTS / "explain" / name / "explain_params.pkl" for name in names]


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


def scattered(kind):
    """Files of one kind over all explained models and batches."""
    place = {
        "predictions": "explain/{model}/predictions-{batch}.parquet",
        "views": "explain/{model}/views-{batch}.parquet",
        "heatmaps": "explain/{model}/cam-{method}-{batch}.parquet",
        "lime": "explain/{model}/lime-{batch}.parquet",
        "lime_stability": "explain/{model}/lime_stability-{batch}.parquet",
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
    return ordered({key: settings[key] for key in used})


def report_parts(wildcards):
    """Everything the page shows, by name; what the study does not have is not there."""
    parts = {path.stem: path for path in final_tables()}
    if STUDY["pictures"]:
        parts["pictures"] = expand(RESULTS / "pictures/{batch}.parquet", batch=BATCHES)
    parts["views"] = scattered("views")
    if ACTS["cam"]:
        parts["heatmaps"] = scattered("heatmaps")
    if ACTS["lime"]:
        parts["lime"] = scattered("lime")
        parts["explain_params"] = explain_params()
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
    if json.loads(ANSWER_FILE.read_text()).get("asked") == ASKED:
        return
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
