"""Files of the user's: found without running them, and loaded where they are used."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import REPOSITORY
from consilience import check, configuration, extensions, registry
from consilience.errors import ConsilienceError
from consilience.extensions import find_entries, select
from consilience.registry import load

CAM = """
from consilience import registry

@registry.cam("my-cam")
def explain(activations):
    '''How it reads.

    More.
    '''
    return activations.sum(axis=1)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory of its own; nothing that is loaded in it outlives the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield tmp_path
    for kind in registry.KINDS:
        for name in list(registry._registered[kind]):
            registry.forget(kind, name)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(name, text=CAM):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def test_names_are_found_however_the_registry_is_imported():
    text = """
import consilience.registry
import consilience.registry as again
from consilience import registry as kinds
from consilience.registry import agreement, localization as against
raise RuntimeError("nothing is run")

@consilience.registry.cam("a")
def one(activations): ...

@again.similarity("b")
def two(activations, cosines, *, top_k=3, share=0.5): ...

@agreement("c", higher_agrees=False)
@print
def three(a, b): ...

@against("d")
def four(values, inside): ...

@kinds.cam("e")
class Five: ...

@registry.cam("not ours")
@other("f")
def six(): ...
"""
    found = find_entries([write("mine.py", text)])
    assert [(entry.kind, entry.name, entry.settings) for entry in found] == [
        ("cam", "a", ()),
        ("similarity", "b", ("top_k", "share")),
        ("agreement", "c", ()),
        ("localization", "d", ()),
        ("cam", "e", ()),
    ]


def test_the_docstring_s_first_paragraph_is_kept():
    (entry,) = find_entries([write("deep/er/mine.py")])
    assert (entry.about, entry.line) == ("How it reads.", 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (\n", r"mine.py, line 1: not Python \('\(' was never closed\)"),
        ("x = '\0'\n", "not Python"),
        ("x = 1\n", "registers nothing; decorate a function in it with"),
        (CAM.replace(".cam(", ".cams("), "line 4: nothing is registered by 'cams'; did you mean"),
        (CAM.replace('("my-cam")', ""), "line 4: write the name out, as in @registry.cam"),
        (CAM.replace('"my-cam"', "NAME"), "line 4: write the name out"),
        (CAM.replace("my-cam", "My cam"), "line 4: 'My cam' cannot be a name"),
        (CAM.replace("my-cam", "lime"), "line 4: 'lime' cannot be a name"),
        (CAM.replace("my-cam", "../x"), "line 4: '../x' cannot be a name"),
        (CAM + CAM, "line 14: the CAM method 'my-cam' is registered in mine.py, line 4, too"),
    ],
)
def test_what_cannot_be_found_is_said_with_its_place(text, said):
    with pytest.raises(ConsilienceError, match=said) as caught:
        find_entries([write("mine.py", text)])
    assert "mine.py" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone.py", r"extensions\[0\]: there is no file 'gone.py'; put it there"),
        ("../mine.py", "must be a path below the directory that Snakemake runs in"),
        ("/tmp/mine.py", "must be a path below the directory"),
        ("my-file.py", "cannot be imported; it must be a file like my_methods.py"),
        ("mine", "cannot be imported"),
        ("some.folder/mine.py", "cannot be imported"),
    ],
)
def test_paths_that_cannot_be_imported_are_refused(path, said):
    with pytest.raises(ConsilienceError, match=said):
        find_entries([path])


def test_two_files_must_not_register_one_name():
    paths = [write("one.py"), write("two.py")]
    with pytest.raises(ConsilienceError, match=r"two.py, line 4: .* registered in one.py, line 4"):
        find_entries(paths)


def default(**changes):
    return configuration.read_yaml(REPOSITORY / "config.yaml") | changes


