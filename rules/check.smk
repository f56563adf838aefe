# A short job before all others: what only the models themselves can tell to be wrong.
import json
import os
import subprocess
from hashlib import sha256
from importlib.util import find_spec

from snakemake.logging import logger

QUESTION_FILE = RESULTS / "index" / "check.json"
ANSWER_FILE = RESULTS / "check.json"


def write_question():
    """Write down what is to be checked, in the main process only, and return a digest of it."""
    files = [model["checkpoint"] for model in MODELS.values() if "checkpoint" in model]
    states = [(path, os.stat(path)) for path in files + class_name_files(MODELS)]
    question = {
        "code": code("check_study.py"),
        "files": [[path, state.st_size, state.st_mtime_ns] for path, state in states],
        "models": [model_spec(name) for name in MODELS],
        "layers": {
            name: (model["dissect_layers"] if name in DISSECTED else [])
            + (cam_layers(name) if name in EXPLAINED and CAM_METHODS else [])
            for name, model in sorted(MODELS.items())
        },
        "target": STUDY["target"],
        "explained": EXPLAINED,
    }
    text = json.dumps(question, indent=1, sort_keys=True) + "\n"
    if workflow.is_main_process:
        index.write_if_changed(QUESTION_FILE, text)
    return sha256(text.encode()).hexdigest()


ASKED = write_question()


# Were this job to run again whenever the question changes, Snakemake would not look at what comes
# after it: it takes all that descends from a job that runs as settled, and then, as its output is
# ancient() to them, leaves them as they are. So nothing makes the job run twice, and a question
# that has changed is answered in onstart, before any job.
rule check:
    output:
        ANSWER_FILE,
    log:
        LOGS / "check.log",
    benchmark:
        TIMES / "check.tsv"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        question=str(QUESTION_FILE),
    message:
        "Check the study's models, layers and classes"
    script:
        "../workflow/scripts/check_study.py"


onstart:
    if (
        ANSWER_FILE.is_file()
        and json.loads(ANSWER_FILE.read_text()).get("asked") != ASKED
    ):
        if find_spec("torch") is None:
            logger.warning(
                "No torch here: what is wrong with a model, its own steps will say."
            )
        else:
            environment = {
                **os.environ,
                "PYTHONPATH": str(Path(workflow.basedir) / "workflow"),
            }
            command = [sys.executable, "-m", "consilience.check"]
            command += [str(QUESTION_FILE), str(ANSWER_FILE)]
            if subprocess.run(command, env=environment).returncode:
                raise WorkflowError("This study cannot run: see above.")
