"""Run the real workflow: the default study in miniature, and photographs where there are any."""

import base64
import hashlib
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

import dry_runs
from conftest import REPOSITORY
from consilience import images, pdf, report_evidence, tables, world
from consilience.localization import OFFSETS
from pages import write_files

pytestmark = pytest.mark.slow


def snakemake(folder, *arguments, studies=(), check=True, repository=REPOSITORY, anew=False):
    """Run Snakemake on this repository's workflow with ``folder`` as the working directory.

    In a fork of a process that has imported it, or in a new interpreter if ``anew``.
    """
    snakefile = repository / "Snakefile"
    given = ["--workflow-profile", repository / "profiles/default", "--directory", folder]
    given += ["--configfile", *studies] if studies else []
    given = list(map(str, [*given, *arguments]))
    if not anew:
        server = dry_runs.server()
        return server.run(REPOSITORY, *given, snakefile=snakefile, check=check)[0]
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), *given],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    if check:
        assert run.returncode == 0, run.stdout[-5000:]
    return run.stdout


def hashes(folder):
    """SHA-256 of everything that must not differ between two runs."""
    kinds = ("*.parquet", "*.npz", "*.csv", "*.pkl", "*.safetensors", "*.pt", "*.json", "*.png")
    files = sorted(path for kind in kinds for path in folder.rglob(kind))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "seen.json"
    }


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """The miniature study, run once."""
    folder = tmp_path_factory.mktemp("miniature")
    snakemake(folder, "--cores", "2", studies=[REPOSITORY / "tests/study.yaml"])
    return folder


def results(folder, name, schema, study="miniature"):
    return tables.read_rows(folder / "results" / study / "tables" / f"{name}.parquet", schema)


def test_every_act_has_its_table(miniature):
    pictures = {f"picture-00{base}-clutter-{level}" for base in (0, 1) for level in (0, 4)}
    predictions = results(miniature, "predictions", tables.PREDICTIONS)
    assert {row["picture"] for row in predictions} == pictures
    assert all(row["target_index"] == row["predicted_index"] for row in predictions)

    stability = results(miniature, "lime_stability", tables.LIME_STABILITY)
    # SLIC has no seed: other superpixels are missing, with the reason.
    assert {row["reason"] for row in stability if row["mean"] is None} == {
        "slic has no seed; only quickshift varies"
    }
    assert sum(row["mean"] is not None for row in stability) == 2 * len(pictures)

    neurons = results(miniature, "neurons", tables.NEURONS)
    assert len(neurons) == 2 * (512 + 10)
    assert {row["status"] for row in neurons} <= {"ok", "constant"}
    folder = miniature / "results/miniature"
    assert len((folder / "tables/neurons.csv").read_text().splitlines()) == 1 + len(neurons)
    cards = {path.name for path in (folder / "dissect/object-net/cards").glob("*.png")}
    assert cards == {"layer4-1.png", "layer4-2.png", "fc-1.png"}

    agreement = results(miniature, "agreement", tables.AGREEMENT)
    assert {row["picture"] for row in agreement} == pictures
    pairs = {(row["method_a"], row["method_b"]) for row in agreement}
    assert len(pairs) == 6  # of three CAMs and LIME
    floors = {"random-smooth", "other-picture", "centre", "edges"}
    assert {row["control"] for row in agreement} == floors | {None, "ceiling"}
    for row in agreement:
        assert (row["value"] is None) == (row["reason"] is not None)

    localization = results(miniature, "localization", tables.LOCALIZATION)
    assert len(localization) == 4 * 4 * 6  # pictures, methods, metrics
    assert all((row["value"] is None) == (row["reason"] is not None) for row in localization)

    for name, schema in (
        ("effects", tables.EFFECTS),
        ("faithfulness", tables.FAITHFULNESS),
        ("sanity", tables.SANITY),
        ("questions", tables.QUESTIONS),
        ("correctness", tables.CORRECTNESS),
    ):
        assert results(miniature, name, schema)
    claims = {row["claim"]: row["verdict"] for row in results(miniature, "claims", tables.CLAIMS)}
    # Nets of a rendered world judge nothing about ImageNet and Places365.
    assert claims["places365-more-concepts"] == "not testable here"

    accuracy = results(miniature, "accuracy", tables.ACCURACY)
    assert {row["model"] for row in accuracy} == {"object-net", "scene-net", "clip"}


def test_lime_parameters_are_exported(miniature):
    path = miniature / "results/miniature/explain/object-net/explain_params.pkl"
    params = pickle.loads(path.read_bytes())
    assert len(params) == 4
    assert params["picture-000-clutter-0"]["num_samples"] == 30


