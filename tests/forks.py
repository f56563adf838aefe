"""Run Snakemake's commands in forks of one process, which imports Snakemake once for all.

Reads from standard input a JSON list of ``words``, ``files`` (texts by path, written first) and
``said`` (where output goes); writes the list of exit statuses.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from snakemake.cli import main


def run(words: list[str], said: str) -> int:
    """Run one command in a child; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = words
        main(words[1:])
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


statuses = []
for job in json.load(sys.stdin):
    for path, text in job["files"].items():
        Path(path).write_text(text)
    statuses.append(run(job["words"], job["said"]))
print(json.dumps(statuses))