def test_registered_names_stand_in_a_study():
    text = """
from consilience import registry as r
@r.similarity("mine")
def a(activations, cosines, *, top_k=3): ...
@r.agreement("mine")
def b(a, b): ...
@r.faithfulness("mine")
def c(picture, values, ranks, ask): ...
@r.localization("mine")
def d(values, inside): ...
"""
    study = default(extensions=[write("cams.py"), write("others.py", text)])
    study["cam"] = {"methods": ["grad-cam", "my-cam"]}
    study["sanity"] = {"methods": ["my-cam", "lime"]}
    study["dissection"] = {"similarity": "mine", "mine": {"top_k": 4}}
    study["agreement"] = {"metrics": ["spearman", "mine"]}
    study["faithfulness"] = study["localization"] = {"extra": ["mine"]}
    resolved = configuration.resolve_study(study)
    assert resolved["dissection"]["mine"] == {"top_k": 4}
    assert resolved["faithfulness"]["extra"] == ["mine"]
    # What is not given has its defaults, and no setting of an unused similarity.
    study["dissection"] = {}
    assert configuration.resolve_study(study)["dissection"]["mine"] == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extensions": "mine.py"}, "extensions: 'mine.py' is not of type array"),
        ({"extensions": [3]}, r"extensions\[0\]: 3 is not of type string"),
        ({"extensions": ["mine.py", "mine.py"]}, "registered in mine.py, line 4, too"),
        (
            {"extensions": ["mine.py"], "cam": {"methods": ["my-cma"]}},
            r"cam.methods\[0\]: 'my-cma' is not known; did you mean 'my-cam'\?",
        ),
        (
            {"cam": {"methods": ["own"]}},
            r"cam.methods\[0\]: 'own' is not known; .*fem, or a CAM method that a file of "
            "`extensions` registers",
        ),
        (
            {"localization": {"extra": ["own"]}},
            r"localization.extra\[0\]: 'own' is not known; it must be a measure of localisation "
            "that a file of `extensions` registers",
        ),
        (
            {"extensions": ["mine.py"], "sanity": {"methods": ["my-cma"]}},
            r"sanity.methods\[0\]: 'my-cma' is not known; did you mean 'my-cam'\?",
        ),
        (
            {"extensions": ["similar.py"], "dissection": {"similarity": "own", "own": {"to_k": 3}}},
            "unknown key 'dissection.own.to_k'; did you mean 'top_k'",
        ),
        (
            {
                "extensions": ["similar.py"],
                "dissection": {"similarity": "own", "own": {"a": "absent-words"}},
            },
            "dissection.own.a: absent-words is for soft-wpmi and wpmi; give a number",
        ),
        ({"extensions": ["ours.py"]}, "ours.py, line 4: the CAM method 'grad-cam' has a name of"),
        ({"extensions": ["key.py"]}, "key.py, line 2: the similarity 'significance' has a name of"),
    ],
)
def test_mistakes_in_a_study_are_named(changes, said):
    write("mine.py")
    write("ours.py", CAM.replace("my-cam", "grad-cam"))
    similar = "from consilience import registry\n@registry.similarity('own')\n"
    similar += "def f(activations, cosines, *, top_k=3, a=1): ...\n"
    write("similar.py", similar)
    write("key.py", similar.replace("own", "significance"))
    with pytest.raises(ConsilienceError, match=said):
        configuration.resolve_study(default(**changes))


