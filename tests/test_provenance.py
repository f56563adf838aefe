import hashlib
import os
import sys

import pytest

import consilience
from conftest import REPOSITORY
from consilience import provenance


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of three modules in a chain, and a script that imports the first."""
    folder = tmp_path / "consilience"
    folder.mkdir()
    (folder / "first.py").write_text("from .second import work\n")
    (folder / "second.py").write_text("def work():\n    import numpy\n    return 1\n")
    (folder / "other.py").write_text("x = 1\n")
    (tmp_path / "step.py").write_text("from consilience import first\nfirst.work()\n")
    monkeypatch.setattr(provenance, "LIBRARY", folder)
    provenance._parse.cache_clear()
    yield tmp_path
    provenance._parse.cache_clear()


def digest_after(library, file, text):
    (library / file).write_text(text)
    provenance._parse.cache_clear()
    return provenance.digest(library / "step.py")


def test_what_a_script_depends_on(library):
    code, versions = provenance.dependencies(library / "step.py")
    assert sorted(code) == ["first.py", "scripts/step.py", "second.py"]
    assert list(versions) == ["numpy"]


def test_a_change_in_what_is_imported_indirectly_counts(library):
    before = provenance.digest(library / "step.py")
    text = "def work():\n    import numpy\n    return 2\n"
    assert digest_after(library, "consilience/second.py", text) != before


def test_what_is_not_imported_does_not_count(library):
    before = provenance.digest(library / "step.py")
    assert digest_after(library, "consilience/other.py", "x = 2\n") == before


def test_comments_docstrings_and_layout_do_not_count(library):
    before = provenance.digest(library / "step.py")
    text = '"""About."""\n# why\ndef work():\n    """Work."""\n    import numpy\n\n    return (1)\n'
    assert digest_after(library, "consilience/second.py", text) == before


def test_a_package_version_counts(library, monkeypatch):
    before = provenance.digest(library / "step.py")
    monkeypatch.setattr(provenance, "package_version", lambda name: f"{name} 99")
    assert provenance.digest(library / "step.py") != before


def test_where_the_checkout_lies_does_not_count(library, tmp_path, monkeypatch):
    before = provenance.digest(library / "step.py")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("consilience", "step.py"):
        (library / name).rename(moved / name)
    monkeypatch.setattr(provenance, "LIBRARY", moved / "consilience")
    assert provenance.digest(moved / "step.py") == before


def test_what_only_a_type_checker_imports_does_not_count(library):
    text = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from .other import x\n    import torch\n"
        "else:\n    import numpy\n"
    )
    (library / "consilience/second.py").write_text(text)
    code, versions = provenance.dependencies(library / "step.py")
    assert sorted(code) == ["first.py", "scripts/step.py", "second.py"]
    assert list(versions) == ["numpy"]


def test_packages_that_a_package_computes_with_count(library):
    (library / "consilience/second.py").write_text("import lime\n")
    _, versions = provenance.dependencies(library / "step.py")
    assert list(versions) == ["lime", "numpy", "scipy", "skimage", "sklearn"]


def test_every_package_that_a_step_imports_has_a_version():
    for script in sorted((REPOSITORY / "workflow/scripts").glob("*.py")):
        code, versions = provenance.dependencies(script)
        paths = [script, *(provenance.LIBRARY / name for name in code if "/" not in name)]
        for path in paths:
            for name in set(provenance._parse(path)[2]) - sys.stdlib_module_names:
                assert name in versions, f"{path.name} imports {name}"


def test_what_was_found_in_files_is_kept_for_later_processes(library, monkeypatch):
    before = provenance.digest(library / "step.py")
    provenance.write_known(library / "code.json")
    monkeypatch.setattr(provenance, "_known", {})
    provenance._parse.cache_clear()
    provenance.read_known(library / "code.json")
    monkeypatch.setattr(provenance.ast, "parse", None)  # nothing is parsed again
    assert provenance.digest(library / "step.py") == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"by": "another", "known": {"a": 1}}'])
def test_what_cannot_be_used_of_that_is_passed_over(library, monkeypatch, text):
    monkeypatch.setattr(provenance, "_known", {})
    (library / "code.json").write_text(text)
    provenance.read_known(library / "code.json")
    provenance.read_known(library / "none.json")
    assert provenance._known == {}


def test_other_files_that_a_script_reads_count_by_content(library):
    page = library / "page.j2"
    page.write_text("one")
    before = provenance.digest(library / "step.py", [page])
    os.utime(page, (1, 1))
    assert provenance.digest(library / "step.py", [page]) == before
    page.write_text("two")
    assert provenance.digest(library / "step.py", [page]) != before


def test_packages_are_found_by_the_names_they_are_imported_by():
    for name in ("PIL", "skimage", "yaml", "clip", "pytorch_grad_cam", "torch", "cv2"):
        assert provenance.package_version(name), name
    assert provenance.package_version("json") is None


def test_a_file_is_hashed(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    known = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert provenance.hash_file(tmp_path / "empty") == known


def test_a_report_names_the_versions_its_results_rest_on():
    versions = provenance.reported_versions()
    assert versions["consilience"] == consilience.__version__
    assert {"python", "torch", "grad-cam", "lime", "pillow"} <= set(versions)


@pytest.fixture
def nets(tmp_path):
    """A user's modules: a package whose models import a module in it and one beside it."""
    files = {
        "nets/__init__.py": "",
        "nets/models.py": "from .layers import Head\nfrom . import blocks\nimport beside, numpy\n",
        "nets/layers.py": "Head = 1\n",
        "nets/blocks.py": "x = 1\n",
        "nets/other.py": "x = 1\n",
        "beside.py": "x = 1\n",
    }
    (tmp_path / "nets").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "counts"),
    [
        ("nets/models.py", "from .layers import Head\n", True),
        ("nets/layers.py", "Head = 2\n", True),
        ("nets/blocks.py", "x = 2\n", True),
        ("nets/__init__.py", "x = 2\n", True),
        ("beside.py", "x = 2\n", True),
        ("beside.py", "x = 1 +\n", True),
        ("nets/other.py", "x = 2\n", False),
        ("nets/layers.py", "# a head\nHead = 1\n", False),
    ],
)
def test_a_module_of_the_users_counts_with_what_it_imports(nets, file, text, counts):
    before = provenance.digest_module("nets.models", nets)
    (nets / file).write_text(text)
    assert (provenance.digest_module("nets.models", nets) != before) == counts


