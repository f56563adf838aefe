# How the study runs: its GPUs, and one run of it at a time. Nothing here says what it computes.
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from consilience import devices, locks
from consilience.errors import ConsilienceError
from snakemake.exceptions import WorkflowError


def limit_gpus(device):
    """Let so many steps that ask for a GPU run at a time as there are; none, and they get none.

    Snakemake grants a rule's `gpu=1` up to its limit. A profile or --resources may have set one,
    which on a cluster is how many GPUs steps may have at a time; else this machine's are counted. A
    job on a cluster has what the scheduler shows it.
    """
    limit = workflow.global_resources.get("gpu").value
    if not workflow.is_main_process:
        limit = len(devices.find_gpus()) if "CUDA_VISIBLE_DEVICES" in os.environ else 0
    elif limit is None:
        limit = devices.count_gpus(device)
    workflow.register_resource("gpu", 0 if device == "cpu" else limit)


def hold_study(results):
    """Hold the study until this process ends, or say who does: two runs would mix its files.

    Snakemake's own locks are off in the profiles: a killed run leaves them behind, and a study that
    ends takes those of all others with it.
    """
    try:
        path = results / "index" / "running.lock"
        workflow.study_lock = locks.hold(path, f"study {results.name!r}")
    except ConsilienceError as error:
        raise WorkflowError(f"This study cannot run:\n{error}")
