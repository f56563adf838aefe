"""The server that runs Snakemake for tests says what Snakemake would."""

import pytest

import dry_runs

SNAKEFILE = """
import os, sys
print("asked by", os.environ.get("WHO"), file=sys.stderr)
rule all:
    output: "made.txt"
    shell: "{command}"
"""


@pytest.mark.parametrize(
    ("command", "said", "fails"),
    [
        ("cat > made.txt", "1 of 1 steps", False),  # nothing stands in its standard input
        ("exit 3", "Error in rule all", True),
    ],
)
def test_a_run_ends_as_it_would_by_itself(tmp_path, monkeypatch, command, said, fails):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.replace("{command}", command))
    server = dry_runs.server()
    monkeypatch.setenv("WHO", "me")
    text, jobs = server.run(tmp_path, "--cores", "1", check=False)
    assert said in text
    assert "asked by me" in text
    assert [job["rule"] for job in jobs] == ["all"]
    assert (tmp_path / "made.txt").is_file() != fails
    if fails:
        with pytest.raises(AssertionError, match="Error in rule all"):
            server.run(tmp_path, "--cores", "1")


def test_a_run_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.replace("{command}", "sleep 600"))
    server = dry_runs.server()
    with pytest.raises(AssertionError, match="not done after 1 s"):
        server.run(tmp_path, "--cores", "1", timeout=1)
    (job,) = server.run(tmp_path, "-n", "--nolock")[1]
    assert job["rule"] == "all"
