"""What it costs to plan a large study: `snakemake -n` with as many files as ImageNet has.

    python benchmarks/dry_run.py                50,000 pictures and 1,280,000 probe pictures

The files are empty and lie in a thousand folders each, in a temporary folder. Their first indexing
(which with real files reads them all) stands apart; then the same command is given again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parent.parent
# Its children alone, so that each command's largest memory is its own.
MEASURE = """
import json, os, resource, subprocess, sys, time
began = time.monotonic()
status = subprocess.run(sys.argv[1:], stdout=open("said.txt", "w"), stderr=subprocess.STDOUT)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
wall, cpu = time.monotonic() - began, used.ru_utime + used.ru_stime
print(json.dumps([status.returncode, wall, cpu, used.ru_maxrss / 1024]))
"""


def make_files(folder: Path, count: int) -> None:
    """Make so many empty files, dealt to a thousand folders as ImageNet's are."""
    for part in range(1000):
        inner = folder / f"n{part:08d}"
        inner.mkdir(parents=True)
        for number in range(part, count, 1000):
            os.close(os.open(inner / f"n{part:08d}_{number}.JPEG", os.O_CREAT | os.O_WRONLY))


def write_study(folder: Path, batches: int, shards: int) -> Path:
    """Write down a study of two ResNets with every act on, and the files that it names."""
    for name in ("one.pt", "two.pt", "clip.pt"):
        (folder / name).write_bytes(b"never read")
    (folder / "words.txt").write_text("\n".join(f"word {number}" for number in range(20_000)))
    common = {
        "architecture": "resnet50",
        "preprocessing": "IMAGENET1K_V2",
        "dissect_layers": ["layer3", "layer4", "fc"],
        "cam_layer": "layer4",
    }
    study = {
        "study": "large",
        "world": None,
        "pictures": [{"folder": "pictures"}],
        "probe": [{"folder": "probe"}],
        "batches": batches,
        "shards": shards,
        "models": [common | {"name": name, "checkpoint": f"{name}.pt"} for name in ("one", "two")],
        "clip": {"train": None, "path": "clip.pt"},
        "concepts": "words.txt",
        "dissection": {"soft-wpmi": {"a": 10}},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def plan(folder: Path, study: Path) -> tuple[float, float, float, str]:
    """Plan the study; return seconds of the clock, of the processor, MB, and the jobs."""
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", REPOSITORY / "Snakefile"]
    command += ["--workflow-profile", REPOSITORY / "profiles/default", "--directory", folder]
    command = [sys.executable, "-c", MEASURE, *command, "--configfile", study]
    run = subprocess.run(list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, text=True)
    status, wall, cpu, memory = yaml.safe_load(run.stdout)
    said = (folder / "said.txt").read_text()
    if status:
        raise SystemExit(said[-3000:])
    jobs = next(line.split()[1] for line in said.splitlines() if line.startswith("total"))
    return wall, cpu, memory, jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--probe", type=int, default=1_280_000)
    parser.add_argument("--batches", type=int, default=50, help="of the pictures: jobs")
    parser.add_argument("--shards", type=int, default=64, help="of the probe pictures: jobs")
    parser.add_argument("--rounds", type=int, default=3, help="plans with a warm index")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        make_files(folder / "pictures", given.pictures)
        make_files(folder / "probe", given.probe)
        print(f"{given.pictures + given.probe} files made in {time.monotonic() - began:.0f} s")
        study = write_study(folder, given.batches, given.shards)
        for number in range(1 + given.rounds):
            wall, cpu, memory, jobs = plan(folder, study)
            load = os.getloadavg()[0]
            print(
                f"{'warm' if number else 'cold'}: {jobs} jobs planned in {wall:.1f} s, processor "
                f"{cpu:.1f} s, at most {memory:.0f} MB (load {load:.1f})",
                flush=True,
            )
        (folder / "probe/n00000000/new.JPEG").touch()
        wall, cpu, memory, _ = plan(folder, study)
        print(f"one added: {wall:.1f} s, processor {cpu:.1f} s, at most {memory:.0f} MB")


if __name__ == "__main__":
    main()
