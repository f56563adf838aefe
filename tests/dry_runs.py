"""Dry runs of the workflow, many in little time.

Importing Snakemake takes longer than a dry run of a small study. As a script this is a server that
has it imported and forks for each run: what the fork does is what ``snakemake -n`` does on the
command line, in a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

_JOB = re.compile(r"^\s*(?:local)?rule (\w+):\n((?: {4,}.*\n)*)", re.MULTILINE)
_WILDCARDS = re.compile(r"^\s+wildcards: (.*)$", re.MULTILINE)


class Server:
    """A process that makes dry runs until the block is left."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def run(self, folder, *arguments, snakefile=None, path=()):
        """Run Snakemake in ``folder``; return what it says.

        ``path`` lists folders that Python looks for modules and packages in first.
        """
        with tempfile.NamedTemporaryFile("r", suffix=".log") as said:
            request = {
                "folder": str(folder),
                "arguments": [
                    "--snakefile",
                    str(snakefile or Path(folder, "Snakefile")),
                    *arguments,
                ],
                "path": [str(place) for place in path],
                "said": said.name,
            }
            print(json.dumps(request), file=self._process.stdin, flush=True)
            status = int(self._process.stdout.readline())
            text = said.read()
        assert status == 0, text[-5000:]
        return text

    def steps(self, folder, *arguments, **more):
        """Return the steps that a dry run lists, as ``rule`` or ``rule of a, b``, wildcards sorted.

        Without the target rule ``all``, which is no step.
        """
        said = self.run(folder, "-n", *arguments, **more)
        found = set()
        for rule, body in _JOB.findall(said):
            values = _WILDCARDS.search(body)
            values = sorted(values[1].split(", ")) if values else []
            found.add(describe(rule, *(value.partition("=")[2] for value in values)))
        # Nothing that Snakemake counts may have been missed.
        total = re.search(r"^total +(\d+)$", said, re.MULTILINE)
        assert len(found) == int(total[1] if total else 0), said
        return found - {"all"}


def describe(rule, *wildcards):
    """Name a step by its rule and its wildcards' values, these in the order of their names."""
    return f"{rule} of {', '.join(wildcards)}" if wildcards else rule


def _run(request):
    """Be ``snakemake`` with these arguments, and end."""
    with open(request["said"], "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(request["folder"])
    sys.path[:0] = request["path"]
    sys.argv[1:] = request["arguments"]
    status = 1
    try:
        import_module("snakemake.cli").main(request["arguments"])
    except SystemExit as error:
        status = error.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for name in ("snakemake.cli", "snakemake.persistence.file", "jsonschema", "numpy", "PIL.Image"):
        import_module(name)

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
