# A short job before all others: what only the models themselves can tell to be wrong.
import subprocess
from importlib.util import find_spec

from snakemake.logging import logger


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
