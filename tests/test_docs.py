"""The pages say what the code does, and every command in them is tried.

How a command is tried, by what it begins with:

- ``make <target>``: ``make -n``. That run, lint and test work is what ``.ci/run`` shows.
- ``snakemake``: the very command with ``-n``, in a copy of the checkout that holds what the page
  asks the reader to put there (stand-ins: a small picture, an empty checkpoint). All in forks of
  one process, as most of a dry run is importing Snakemake. With the profile for SLURM too; that it
  runs on a cluster is what ``test_slurm.py`` shows.
- ``python -m consilience.submit``: its ``main``, against a server on this machine instead of
  example.org.
- ``python -m consilience.assets``: its ``main``; ``list`` as it is, ``fetch`` with a proxy that
  refuses, so that it must name each file that it could not fetch.
- ``python tests/slurm/cluster.py``: that there is such an action, which ``test_slurm.py`` runs.
- ``python benchmarks/…``: that there is such a script, and Python can compile it.

A command that begins with anything else fails the test. Commands within a sentence are held against
the program's own options.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import consilience
from conftest import REPOSITORY
from consilience import (
    agreement,
    assets,
    claims,
    comparison,
    configuration,
    explain_params,
    extensions,
    faithfulness,
    localization,
    questions,
    submit,
)
from consilience.similarity import SIMILARITIES
from pages import FENCE, PAGES, find_blocks, write_files
from test_submit import SECRET, serve

MORE_PAGES = [
    *PAGES,
    *(REPOSITORY / name for name in ("CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
]


def program(*arguments, cwd, **variables):
    """Run a program with this test's Python first in the path; return what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        list(map(str, arguments)),
        cwd=cwd,
        env={**os.environ, "PATH": path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return run.returncode, run.stdout


# Pages that are written from the code


def test_the_written_pages_are_current():
    script = REPOSITORY / "docs/generate.py"
    status, said = program(sys.executable, script, "--check", cwd=REPOSITORY)
    assert status == 0, said


def test_a_page_that_is_not_current_and_a_column_that_is_not_described_are_said(tmp_path):
    for name in ("docs", "workflow/schemas", "workflow/consilience"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    schema = tmp_path / "workflow/schemas/config.schema.yaml"
    schema.write_text(schema.read_text().replace("Title of the report.", "Its title."))
    script = tmp_path / "docs/generate.py"
    status, said = program(sys.executable, script, "--check", cwd=tmp_path)
    assert (status, said) == (1, "docs: configuration.md not current; run make docs\n")
    table = tmp_path / "workflow/consilience/tables.py"
    text = table.read_text()
    table.write_text(text.replace("CLAIMS = _schema(", "CLAIMS = _schema(\n    extra=_text,"))
    status, said = program(sys.executable, script, "--check", cwd=tmp_path)
    assert "tables.py: CLAIMS.extra has no comment above it, and no line in columns.yaml" in said


def test_methods_are_named_with_all_that_the_study_can_name():
    page = (REPOSITORY / "docs/methods.md").read_text()
    schema = configuration.read_schema()["properties"]
    names = [
        *SIMILARITIES,
        *schema["cam"]["properties"]["methods"]["items"]["enum"],
        *schema["agreement"]["properties"]["metrics"]["items"]["enum"],
        *schema["lime"]["properties"]["segmentation"]["enum"],
        *agreement.FLOORS,
        agreement.CEILING,
        *questions._ESTIMANDS,
        *claims.CLAIMS,
    ]
    names += [*faithfulness.METRICS, *localization.METRICS, *localization.OFFSETS]
    compared = re.findall(r"``(\w+)``", comparison.compare_models.__doc__)
    compared += re.findall(r"``(\w+)``", comparison.compare_with_classes.__doc__)
    names += {name for name in compared if "_" in name} - {"model_a", "model_b"}
    assert [name for name in names if f"`{name}`" not in page] == []


# Messages


def find_messages():
    """Texts of the code, NUL standing for what an f-string puts in."""
    folders = [REPOSITORY / "workflow", REPOSITORY / "rules"]
    for path in [path for folder in folders for path in folder.rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                yield "".join(p.value if isinstance(p, ast.Constant) else "\0" for p in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in [*(REPOSITORY / "rules").glob("*.smk"), REPOSITORY / "Makefile"]:
        # Adjacent texts are one.
        yield re.sub(r'"\s*\\?\s*f?"', "", path.read_text())
    import snakemake.persistence

    yield Path(snakemake.persistence.__file__).read_text()


def test_each_message_of_the_page_stands_in_the_code():
    page = (REPOSITORY / "docs/troubleshooting.md").read_text()
    headings = re.findall(r"^### (.*)$", page, re.MULTILINE)
    messages = list(find_messages())
    assert len(headings) > 25
    for heading in headings:
        assert re.fullmatch(r"`[^`]+`", heading), f"{heading}: is no message"
        parts = [part.strip() for part in heading.strip("`").split("…")]
        assert max(map(len, parts)) >= 10, f"{heading}: too little to look for"
        wanted = re.compile("[^\n]*?".join(map(re.escape, parts)))
        assert any(wanted.search(message) for message in messages), (
            f"{heading}: nowhere in the code"
        )


# Links


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in headings}


@pytest.mark.parametrize("page", MORE_PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_the_index_names_every_page():
    text = (REPOSITORY / "docs/README.md").read_text()
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in text, page.name


# Version, licence, citation


def test_there_is_one_version():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert consilience.__version__ == cited["version"] == newest


def test_the_citation_has_what_its_format_asks_for():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["message"]
    licence = (REPOSITORY / "LICENSE").read_text()
    assert licence.startswith(f"{cited['license']} License\n")
    for work in (cited, *cited["references"]):
        assert work["title"]
        for author in work["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"})
    assert cited["authors"][0]["name"] in licence


# Studies


def test_the_page_s_studies_are_sound(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = write_files(tmp_path, REPOSITORY / "docs/extending.md")
    assert len(names) == 6
    default = configuration.read_yaml(REPOSITORY / "config.yaml")
    used = set()
    blocks = [b for b in find_blocks(REPOSITORY / "docs/extending.md") if b.language == "yaml"]
    for block in blocks:
        study = yaml.safe_load(block.text)
        used |= {entry.kind for entry in extensions.find_entries(study["extensions"])}
        for key, value in study.items():
            study[key] = default.get(key, {}) | value if isinstance(value, dict) else value
        configuration.resolve_study(default | study)
    assert used == set(extensions.KINDS)


# Commands


def find_commands():
    """Every command of the pages, once, with the first page that it stands in."""
    found = {}
    for block in find_blocks(*MORE_PAGES):
        if block.language in ("", "sh", "bash", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = " ".join(shlex.split(line, comments=True, posix=False))
                if words:
                    found.setdefault(words, block.page)
    return found


COMMANDS = find_commands()


def split(command):
    """Return a command's words, without variables, which each way sets as it needs them."""
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return [words[0].removeprefix(".venv/bin/"), *words[1:]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout with what the pages ask the reader to put there, to work in.

    Its user's home has no weights in its caches.
    """
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("workflow", "rules", "studies", "profiles", "envs"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("Snakefile", "config.yaml", "Makefile"):
        shutil.copy2(REPOSITORY / name, folder / name)
    for name in ("photographs", "probe", "checkpoints"):
        (folder / "data" / name).mkdir(parents=True)
    for name in ("photographs", "probe"):
        Image.new("RGB", (8, 8)).save(folder / "data" / name / "a.png")
    (folder / "data/checkpoints/squeezenet1_0.pt").touch()
    (folder / "data/checkpoints/mine.safetensors").touch()
    (folder / "data/classes.txt").write_text("a\nb\nc\nd\ne\n")
    (folder / "data/words.txt").write_text("ball\nbox\n")
    params = folder / "results/default/explain/object-net/explain_params.pkl"
    params.parent.mkdir(parents=True)
    explain_params.write_params({"a.png": {"num_samples": 20}}, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        yield folder


@pytest.fixture(scope="module")
def planned(checkout):
    """What Snakemake says to each of its commands, by command: exit status and text."""
    asked = [command for command in COMMANDS if find_way(split(command)) is try_snakemake]
    jobs = []
    for number, command in enumerate(asked):
        words = split(command)
        # What the page says stands in files of the reader's.
        files = {block.file: block.text for block in find_blocks(COMMANDS[command]) if block.file}
        for path, text in files.items():
            Path(path).write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            # torchvision and clip are asked about their weights here, not in a process each time.
            patch.setattr(assets, "_ask", assets.derive_assets)
            given = [word for word in words if word.endswith(".yaml")]
            study = configuration.read_study(given)
            assets.resolve_assets(study, f"results/{study['study']}/index/assets.json")
        # To take a lock away there is nothing to plan.
        words += [] if "--unlock" in words else ["-n"]
        jobs.append({"words": words, "files": files, "said": str(checkout / f"{number}.txt")})
    run = subprocess.run(
        [sys.executable, REPOSITORY / "tests/forks.py"],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stderr
    said = [Path(job["said"]).read_text() for job in jobs]
    return dict(zip(asked, zip(json.loads(run.stdout), said, strict=True), strict=True))


def try_make(command, request):
    status, said = program(
        "make", "-n", *split(command)[1:], cwd=request.getfixturevalue("checkout")
    )
    assert status == 0, said


def try_snakemake(command, request):
    status, said = request.getfixturevalue("planned")[command]
    assert status == 0, said
    if "--unlock" in command:
        assert "Unlocked working directory." in said
    elif "studies/imagenet-vs-places.yaml" in command:
        assert "this run fetches them" in said
        assert re.search(r"^fetch_20k_txt +1$", said, re.MULTILINE)
    else:
        assert re.search(r"^write_report +1$", said, re.MULTILINE)


def try_submit(command, request):
    request.getfixturevalue("checkout")
    patch = request.getfixturevalue("monkeypatch")
    patch.setenv("CONSILIENCE_TOKEN", SECRET)
    with serve(200) as (url, seen):
        words = [url if word.startswith("https://") else word for word in split(command)[3:]]
        assert submit.main(words) == 0
    assert seen[0][1]["Authorization"] == f"Bearer {SECRET}"


def try_assets(command, request):
    request.getfixturevalue("checkout")
    patch, captured = (request.getfixturevalue(name) for name in ("monkeypatch", "capsys"))
    for name in ("http_proxy", "https_proxy"):
        patch.setenv(name, "http://127.0.0.1:9")
    words = split(command)[3:]
    if words[0] == "list":
        assert assets.main(words) == 0
        assert captured.readouterr().out.count("missing, ") == 16
    else:
        assert assets.main([*words, "--tries", "1"]) == 1
        assert "16 files of others are missing" in captured.readouterr().err


def try_cluster(command, request):
    from slurm import cluster

    (action,) = split(command)[2:]
    assert callable(getattr(cluster, action))
    text = (REPOSITORY / "tests/test_slurm.py").read_text() + (REPOSITORY / ".ci/run").read_text()
    assert f"daemons.{action}(" in text or f"cluster.py {action}" in text


def try_benchmark(command, request):
    script = REPOSITORY / split(command)[1]
    compile(script.read_text(), script.name, "exec")


KNOWN = {
    ("make",): try_make,
    ("snakemake",): try_snakemake,
    ("python", "-m", "consilience.submit"): try_submit,
    ("python", "-m", "consilience.assets"): try_assets,
    ("python", "tests/slurm/cluster.py"): try_cluster,
    ("python", "benchmarks/"): try_benchmark,
}


def find_way(words):
    """Return how a command is tried."""
    for start, way in KNOWN.items():
        if len(words) >= len(start) and all(map(str.startswith, words, start)):
            return way
    raise AssertionError(f"no way is known to try the command: {' '.join(words)}")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(command, request):
    find_way(split(command))(command, request)


@pytest.mark.parametrize("command", ["curl https://example.org", "python -m consilience.nothing"])
def test_a_command_that_nothing_is_known_of_fails(command):
    with pytest.raises(AssertionError, match="no way is known"):
        find_way(shlex.split(command))


def test_commands_within_sentences_have_options_that_exist():
    from snakemake.cli import get_argument_parser

    options = set(get_argument_parser()._option_string_actions)
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    found = 0
    for page in MORE_PAGES:
        for span in re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
            words = span.split()
            if words[0].startswith("--") and page.parent.name == "benchmarks":
                continue  # of the script in the same row
            if words[0] == "make" and len(words) > 1:
                assert {w for w in words[1:] if "=" not in w} <= targets, f"{page.name}: {span}"
            elif words[0] == "snakemake" or re.fullmatch(r"--[a-z-]+(=.*)?", words[0]):
                given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
                of_sbatch = {"--cpus-per-task", "--gpus"}
                assert given - of_sbatch <= options, f"{page.name}: {span}"
            else:
                continue
            found += 1
    assert found > 20