def test_the_report_is_one_page_that_names_each_picture(miniature):
    page = (miniature / "results/miniature/report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "picture-001-clutter-4" in page
    assert 'src="http' not in page


def test_every_table_stands_on_the_page_of_outputs(miniature):
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs/generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    kinds = dict.fromkeys(("batch", "shard", "group"), r"\d+")
    kinds |= dict.fromkeys(("model", "other", "method", "crowd", "similarity"), "[^/]+")
    places = [
        (re.sub(r"<(\w+)>", lambda found: kinds[found[1]], re.escape(path)), name)
        for name, paths in generate.FILES.items()
        for path in paths
    ]
    folder = miniature / "results/miniature"
    found = set()
    for path in folder.rglob("*.parquet"):
        where = path.relative_to(folder).as_posix()
        names = {name for place, name in places if re.fullmatch(place, where)}
        assert len(names) == 1, f"{where}: {sorted(names)}"
        tables.open_table(path, getattr(tables, *names))
        found |= names
    # A study without `benchmark` has all others.
    of_benchmark = {
        name
        for name, paths in generate.FILES.items()
        if any(path.startswith("benchmark/") for path in paths)
    }
    of_benchmark |= {"AUDIT", "AUDIT_RULES", "CAUSAL", "DISSECTION_TRUTH", "LEADERBOARD"}
    of_benchmark |= {"CALIBRATION", "CONTRAST_SUMMARY"}
    assert found | of_benchmark == set(generate.FILES)


def page_tables(path):
    """Tables of a page: by section, captions with rows, each a value (or text) by column."""
    root, _ = pdf.read_page(path.read_text(encoding="utf-8"))
    main = root.find("main")
    found = {}
    for section in main.elements:
        for table in (one for one in section.iterate() if one.tag == "table"):
            caption = table.find("caption")
            rows = [row for row in table.iterate() if row.tag == "tr"]
            heads = [" ".join(text_of(cell).split()) for cell in rows[0].elements]
            waiting, read = {}, []
            for row in rows[1:]:
                cells, place = {}, 0
                for cell in row.elements:
                    while waiting.get(place, (0,))[0]:
                        left, value = waiting[place]
                        cells[heads[place]], waiting[place] = value, (left - 1, value)
                        place += 1
                    data = cell.find("data")
                    value = float(data.attributes["value"]) if data else text_of(cell).strip()
                    value = None if value == "–" else value
                    waiting[place] = (int(cell.attributes.get("rowspan", 1)) - 1, value)
                    cells[heads[place]] = value
                    place += int(cell.attributes.get("colspan", 1))
                read.append(cells)
            name = text_of(caption).strip() if caption else ""
            found.setdefault(section.attributes["id"], []).append((name, read))
    return found


def text_of(element):
    if isinstance(element, str):
        return element
    return "".join(map(text_of, element.children))


def picked(tables_of, section, caption, columns):
    """Values of some columns of all rows of the tables of a caption, or of one that begins so."""
    names = [name for name, _ in tables_of[section]]
    rows = [
        tuple(row.get(column) for column in columns)
        for name, read in tables_of[section]
        if (name == caption if caption in names else name.startswith(caption))
        for row in read
    ]
    assert rows, (section, caption)
    return sorted(rows, key=repr)


def cells(row, *keys):
    """Values of a row as the page has them: whole numbers in digits, others to the last one."""
    return [str(row[key]) if type(row[key]) is int else row[key] for key in keys]


def test_the_pages_tables_are_the_parquet_files(miniature):
    """Row for row and to the last digit."""
    shown = page_tables(miniature / "results/miniature/report.html")
    text = {"lime": "LIME", "grad-cam": "Grad-CAM", "score-cam": "Score-CAM"}
    text |= {"ablation-cam": "Ablation-CAM", "eigen-cam": "Eigen-CAM"}

    def pair(row):
        names = sorted((row["method_a"], row["method_b"]), key=list(text).index)
        return " – ".join(text[name] for name in names)

    def method(row):
        return text[row["method"]]

    def same(section, caption, columns, rows):
        assert picked(shown, section, caption, columns) == sorted(rows, key=repr), caption

    summary = results(miniature, "agreement_summary", tables.AGREEMENT_SUMMARY)
    measures = {name: one.label for name, one in report_evidence.AGREEMENT_MEASURES.items()}
    between = ("Clutter", "Mean", "Floor: random smooth", "other picture", "centre", "edges")
    between += ("Ceiling", "Relative")
    keys = ("clutter", "mean", "random_smooth", "other_picture", "centre", "edges", "ceiling")
    counted = ("Clutter", "Pictures", "Missing", "Mean", "Median", "Chance")
    for metric in {row["metric"] for row in summary}:
        own = [row for row in summary if row["metric"] == metric]
        rows = [(pair(row), *cells(row, *keys, "relative")) for row in own]
        same("agreement", f"{measures[metric]}: mean with its", ("Pair", *between), rows)
        whole = ("clutter", "n", "missing", "mean", "median", "chance")
        rows = [(pair(row), *cells(row, *whole)) for row in own]
        same("agreement", f"All numbers of {measures[metric]}", ("Pair", *counted), rows)

    summary = results(miniature, "faithfulness_summary", tables.FAITHFULNESS_SUMMARY)
    columns = ("Clutter", "Pictures", "Mean difference", "Median", "Mean score")
    keys = ("clutter", "n", "mean", "median", "value", "random")
    rows = [(method(row), *cells(row, *keys)) for row in summary]
    columns = ("Method", *columns, "Random order’s")
    same("faithfulness", "Paired differences", columns, rows)

    summary = results(miniature, "localization_summary", tables.LOCALIZATION_SUMMARY)
    scored = {row["truth"] for row in summary if row["n"]}
    summary = [r for r in summary if r["truth"] in scored and r["metric"] not in OFFSETS]
    if scored:
        rows = [(method(row), *cells(row, *whole)) for row in summary]
        found = picked(shown, "truth", "All numbers of", ("Method", *counted))
        found = [(row[0].removesuffix("it matters").strip(), *row[1:]) for row in found]
        assert sorted(found, key=repr) == sorted(rows, key=repr)

    summary = results(miniature, "sanity_summary", tables.SANITY_SUMMARY)
    keys = ("stage", "mean", "floor", "n")
    rows = [(method(row), *cells(row, *keys)) for row in summary if row["test"] == "cascade"]
    columns = ("Method", "Random down to", "Mean ρ", "Floor", "Pictures")
    same("sanity", "Spearman’s ρ with the explanation itself", columns, rows)
    rows = [(method(row), *cells(row, *keys[1:])) for row in summary if row["test"] == "class"]
    columns = ("Method", "Mean ρ", "Floor", "Pictures")
    same("sanity", "Likeness of the explanations of two classes", columns, rows)

    questions = results(miniature, "questions", tables.QUESTIONS)
    keys = ("model", "estimand", "estimate", "bases", "values")
    columns = ("Model", "What is estimated", "Estimate", "Bases", "Values")
    for role in ("primary", "exploratory"):
        rows = [tuple(cells(row, *keys)) for row in questions if row["role"] == role]
        same("questions", role.title(), columns, rows)
    correctness = results(miniature, "correctness", tables.CORRECTNESS)
    rows = [tuple(cells(row, "right", "wrong", "auroc")) for row in correctness]
    same("correctness", "AUROC", ("Right", "Wrong", "AUROC"), rows)
    claims = results(miniature, "claims", tables.CLAIMS)
    rows = [tuple(cells(row, "says", "verdict", "estimate", "smallest_effect")) for row in claims]
    same("claims", "Claims", ("Claim", "Verdict", "Estimate", "Smallest effect"), rows)

    compared = results(miniature, "comparison", tables.COMPARISON)
    assert {row["category"] for row in compared} >= {"natural", "man-made", "neither"}
    for what in ("category", "kind"):
        sides = {}
        for row in compared:
            if row["metric"] == f"share_{what}":
                side = sides.setdefault((row["layer"], row["model_a"]), {})
                side[row["category"]] = row["value"]
        names = list(next(iter(sides.values())))
        rows = [(*side, *(values[name] for name in names)) for side, values in sides.items()]
        caption = f"Labelled neurons by {what} of their word"
        same("neurons", caption, ("Layer", "Model", *names), rows)
    concepts = results(miniature, "concepts", tables.CONCEPTS)
    accuracy = results(miniature, "accuracy", tables.ACCURACY)
    for model in ("object-net", "scene-net"):
        rows = []
        for layer in ("layer4", "fc"):
            own = [r for r in concepts if (r["model"], r["layer"]) == (model, layer)]
            own = sorted(own, key=lambda r: (-r["neurons"], r["concept"]))[:10]
            rows += [tuple(cells(row, "neurons", "share")) for row in own]
        same("neurons", f"{model}: most frequent words", ("Neurons", "Share"), rows)
        own = [r for r in accuracy if r["model"] == model and r["clutter"] is not None]
        rows = [tuple(cells(row, "clutter", "accuracy")) for row in own]
        same("world", "Held-out accuracy", ("Clutter", model), rows)


def test_what_the_page_hashes_are_the_files(miniature):
    shown = page_tables(miniature / "results/miniature/report.html")
    ((_, rows),) = [one for one in shown["method"] if one[0] == "SHA-256"]
    hashes = {row["Of"]: row["SHA-256"] for row in rows}
    tables_of = sorted((miniature / "results/miniature/tables").glob("*.parquet"))
    assert len(tables_of) > 15
    for path in tables_of:
        name = f"table {path.relative_to(miniature)}"
        assert hashes[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    weights = "results/miniature/models/object-net/weights.safetensors"
    assert (
        hashes[f"weights {weights}"]
        == hashlib.sha256((miniature / weights).read_bytes()).hexdigest()
    )
    assert {"all 4 pictures", "all 60 probe pictures"} <= set(hashes)
    assert "data natural-man-made.csv" in hashes
    ((_, rows),) = [one for one in shown["method"] if one[0].startswith("Time and memory")]
    times = {row["Step"]: row for row in rows}
    assert times["explain cam"]["Jobs"] == "6"
    assert all(row["Seconds"] > 0 for row in rows)
    assert "write report" not in times


def test_the_page_is_printed(miniature):
    data = (miniature / "results/miniature/report.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert data.rstrip().endswith(b"%%EOF")
    said = (miniature / "results/miniature/logs/print_report.log").read_text()
    assert int(said.split(" pages")[0].split()[-1]) > 20
    assert "report.pdf" in (miniature / "results/miniature/report.html").read_text()


def test_without_a_printer_the_page_is_written_and_the_log_says_so(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["typst"] = None\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = snakemake(tmp_path, "-n", studies=[REPOSITORY / "tests/study.yaml"], anew=True)
    assert "No report.pdf: typst is not installed here. `pip install typst`" in said
    assert "write_report" in said
    assert "print_report" not in said


def test_a_second_run_does_nothing(miniature):
    said = snakemake(miniature, "--cores", "2", studies=[REPOSITORY / "tests/study.yaml"])
    assert "Nothing to be done" in said


# What is trained, dissected and explained; the other tables are made of these.
MADE = [f"results/miniature/tables/{name}.parquet" for name in ("neurons", "agreement")]


@pytest.mark.parametrize(
    ("targets", "fewest"), [(MADE, 40), pytest.param([], 100, marks=pytest.mark.soak)]
)
def test_two_runs_give_the_same_bytes_whatever_the_cores(miniature, tmp_path, targets, fewest):
    studies = [REPOSITORY / "tests/study.yaml"]
    said = snakemake(tmp_path, "--cores", "8", *targets, studies=studies)
    first, second = hashes(miniature / "results"), hashes(tmp_path / "results")
    assert len(second) >= fewest
    assert second == {name: first[name] for name in second}
    assert targets or first.keys() == second.keys()
    # Meanwhile one is told how far the run is.
    assert re.search(r"^About .+ left", said, re.MULTILINE)


def read_report(folder, target, studies, monkeypatch):
    """Have Snakemake write its own report, without a network; what is in it, by path."""
    for name in ("http_proxy", "https_proxy"):  # nothing listens there: who asks gets no answer
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    before = hashes(folder / "results")
    said = snakemake(folder, "--report", target, "--nolock", studies=studies)
    assert "downloading" not in said
    assert hashes(folder / "results") == before
    if target.suffix == ".zip":
        archive = zipfile.ZipFile(target)
        text = archive.read(f"{target.stem}/report.html").decode()
    else:
        text = target.read_text()
    held = {}
    for name in ("results", "categories", "workflow-desc"):
        (found,) = re.findall(rf'<script id="{name}">\s*var \w+ = (.*?);\s*</script>', text, re.S)
        held[name] = json.loads(found)
    for entry in held["results"].values():
        if target.suffix == ".zip":
            entry["bytes"] = archive.read(f"{target.stem}/{entry['data_uri']}")
        else:
            entry["bytes"] = base64.b64decode(entry["data_uri"].partition("base64,")[2])
    return held["results"], held["categories"], held["workflow-desc"]


def check_report(folder, study, target, studies, monkeypatch):
    """Every table, figure and page of a study is in Snakemake's report, and says what it is."""
    found, categories, description = read_report(folder, target, studies, monkeypatch)
    results_of = Path("results", study)
    final = sorted(path.stem for path in (folder / results_of / "tables").glob("*.parquet"))
    wanted = {results_of / f"tables/{name}{form}" for name in final for form in (".csv", ".html")}
    for pattern in ("report.*", "dissect/*/cards/*.png", "dissect/*/descriptions.csv"):
        wanted |= {path.relative_to(folder) for path in (folder / results_of).glob(pattern)}
    assert set(map(Path, found)) == wanted
    for path, entry in found.items():
        assert entry["bytes"] == (folder / path).read_bytes()
        assert "<p>" in entry["caption"], path
        assert "system-message" not in entry["caption"], path
        assert all(entry["labels"].values()), path
    assert "Other" not in categories
    assert all("Other" not in inner for inner in categories.values())
    assert study in description
    assert "system-message" not in description
    return final


def test_another_study_shares_what_is_the_same_and_takes_gpus_as_they_are(
    miniature, tmp_path, monkeypatch
):
    """Rendering is shared; training is not, as it is to be done on another kind of device.

    The GPUs are none: a program says so that stands in for the driver's.
    """
    if torch.cuda.is_available():
        pytest.skip("real GPUs here")
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: GPU-0)'\necho 'GPU 1: X (UUID: GPU-1)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    store = miniature / "results/.shared"
    before = hashes(store)
    change = tmp_path / "change.yaml"
    change.write_text(f"study: second\ntitle: Another\nstore: {store}\n")
    weights = "results/second/models/scene-net/weights.safetensors"
    said = snakemake(
        tmp_path, "--cores", "2", weights, studies=[REPOSITORY / "tests/study.yaml", change]
    )
    assert 'gpu=Resource("gpu", 2)' in said
    logs = {path.stem: path.read_text() for path in tmp_path.glob("results/second/logs/*.log")}
    taken = {name for name, log in logs.items() if "there already: taken from" in log}
    assert taken == {"render_held_out", "render_training-0", "render_training-1"}
    assert "PyTorch cannot use GPU-" in logs["train_classifier-scene-net"]
    first, second = hashes(miniature / "results/miniature"), hashes(tmp_path / "results/second")
    assert "models/scene-net/weights.safetensors" in second
    for name in second:
        if not name.startswith(("index/", "check.json")):
            assert second[name] == first[name], name
    # What is the processor's is not kept as a GPU's.
    assert hashes(store) == before


def test_what_a_page_has_beside_it_goes_where_the_next_has_none(miniature, tmp_path):
    folder, change = tmp_path / "copy", tmp_path / "change.yaml"
    shutil.copytree(miniature, folder)
    studies = [REPOSITORY / "tests/study.yaml", change]
    page, pictures = (
        folder / "results/miniature" / name for name in ("report.html", "report_pictures")
    )
    shown = '"report_pictures/'
    times = folder / "results/miniature/benchmarks"
    # Of a step that the study had under other settings.
    shutil.copy(times / "check.tsv", times / "explain_cam-object-net-finer-cam-0.tsv")
    change.write_text("report: {inline_pictures: 3}")
    snakemake(folder, "--cores", "2", studies=studies)
    said = re.findall(
        r"<tr><th scope=\"row\">([a-z ]+)</th><td class=\"n\">(\d+)</td>", page.read_text()
    )
    jobs = Counter(path.stem.partition("-")[0].replace("_", " ") for path in times.glob("*.tsv"))
    jobs["explain cam"] -= 1
    del jobs["write report"], jobs["print report"]  # not done when the page is written
    assert jobs.items() <= {name: int(number) for name, number in said}.items()
    files = {path.name for path in pictures.glob("*.webp")}
    assert len(files) >= 4 * 5  # pictures; the picture itself and each method's
    assert set(re.findall(f'{shown}([^"]+)"', page.read_text())) == files
    assert page.with_suffix(".pdf").is_file()
    change.write_text("report: {pdf: false}")
    snakemake(folder, "--cores", "2", studies=studies)
    assert shown not in page.read_text()
    assert not pictures.exists()
    assert not page.with_suffix(".pdf").exists()


def test_everything_is_in_snakemakes_own_report(miniature, tmp_path, monkeypatch):
    studies = [REPOSITORY / "tests/study.yaml"]
    target = tmp_path / "report.html"
    final = check_report(miniature, "miniature", target, studies, monkeypatch)
    # Every table that a study can have: this one has all acts on.
    listed = yaml.safe_load((REPOSITORY / "config.yaml").read_text())["acts"]
    assert all(listed.values())
    captions = {path.stem for path in (REPOSITORY / "workflow/report/captions").glob("*.rst")}
    assert captions == {*final, "workflow", "page", "cards", "descriptions"}


def test_a_changed_caption_computes_nothing(miniature, tmp_path):
    copy = tmp_path / "copy"
    for name in ("Snakefile", "config.yaml", "profiles", "rules", "workflow", "envs"):
        source, target = REPOSITORY / name, copy / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    before = rules_after(miniature, "{}", tmp_path, repository=copy)
    captions = sorted((copy / "workflow/report/captions").glob("*.rst"))
    assert len(captions) > 20
    for caption in captions:
        caption.write_text("Something else.\n")
    assert rules_after(miniature, "{}", tmp_path, repository=copy) == before


def rules_to_run(folder, *studies, targets=(), repository=REPOSITORY):
    """Names of the rules that a dry run would run, with the jobs of each."""
    arguments = ["-n", *targets, "--workflow-profile", repository / "profiles/default"]
    arguments += ["--configfile", *studies]
    _, jobs = dry_runs.server().run(
        folder, *map(str, arguments), snakefile=repository / "Snakefile"
    )
    return Counter(job["rule"] for job in jobs)


def rules_after(folder, change, tmp_path, **more):
    """The same after a change of the miniature study."""
    path = tmp_path / "change.yaml"
    path.write_text(change)
    return rules_to_run(folder, REPOSITORY / "tests/study.yaml", path, **more)


AFTER_LABELLING = {
    "label_neurons": 2,
    "draw_neuron_cards": 2,
    "compare_models": 1,
    "write_report": 1,
    "print_report": 1,
    "all": 1,
}
AFTER_COMPARING = {"compare_models": 1, "write_report": 1, "print_report": 1, "all": 1}
AFTER_LIME = {"repeat_lime": 2, "gather_lime_stability": 1}
AFTER_AGREEING = {
    "compare_explanations": 2,
    "summarise_agreement": 1,
    "judge_study": 1,
    "write_report": 1,
    "print_report": 1,
    "all": 1,
}
AFTER_EXPLAINING = AFTER_AGREEING | {
    "score_localization": 2,
    "summarise_localization": 1,
    "measure_faithfulness": 2,
    "summarise_faithfulness": 1,
    "check_sanity": 1,
    "summarise_sanity": 1,
    "draw_thumbnails": 2,
}
SUMMARISING = {
    "summarise_agreement": 1,
    "summarise_localization": 1,
    "summarise_faithfulness": 1,
    "summarise_sanity": 1,
    "judge_study": 1,
    "write_report": 1,
    "print_report": 1,
    "all": 1,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "lime: {num_samples: 40}",
            {"explain_lime": 2, "export_explain_params": 1} | AFTER_LIME | AFTER_EXPLAINING,
        ),
        ("lime: {quickshift: {ratio: 0.5}}", {"write_report": 1, "print_report": 1, "all": 1}),
        ("dissection: {soft-wpmi: {a: 2}}", AFTER_LABELLING),
        ("dissection: {similarity: rank-reorder}", AFTER_LABELLING),
        ("dissection: {resamples: 6}", AFTER_LABELLING),
        ("dissection: {held_out: 0.3}", {"choose_temperature": 1} | AFTER_LABELLING),
        ("lime: {repeats: 2}", AFTER_LIME | AFTER_AGREEING),
        ("agreement: {draws: 3}", AFTER_AGREEING),
        (
            "faithfulness: {steps: 4}",
            {
                "measure_faithfulness": 2,
                "summarise_faithfulness": 1,
                "judge_study": 1,
                "write_report": 1,
                "print_report": 1,
                "all": 1,
            },
        ),
        (
            "sanity: {pictures: 1}",
            {
                "check_sanity": 1,
                "summarise_sanity": 1,
                "write_report": 1,
                "print_report": 1,
                "all": 1,
            },
        ),
        ("title: Another", {"write_report": 1, "print_report": 1, "all": 1}),
        ("agreement: {bootstrap: 500}", SUMMARISING),
        ("report: {inline_pictures: 3}", {"write_report": 1, "print_report": 1, "all": 1}),
        ("report: {printed_pictures: 3}", {"write_report": 1, "print_report": 1, "all": 1}),
        ("report: {pdf: false}", {"write_report": 1, "all": 1}),
        ("comparison: {categories: null}", AFTER_COMPARING),
    ],
)
def test_a_change_reruns_what_it_must_and_no_more(miniature, tmp_path, change, expected):
    assert rules_after(miniature, change, tmp_path) == expected


def test_added_probe_pictures_touch_their_own_shards_only(miniature, tmp_path):
    results_of = miniature / "results/miniature"
    (tmp_path / "probe").mkdir()
    rows = tables.read_rows(sorted((results_of / "probe").glob("*.parquet")), tables.PICTURES)
    names = [f"{number:03d}.png" for number in range(500)]
    old, new = names[:40], [name for name in names[40:] if images.batch_of(name, 3) in (0, 2)][:10]
    assert {images.batch_of(name, 3) for name in new} == {0, 2}
    for name, row in zip(old + new, rows, strict=False):
        if name in old:
            (tmp_path / "probe" / name).write_bytes(row["image"]["bytes"])
    (tmp_path / "words.txt").write_text("ball\nbox\nstar\nbrick\nwater\n")
    study = {
        "study": "own",
        "world": None,
        "pictures": [],
        "acts": {"cam": False, "lime": False, "agree": False},
        "probe": [{"folder": "probe"}],
        "shards": 3,
        "clip": {"train": None, "path": str(results_of / "clip/weights.pt")},
        "concepts": "words.txt",
        "dissection": {"soft-wpmi": {"top_k": 5, "a": 2}, "resamples": 2},
        "models": [
            {
                "name": "net",
                "architecture": "resnet18",
                "checkpoint": str(results_of / "models/object-net/weights.safetensors"),
                "classes": list(world.OBJECTS),
                "transform": {"mean": [0.5] * 3, "std": [0.5] * 3},
                "dissect_layers": ["layer3"],
                "explain": False,
            }
        ],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    snakemake(tmp_path, "--cores", "2", studies=[path])
    neurons = results(tmp_path, "neurons", tables.NEURONS, study="own")
    assert {row["status"] for row in neurons} == {"ok"}
    for name, row in zip(new, rows, strict=False):
        (tmp_path / "probe" / name).write_bytes(row["image"]["bytes"])
    assert rules_to_run(tmp_path, path) == {
        "gather_probe": 2,
        "embed_probe": 2,
        "extract_activations": 2,
        "extract_untrained": 2,
        "label_neurons": 1,
        "draw_neuron_cards": 1,
        "compare_models": 1,
        "write_report": 1,
        "print_report": 1,
        "all": 1,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lime={num_sample: 3}", "unknown key 'lime.num_sample'; did you mean 'num_samples'?"),
        ("seed=many", "seed: 'many' is not of type integer"),
        ("pictures=[{folder: nowhere}]", "there is no folder 'nowhere'"),
    ],
)
def test_a_wrong_configuration_stops_before_any_job(tmp_path, change, said):
    output = snakemake(tmp_path, "--cores", "1", "--config", change, check=False)
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_a_layer_that_does_not_exist_stops_at_the_check(tmp_path):
    study = yaml.safe_load((REPOSITORY / "tests/study.yaml").read_text())
    study["models"][0]["cam_layer"] = "layer5"
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    output = snakemake(
        tmp_path, "--cores", "2", "results/miniature/check.json", studies=[path], check=False
    )
    assert "model 'object-net' has no layer 'layer5'; did you mean 'layer" in output


def test_a_changed_question_is_answered_first_and_reruns_what_depends_on_it(miniature, tmp_path):
    # Were the check a step that reruns, Snakemake would pass over what comes after it.
    assert (
        rules_after(miniature, "target: 3", tmp_path)
        == {
            "predict": 2,
            "explain_cam": 6,
            "explain_lime": 2,
            "export_explain_params": 1,
            "gather_predictions": 1,
            "measure_effects": 1,
            "gather_effects": 1,
        }
        | AFTER_LIME
        | AFTER_EXPLAINING
    )
    answer = miniature / "results/miniature/check.json"
    before = answer.read_bytes()
    path = tmp_path / "change.yaml"
    path.write_text("target: 77")
    studies = [REPOSITORY / "tests/study.yaml", path]
    said = snakemake(miniature, "--cores", "2", studies=studies, check=False)
    assert "This study cannot run" in said
    assert "77" in said
    assert "steps (" not in said
    assert answer.read_bytes() == before


EXTENDED = """
extensions:
  [my_cams.py, my_similarities.py, my_agreement.py, my_faithfulness.py, my_localization.py]
cam: {methods: [grad-cam, score-cam, ablation-cam, positive-grad-cam]}
dissection: {similarity: top-mean, top-mean: {top_k: 8}}
agreement: {metrics: [spearman, iou, peak-distance]}
faithfulness: {extra: [comprehensiveness]}
localization: {extra: [contrast]}
"""


def test_methods_of_the_users_run_and_rerun_what_uses_them(miniature, tmp_path):
    """The page's own files: what they add runs in the finished study, and nothing that it has."""
    folder = tmp_path / "extended"
    shutil.copytree(miniature, folder, symlinks=True)
    write_files(folder, REPOSITORY / "docs/extending.md")
    after = AFTER_AGREEING | AFTER_LABELLING | {"explain_cam": 2}
    after |= {rule: number for rule, number in AFTER_EXPLAINING.items() if "sanity" not in rule}
    assert rules_after(folder, EXTENDED, tmp_path) == after

    results_of = folder / "results/miniature"
    targets = {
        "explain/object-net/cam-positive-grad-cam-0": tables.HEATMAPS,
        "dissect/scene-net/neurons-0": tables.NEURONS,
        "agree/object-net/agreement-0": tables.AGREEMENT,
        "agree/object-net/faithfulness-0": tables.FAITHFULNESS,
        "agree/object-net/localization-0": tables.LOCALIZATION,
    }
    paths = [f"results/miniature/{name}.parquet" for name in targets]
    studies = [REPOSITORY / "tests/study.yaml", tmp_path / "change.yaml"]
    snakemake(folder, "--cores", "2", *paths, studies=studies)
    heatmaps, neurons, agreement, faithfulness, localization = (
        tables.read_rows(results_of / f"{name}.parquet", schema) for name, schema in targets.items()
    )
    assert {row["method"] for row in heatmaps} == {"positive-grad-cam"}
    assert any(row["concept"] for row in neurons)
    own = [row for row in agreement if row["metric"] == "peak-distance"]
    assert {row["control"] for row in own} == {row["control"] for row in agreement}
    assert any(0 < row["value"] <= 1 for row in own if row["value"] is not None)
    for rows, metric in ((faithfulness, "comprehensiveness"), (localization, "contrast")):
        assert {row["method"] for row in rows if row["metric"] == metric} == {
            *("ablation-cam", "grad-cam", "lime", "positive-grad-cam", "score-cam")
        }

    # Code that changes reruns what uses it; a comment does not, nor does the time of a file.
    for name, old, new in (
        ("my_cams.py", "from", "# Mine.\nfrom"),
        ("my_agreement.py", "", ""),
        ("my_localization.py", "inside].mean() -", "inside].sum() -"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
    assert rules_after(folder, EXTENDED, tmp_path, targets=paths) == {"score_localization": 1}


def photographs_study(folder, real_data, names, **more):
    study = {
        "pictures": [{"folder": str(real_data / "photos"), "include": [f"*{n}.*" for n in names]}],
        "models": [
            {
                "name": "squeezenet",
                "architecture": "squeezenet1_0",
                "checkpoint": str(real_data / "weights/squeezenet1_0_imagenet.pt"),
                "preprocessing": "IMAGENET1K_V1",
                "cam_layer": "features.12",
            }
        ],
        **more,
    }
    path = Path(folder, "own.yaml")
    path.write_text(yaml.safe_dump(study))
    return [REPOSITORY / "studies/photographs.yaml", path]


def test_photographs_run_through_the_same_workflow(real_data, tmp_path, monkeypatch):
    names = ["goldfish", "tiger_shark"]
    more = {
        "lime": {"num_samples": 60},
        "sanity": {"pictures": 1, "methods": ["grad-cam"], "stages": ["classifier"]},
        "faithfulness": {"steps": 3, "road": [0.5]},
        "batches": 1,
        "target": "top-2",
    }
    studies = photographs_study(tmp_path, real_data, names, **more)
    snakemake(tmp_path, "--cores", str(os.cpu_count()), studies=studies)
    folder = tmp_path / "results/photographs"
    predictions = tables.read_rows(folder / "tables/predictions.parquet", tables.PREDICTIONS)
    assert [row["predicted_class"] for row in predictions] == ["goldfish"] * 2 + ["tiger shark"] * 2
    assert [row["target_class"] == row["predicted_class"] for row in predictions] == [
        True,
        False,
    ] * 2
    lime = tables.read_rows(folder / "explain/squeezenet/lime-0.parquet", tables.LIME)
    assert [row["target_index"] for row in lime] == [row["target_index"] for row in predictions]
    agreement = tables.read_rows(folder / "tables/agreement.parquet", tables.AGREEMENT)
    spearman = [
        row["value"] for row in agreement if row["metric"] == "spearman" and row["control"] is None
    ]
    assert len(spearman) == 2 * 2 * 6  # pictures, targets, pairs
    assert all(-1 <= value <= 1 for value in spearman)
    assert not (folder / "world").exists()
    assert "squeezenet" in (folder / "report.html").read_text()
    check_report(tmp_path, "photographs", tmp_path / "report.zip", studies, monkeypatch)

    # The exported parameters give the same explanations in a study of other settings.
    given = tmp_path / "given.pkl"
    exported = (folder / "explain/squeezenet/explain_params.pkl").read_bytes()
    given.write_bytes(exported)
    before = (folder / "explain/squeezenet/lime-0.parquet").read_bytes()
    more["lime"] = {"num_samples": 30, "params": str(given)}
    more["acts"] = {"faithfulness": False}
    studies = photographs_study(tmp_path, real_data, names, **more)
    target = "results/photographs/explain/squeezenet/lime-0.parquet"
    said = snakemake(tmp_path, "--cores", str(os.cpu_count()), target, studies=studies)
    assert "(Rule: explain_lime)" in said
    assert (folder / "explain/squeezenet/lime-0.parquet").read_bytes() == before
    # A changed file reruns LIME: what checks the file must not hide that.
    given.write_bytes(pickle.dumps({"n01443537_goldfish.JPEG": {"num_samples": 20}}))
    said = snakemake(tmp_path, "-n", studies=studies)
    for rule in ("check_explain_params", "explain_lime", "compare_explanations"):
        assert f"rule {rule}:" in said or f"\n{rule} " in said


def test_published_descriptions_are_compared_without_a_model(real_data, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/published").symlink_to(real_data / "published")
    snakemake(tmp_path, "--cores", "2", studies=[REPOSITORY / "studies/published.yaml"])
    folder = tmp_path / "results/published"
    compared = tables.read_rows(folder / "tables/comparison.parquet", tables.COMPARISON)
    values = {
        (row["layer"], row["metric"]): row["value"]
        for row in compared
        if (row["model_a"], row["model_b"]) == ("clip-dissect", "netdissect")
    }
    assert 0 < values["layer4", "jaccard"] < 1
    assert values["layer3", "jaccard"] is None
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "benchmarks",
        "index",
        "logs",
        "tables",
    ]
    page = (folder / "report.html").read_text()
    assert "netdissect" in page
    assert "CLIP-Dissect gives every neuron the word whose pictures" not in page
    studies = [REPOSITORY / "studies/published.yaml"]
    final = check_report(tmp_path, "published", tmp_path / "report.zip", studies, monkeypatch)
    assert final == ["comparison", "concepts", "neurons"]