def test_the_main_process_runs_nothing_of_it():
    """PyTorch takes seconds to import, and the Snakefile must not."""
    write("mine.py", f"import torch, pytorch_grad_cam\nprint('run')\n{CAM}")
    program = """
import sys
from consilience import configuration, extensions
study = configuration.read_yaml(sys.argv[1]) | {"extensions": ["mine.py"]}
study["cam"] = {"methods": ["my-cam"]}
configuration.resolve_study(study)
assert extensions.select(extensions.find_entries(["mine.py"]), [("cam", "my-cam")])
assert not {"torch", "numpy", "mine", "consilience.cam"} & set(sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(REPOSITORY / "config.yaml")],
        env={"PYTHONPATH": str(REPOSITORY / "workflow")},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr


def test_a_step_depends_on_the_files_that_it_uses():
    write("shared.py", "x = 1\n")
    measure = CAM.replace("registry.cam", "registry.localization").replace("my-cam", "own")
    paths = [write("one.py", f"import shared\n{CAM}"), write("two.py", measure)]

    def digests(*names):
        files = select(find_entries(paths), names)
        return {file["path"]: file["code"] for file in files}

    cams = digests(("cam", "my-cam"), ("cam", "grad-cam"))
    both = digests(("cam", "my-cam"), ("localization", "own"))
    assert list(cams) == ["one.py"]
    assert list(both) == paths
    assert cams["one.py"] == both["one.py"]
    assert digests(("cam", "own"), ("similarity", "my-cam")) == {}
    write("two.py", measure.replace("How it reads", "How it is read"))
    assert digests(("cam", "my-cam"), ("localization", "own")) == both
    write("two.py", measure.replace("sum", "mean"))
    assert digests(("cam", "my-cam")) == cams
    assert digests(("localization", "own")) != {"two.py": both["two.py"]}
    write("shared.py", "x = 2\n")
    assert digests(("cam", "my-cam")) != cams


def every(paths):
    entries = find_entries(paths)
    return select(entries, [(entry.kind, entry.name) for entry in entries])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mine.py", f"{CAM}\n1 / 0\n", r"mine.py, line 12: cannot be imported \(ZeroDivisionError"),
        ("mine.py", f"import nowhere\n{CAM}", r"mine.py, line 1: cannot be imported \(ModuleNotF"),
        ("json.py", CAM, r"json.py cannot be imported, as 'json' is the module .*give the file"),
        (
            "mine.py",
            CAM.replace("import registry", "import registry\nregistry.cam = lambda name: print"),
            "mine.py does not register the CAM method 'my-cam' when it runs",
        ),
        (
            "mine.py",
            f"{CAM}\nregistry.cam('my-cam')(lambda activations: 0)\n",
            "extensions: mine.py: the CAM method 'my-cam' is registered twice",
        ),
    ],
)
def test_a_file_that_fails_is_named(name, text, said, monkeypatch):
    monkeypatch.setattr(registry, "cam", registry.cam)  # put back what a file overwrites
    with pytest.raises(ConsilienceError, match=said):
        load(every([write(name, text)]))


def test_files_may_import_one_another_early_and_late():
    write("pack/shared.py", "x = 1\n")
    text = CAM.replace("return", "from pack import late\n    return late.y +")
    write("pack/late.py", "y = 2\n")
    load(every([write("pack/mine.py", f"from .shared import x\n{text}")]))
    function, _ = registry._registered["cam"]["my-cam"]
    assert function(np.ones((1, 2, 3, 3))).tolist() == [[[4.0] * 3] * 3]


def test_the_check_says_what_does_not_suit(tmp_path):
    question, answer = tmp_path / "question.json", tmp_path / "answer.json"
    asked = {"models": [], "layers": {}, "target": "predicted", "explained": []}
    write("mine.py", CAM.replace("(activations)", "(activations, gradients, more)"))
    question.write_text(json.dumps(asked | {"extensions": every(["mine.py"])}))
    said = r"the CAM method 'my-cam' \(mine.explain\): its function must take \(activations, grad"
    with pytest.raises(ConsilienceError, match=said):
        check.answer(question, answer, print)
    assert not answer.exists()
    write("good.py")
    registry.forget("cam", "my-cam")
    question.write_text(json.dumps(asked | {"extensions": every(["good.py"])}))
    check.answer(question, answer, print)
    assert answer.exists()


def test_the_page_s_table_names_every_kind():
    page = (REPOSITORY / "docs/extending.md").read_text()
    for kind in registry.KINDS:
        assert f'`@registry.{kind}("name")`' in page
    assert extensions.KINDS is registry.KINDS
