"""How much longer a study takes than its steps' own work must, and where the time goes.

    python benchmarks/study.py --run --cores 2     the default study, from nothing, in a new folder
    python benchmarks/study.py results/default     one that has run, without the run's own time

A step's own work is what its log says at the end: without starting Python, imports and Snakemake.
A run cannot take less than the longest chain of steps that wait for one another (the critical
path), nor than the work of all steps divided by the cores; the larger of the two is what a run is
held against. Both are given in seconds of the clock and of the processor: on a machine that does
something else too, only the latter mean much.
"""

import argparse
import base64
import csv
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
DONE = re.compile(r"\] done: ([\d.]+) s, processor ([\d.]+) s; start-up before it ([\d.]+) s$")


@dataclass
class Job:
    """A step that ran: seconds of its own work by the clock and the processor, and to start."""

    rule: str
    wall: float
    cpu: float
    start: float
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)


def read_jobs(results: Path) -> list[Job]:
    """Read the jobs of a study from what Snakemake recorded of its outputs, and from their logs."""
    root = results.parent.parent
    records = defaultdict(dict)
    for path in (root / ".snakemake/metadata").rglob("*"):
        if path.is_file():
            name = "".join(part.removeprefix("@") for part in path.parts[len(root.parts) + 2 :])
            output = base64.urlsafe_b64decode(name).decode()
            record = json.loads(path.read_text())
            if output.startswith(f"results/{results.name}/") and record["log"]:
                records[record["log"][0]][output] = record
    jobs = []
    for log, outputs in records.items():
        last = "".join((root / log).read_text().splitlines()[-1:])
        if not (found := DONE.search(last)):
            raise SystemExit(f"{root / log}: does not say what the step took; run the study again")
        record = next(iter(outputs.values()))
        work = (float(seconds) for seconds in found.groups())
        jobs.append(Job(record["rule"], *work, set(record["input"]), set(outputs)))
    if not jobs:
        raise SystemExit(f"{results}: no study that Snakemake has a record of in {root}")
    return jobs


def find_critical_path(jobs: list[Job], kind: str) -> tuple[float, list[Job]]:
    """Return the seconds (``wall`` or ``cpu``) of the longest chain of jobs, and the chain."""
    maker = {output: number for number, job in enumerate(jobs) for output in job.outputs}

    @cache
    def end(number: int) -> tuple[float, tuple[int, ...]]:
        before = {maker[path] for path in jobs[number].inputs if path in maker} - {number}
        longest, chain = max((end(other) for other in sorted(before)), default=(0.0, ()))
        return longest + getattr(jobs[number], kind), (*chain, number)

    seconds, chain = max(map(end, range(len(jobs))))
    return seconds, [jobs[number] for number in chain]


def report(results: Path, cores: int, taken: tuple[float, float] | None) -> None:
    """Print each rule's jobs, then what the run took against what it had to."""
    jobs = read_jobs(results)
    rules = defaultdict(list)
    for job in jobs:
        rules[job.rule].append(job)
    measured = read_benchmarks(results)
    print(f"{'':29}{'own work':>14}{'processor':>14}{'start-up':>14}{'whole steps':>14}")
    rows = sorted(rules.items(), key=lambda item: -sum(job.wall for job in item[1]))
    for rule, own in [*rows, ("all", jobs)]:
        sums = [sum(getattr(job, kind) for job in own) for kind in ("wall", "cpu", "start")]
        whole = sum(measured.values()) if rule == "all" else measured.get(rule, 0.0)
        columns = (f"{seconds:12.1f} s" for seconds in (*sums, whole))
        print(f"{rule:24}{len(own):5}{''.join(columns)}")
    for kind, said, own in (("wall", "clock", 0), ("cpu", "processor", 1)):
        path, chain = find_critical_path(jobs, kind)
        share = sum(getattr(job, kind) for job in jobs) / cores
        least = max(path, share)
        print(f"\nby the {said}: critical path {path:.1f} s, ", end="")
        print(f"all work on {cores} cores {share:.1f} s: at least {least:.1f} s")
        print("  " + " > ".join(f"{job.rule} {getattr(job, kind):.1f}" for job in chain))
        if taken:
            spent = taken[own] if kind == "wall" else taken[own] / cores
            print(
                f"  the run took {spent:.1f} s{'' if kind == 'wall' else ' of each core'}: "
                f"{spent / least:.2f} times that"
            )


def read_benchmarks(results: Path) -> dict[str, float]:
    """Return the clock's seconds of each rule's jobs, start to end, as Snakemake measured them."""
    seconds = defaultdict(float)
    for path in (results / "benchmarks").glob("*.tsv"):
        with open(path, newline="") as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        seconds[path.stem.split("-")[0]] += float(row["s"])
    return seconds


def run_study(folder: Path, cores: int, studies: list[str]) -> tuple[float, float]:
    """Run a study from nothing; return seconds of the clock and of the processor, all in all."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--workflow-profile", str(REPOSITORY / "profiles/default")]
    command += ["--directory", str(folder), "--cores", str(cores), "--config", "store=null"]
    command += ["--configfile", *studies] if studies else []
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with open(folder / "said.txt", "w") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    if status:
        raise SystemExit((folder / "said.txt").read_text()[-5000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="?", type=Path, help="folder of a study that has run")
    parser.add_argument("--run", action="store_true", help="run it first, in a new folder")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--configfile", nargs="+", default=[], help="study files, with --run")
    given = parser.parse_args()
    if given.run == bool(given.results):
        parser.error("give a folder of results, or --run")
    taken = None
    with tempfile.TemporaryDirectory() as folder:
        if given.run:
            studies = [str(Path(path).resolve()) for path in given.configfile]
            taken = run_study(Path(folder), given.cores, studies)
            (given.results,) = Path(folder, "results").glob("[!.]*")
            load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
            print(f"{taken[0]:.1f} s, processor {taken[1]:.1f} s; load at the end {load}\n")
        report(given.results.absolute(), given.cores, taken)


if __name__ == "__main__":
    main()