def test_an_installed_module_counts_by_its_version(nets, monkeypatch):
    names = ("torchvision.models", "nets.models")  # which imports numpy
    before = [provenance.digest_module(name, nets) for name in names]
    monkeypatch.setattr(provenance, "package_version", lambda name: f"{name} 99")
    after = [provenance.digest_module(name, nets) for name in names]
    assert all(one != two for one, two in zip(before, after, strict=True))


def test_times_are_added_up_by_kind_of_step(tmp_path):
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"

    def write(name, seconds, memory, cpu):
        row = [seconds, "0:00:01", memory, *"123", 0, 0, 50, cpu]
        (tmp_path / f"{name}.tsv").write_text(head + "\t".join(map(str, row)) + "\n")

    write("explain_cam-object-net-grad-cam-0", 2.5, 100.0, 2.0)
    write("explain_cam-object-net-lime-1", 3.5, 300.0, "NA")
    write("check", 0.1, "-", "-")
    write("write_report", 99, 99, 99)
    (tmp_path / "broken.tsv").write_text("nothing\n")
    (tmp_path / "bytes.tsv").write_bytes(b"\xff\xfe")
    assert provenance.read_times(tmp_path) == [
        {"step": "explain cam", "jobs": 2, "seconds": 6.0, "cpu_seconds": 2.0, "memory_mb": 300.0},
        {"step": "check", "jobs": 1, "seconds": 0.1, "cpu_seconds": None, "memory_mb": None},
    ]
    assert provenance.read_times(tmp_path / "nowhere") == []
    # Steps of other settings are left out where it is said which count.
    listed = tmp_path / "listed"
    listed.write_text("results/own/benchmarks/explain_cam-object-net-lime-1.tsv\nelsewhere/x.tsv\n")
    assert [row["seconds"] for row in provenance.read_times(tmp_path, listed)] == [3.5]
    assert len(provenance.read_times(tmp_path, tmp_path / "unwritten")) == 2


def test_pictures_have_one_hash_whatever_their_order():
    rows = [{"name": "b.png", "sha256": "0" * 64}, {"name": "a.png", "sha256": "1" * 64}]
    listed = f"{'1' * 64}  a.png\n{'0' * 64}  b.png\n"
    expected = hashlib.sha256(listed.encode()).hexdigest()
    assert provenance.hash_pictures(rows) == provenance.hash_pictures(rows[::-1]) == expected
    assert provenance.hash_pictures(rows[:1]) != expected
