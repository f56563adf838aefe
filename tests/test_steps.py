import gc
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from consilience import steps
from consilience.errors import ConsilienceError


def test_lines_go_to_the_log(tmp_path):
    with steps.logged(tmp_path / "log") as log:
        log("half way")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].endswith("half way")
    said = r"\[ +[\d.]+ s\] done: [\d.]+ s, processor [\d.]+ s; start-up before it [\d.]+ s"
    assert re.fullmatch(said, lines[1])


def test_a_step_whose_outputs_are_there_is_done(tmp_path):
    with steps.logged(tmp_path / "log") as log:
        log("there already")
        raise steps.Finished
    assert "] done: " in (tmp_path / "log").read_text().splitlines()[1]


def test_the_librarys_messages_go_to_the_log(tmp_path):
    with steps.logged(tmp_path / "log"):
        logging.getLogger("consilience.cam").warning("%d pictures", 3)
    logging.getLogger("consilience.cam").warning("too late")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].endswith("warning: 3 pictures")
    assert len(lines) == 2


def test_a_users_error_has_no_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught, steps.logged(tmp_path / "log"):
        raise ConsilienceError("file x: is broken; mend it")
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: file x: is broken; mend it\n"
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert "file x: is broken" in (tmp_path / "log").read_text()


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), steps.logged(tmp_path / "log"):
        1 / 0  # noqa: B018
    assert "Traceback" in (tmp_path / "log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_does_not_end_the_step(capsys):
    with steps.logged("/dev/full") as log:
        log("one")
        log("two")
        worked = True
    assert worked
    said = capsys.readouterr().err
    assert said == "/dev/full: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("step", [True, False])
def test_rubbish_is_collected_but_while_a_step_imports(step, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        ("class Snakemake: pass\nsnakemake = Snakemake()\n" if step else "snakemake = 1\n")
        + "import gc\nfrom consilience import steps\nprint(gc.isenabled(), gc.get_freeze_count())\n"
        "with steps.logged('log'):\n    print(gc.isenabled(), gc.get_freeze_count() > 1000)\n"
        "print(gc.get_freeze_count())\n"
    )
    said = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(REPOSITORY / "workflow")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == f"{not step} 0\nTrue True\n0\n"
    assert gc.isenabled()
