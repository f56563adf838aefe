"""Runs of the workflow, dry ones above all, many in little time.

Importing Snakemake takes longer than a dry run of a small study. As a script this is a server that
has it imported and forks for each run: what the fork does is what ``snakemake`` does on the command
line, in a process of its own.
"""

import atexit
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import psutil


class Server:
    """A process that runs Snakemake until the block is left."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def run(self, folder, *arguments, snakefile=None, path=(), check=True, timeout=1200):
        """Run Snakemake in ``folder``; return what it says, and the jobs that it lists.

        Jobs are dictionaries of ``rule``, ``wildcards`` and ``output``. ``path`` lists folders that
        Python looks for modules and packages in first. The run has the environment that this
        process has now. It must end well, unless ``check`` is false, and within ``timeout``
        seconds, else it is killed.
        """
        with tempfile.TemporaryDirectory() as answer:
            request = {
                "folder": str(folder),
                "arguments": ["--snakefile", str(snakefile or Path(folder, "Snakefile"))],
                "path": [str(place) for place in path],
                "environment": dict(os.environ),
                "answer": answer,
            }
            request["arguments"] += arguments
            print(json.dumps(request), file=self._process.stdin, flush=True)
            in_time = self._has_ended(timeout)
            while not in_time and not self._has_ended(1):
                for process in psutil.Process(self._process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            status = int(self._process.stdout.readline())
            assert in_time, f"not done after {timeout} s"
            said = Path(answer, "said").read_text()
            assert status == 0 or not check, said[-5000:]
            return said, json.loads(Path(answer, "jobs").read_text())

    def _has_ended(self, seconds):
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def steps(self, folder, *arguments, **more):
        """Return the steps that a dry run lists, as :func:`name_steps` does."""
        said, jobs = self.run(folder, "-n", *arguments, **more)
        total = re.search(r"^total +(\d+)$", said, re.MULTILINE)
        assert len(jobs) == int(total[1] if total else 0), said
        return name_steps(jobs)


@cache
def server():
    """Return a server that runs as long as this process."""
    running = Server()
    atexit.register(running.__exit__)
    return running.__enter__()


def name_steps(jobs):
    """Name jobs as :func:`describe` does, without the target rule ``all``, which is no step."""
    return {
        describe(job["rule"], *(value for _, value in sorted(job["wildcards"].items())))
        for job in jobs
        if job["rule"] != "all"
    }


def describe(rule, *wildcards):
    """Name a step by its rule and its wildcards' values, these in the order of their names."""
    return f"{rule} of {', '.join(wildcards)}" if wildcards else rule


def _run(request):
    """Be ``snakemake`` with these arguments, and end."""
    answer, jobs = Path(request["answer"]), []
    with open(answer / "said", "w") as file, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    job_info = import_module("snakemake_interface_logger_plugins.common").LogEvent.JOB_INFO

    def collect(record):
        if getattr(record, "event", None) == job_info:
            about = {"rule": record.rule_name, "wildcards": dict(record.wildcards)}
            jobs.append(about | {"output": list(map(str, record.output))})
        return True

    import_module("snakemake.logging").logger.addFilter(collect)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[:0] = request["path"]
    sys.argv[1:] = request["arguments"]
    try:
        import_module("snakemake.cli").main(request["arguments"])
    finally:
        (answer / "jobs").write_text(json.dumps(jobs))
    sys.exit()  # and no further request is read


if __name__ == "__main__":
    for name in (
        "snakemake.cli",
        "snakemake.persistence.file",
        "snakemake.profiles",
        "snakemake.report.html_reporter",
        "smart_open",
        "jsonschema",
        "numpy",
        "PIL.Image",
    ):
        import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
