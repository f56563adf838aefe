"""Run the miniature study on a SLURM cluster, undisturbed and with faults."""

import re
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml

from conftest import REPOSITORY
from slurm import cluster as daemons
from test_workflow import hashes, snakemake

PROFILE = REPOSITORY / "profiles/slurm"
STUDIES = [REPOSITORY / "tests/study.yaml", REPOSITORY / "tests/slurm/study.yaml"]
# Steps take seconds here and the file system is the machine's own.
QUICK = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"]


def test_steps_ask_for_more_after_a_failure():
    for path in sorted((REPOSITORY / "rules").glob("*.smk")):
        if path.name == "assets.smk":  # its steps run where Snakemake does
            continue
        for block in re.split(r"\n(?=rule \w)", path.read_text())[1:]:
            if "resources:" in block:
                asked = dict(re.findall(r"\b(mem_mb|runtime)=(\S+),", block))
                assert asked.keys() == {"mem_mb", "runtime"}, block[:60]
                assert all(re.fullmatch(r"growing\(\d+\)", said) for said in asked.values())
            else:
                assert block.startswith("rule all") or "use rule" in block, block[:60]
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert profile["retries"] >= 1


def test_the_profile_is_complete_in_itself():
    default = yaml.safe_load((REPOSITORY / "profiles/default/config.yaml").read_text())
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert {key: profile.get(key) for key in default} == default
    assert profile["executor"] == "slurm"


@pytest.fixture(scope="module")
def cluster():
    """The cluster, up while this module's tests run."""
    if why := daemons.missing():
        pytest.skip(f"no SLURM cluster here: {why}")
    daemons.down()  # what an interrupted test left
    daemons.up()
    yield daemons
    daemons.down()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The study, run on this machine without a cluster."""
    folder = tmp_path_factory.mktemp("local")
    snakemake(folder, "--cores", "2", studies=STUDIES)
    return folder


class Submitted:
    """Snakemake at work on the cluster, to be disturbed; killed where the test leaves it behind."""

    def __init__(self, folder, *arguments, profile=PROFILE):
        command = [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile"]
        command += ["--workflow-profile", profile, "--directory", folder, *QUICK, *arguments]
        command += ["--configfile", *STUDIES]
        self.log = folder / "said.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def end(self, seconds=900):
        """Wait for the end; return the exit status and all that was said."""
        return self.process.wait(seconds), self.log.read_text()

    def running(self, *which, seconds=300):
        """Wait until one of the jobs that squeue's options choose has run a moment; return its
        number, rule and node."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-5000:]
            queue = ["squeue", "--noheader", "--states=RUNNING", "--format=%i %M %N %k"]
            for row in subprocess.check_output(queue, text=True).splitlines():
                number, taken, node, comment = row.split(maxsplit=3)
                if all(word in row for word in which) and taken != "0:00":
                    return number, comment, node
            time.sleep(0.2)
        raise AssertionError(f"no job of {which} ran; {self.log.read_text()[-5000:]}")


def accounted(said, *fields):
    """What the cluster's accounting says of the jobs of a run of Snakemake."""
    (name,) = re.findall(r"^SLURM run ID: (\S+)", said, re.MULTILINE)
    rows = ["sacct", "-X", "-n", "-P", "--starttime=now-1days", "--name", name]
    rows += [f"--format={','.join(fields)}"]
    return [row.split("|") for row in subprocess.check_output(rows, text=True).splitlines()]


def adapted(folder, **site):
    """A copy of the profile with commented lines of its site's part filled in, as users do."""
    text = (PROFILE / "config.yaml").read_text()
    for key, value in site.items():
        text, count = re.subn(f"# {key}: .*", f"{key}: \"'{value}'\"", text)
        assert count == 1, key
    (folder / "profile").mkdir()
    (folder / "profile/config.yaml").write_text(text)
    return folder / "profile"


def wait_for(path, seconds=120):
    """Wait for a file: a step's log is there once its script has begun."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.1)


def with_check(local, folder):
    """Give a folder the check's answer, for tests of single steps."""
    (folder / "results/miniature").mkdir(parents=True)
    shutil.copy2(local / "results/miniature/check.json", folder / "results/miniature")
    return folder


@pytest.mark.slow
def test_the_cluster_gives_the_bytes_of_a_local_run(cluster, local, tmp_path):
    with Submitted(tmp_path) as run:
        status, said = run.end()
    assert status == 0, said[-5000:]
    ours, theirs = hashes(local / "results"), hashes(tmp_path / "results")
    assert len(ours) > 30
    assert theirs == ours

    jobs = accounted(said, "Comment", "State", "NodeList", "ReqMem", "Timelimit", "Account")
    assert {job[1] for job in jobs} == {"COMPLETED"}
    assert {job[2] for job in jobs} == set(cluster.NODES)
    assert {job[5] for job in jobs} == {cluster.ACCOUNT}
    asked = {tuple(job[3:5]) for job in jobs if job[0].startswith("rule_explain_lime")}
    text = (REPOSITORY / "rules/explain.smk").read_text().partition("rule explain_lime:")[2]
    memory, minutes = (
        int(re.search(rf"{name}=growing\((\d+)\)", text)[1]) for name in ("mem_mb", "runtime")
    )
    assert asked == {(f"{memory}M", f"{minutes // 60:02d}:{minutes % 60:02d}:00")}
    ran = Counter(job[0].removeprefix("rule_").partition("_wildcards")[0] for job in jobs)
    # Every step went through the queue, once; `all` is no step.
    done = Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", said, re.MULTILINE))
    assert ran == done - Counter(["all"])


@pytest.mark.slow
@pytest.mark.soak
def test_a_cancelled_job_and_a_dead_node_are_made_up_for(cluster, local, tmp_path):
    with_check(local, tmp_path)
    target = "results/miniature/tables/predictions.parquet"
    with Submitted(tmp_path, target) as run:
        cancelled, _, _ = run.running("train_classifier")
        wait_for(tmp_path / "results/miniature/logs/train_classifier-object-net.log")
        subprocess.check_call(["scancel", cancelled])
        lost, _, node = run.running("predict")
        cluster.kill_node(node)
        try:
            status, said = run.end()
        finally:
            cluster.start_node(node)
            cluster.wait_for_node(node)
    assert status == 0, said[-5000:]
    states = {
        job: (state.split()[0], nodes)
        for job, state, nodes in accounted(said, "JobIDRaw", "State", "NodeList")
    }
    assert states[cancelled][0] == "CANCELLED"
    assert states[lost] == ("NODE_FAIL", node)
    # Both are named as they happen, though all comes right in the end.
    assert f"SLURM-job '{cancelled}' failed, SLURM status is: 'CANCELLED'" in said
    assert f"SLURM-job '{lost}' failed due to a node failure" in said
    reported = hashes(tmp_path / "results")
    assert "miniature/tables/predictions.parquet" in reported
    ours = hashes(local / "results")
    assert reported == {name: ours[name] for name in reported}


@pytest.mark.slow
@pytest.mark.soak
def test_steps_that_gain_from_a_gpu_get_one_where_the_profile_says_so(cluster, local, tmp_path):
    with_check(local, tmp_path)
    weights = "results/miniature/models/object-net/weights.safetensors"
    with Submitted(tmp_path, weights, "--resources", "gpu=2") as run:
        status, said = run.end()
    assert status == 0, said[-5000:]
    asked = {
        job[0].removeprefix("rule_").partition("_wildcards")[0]: "gres/gpu=1" in job[1]
        for job in accounted(said, "Comment", "ReqTRES")
    }
    assert asked == {"render_training": False, "render_held_out": False, "train_classifier": True}
    # Nothing of NVIDIA's is there, whatever the scheduler says: the processor it is.
    made, ours = hashes(tmp_path / "results"), hashes(local / "results")
    assert (
        made["miniature/" + weights.partition("miniature/")[2]]
        == ours["miniature/models/object-net/weights.safetensors"]
    )


@pytest.mark.slow
def test_a_job_that_stays_lost_is_named_and_the_rest_completes(cluster, local, tmp_path):
    with_check(local, tmp_path)
    targets = [f"results/miniature/world/training-{shard}.npz" for shard in (0, 1)]
    # What the site allows a job, which limits no more than each of them: both run at a time.
    limits = ["--resources", "gpu=0", "mem_mb=1500", "runtime=15"]
    with Submitted(tmp_path, *targets, *limits, "--retries", "0") as run:
        job, _, _ = run.running("rule_render_training_wildcards_1")
        _, _, node = run.running("rule_render_training_wildcards_0")
        subprocess.check_call(["scancel", job])
        # A daemon that comes back soon costs nothing.
        cluster.kill_daemon(node)
        status, said = run.end()
    assert status == 1
    jobs = accounted(said, "ReqMem", "Timelimit")
    assert jobs == [["1500M", "00:15:00"]] * 2
    error = said.partition("Error in rule render_training")[2]
    assert targets[1] in error
    assert "logs/render_training-1.log" in error
    assert f"{job}.log" in error  # SLURM's own
    made, ours = hashes(tmp_path / "results"), hashes(local / "results")
    name = "miniature/world/training-0.npz"
    assert made[name] == ours[name]
    assert not (tmp_path / targets[1]).exists()


@pytest.mark.slow
@pytest.mark.soak
def test_jobs_out_of_memory_or_time_get_more_where_the_site_says(cluster, local, tmp_path):
    with_check(local, tmp_path)
    site = {"slurm_account": cluster.ACCOUNT, "slurm_partition": cluster.PARTITIONS[1]}
    profile = adapted(tmp_path, **site, slurm_extra="--nice=7")
    targets = ["pictures/0.parquet", "world/held-out.npz"]
    little = ["gather_pictures:mem_mb=50 * 40 ** (attempt - 1)", "render_held_out:runtime=attempt"]
    arguments = [*(f"results/miniature/{target}" for target in targets), "--set-resources", *little]
    with Submitted(tmp_path, *arguments, profile=profile) as run:
        slow, _, _ = run.running("rule_render_held_out")
        subprocess.check_call(["scancel", "--full", "--signal=STOP", slow])
        status, said = run.end()
    assert status == 0, said[-5000:]
    fields = ["Comment", "ReqMem", "Timelimit", "State", "Account", "Partition", "SubmitLine"]
    jobs = accounted(said, *fields)
    memory = [(job[1], job[3]) for job in jobs if job[0].startswith("rule_gather_pictures")]
    failed = memory[0][1]  # FAILED or OUT_OF_MEMORY: versions differ
    assert failed != "COMPLETED"
    assert memory == [("50M", failed), ("2000M", "COMPLETED")]
    times = [(job[2], job[3]) for job in jobs if job[0] == "rule_render_held_out"]
    assert times == [("00:01:00", "TIMEOUT"), ("00:02:00", "COMPLETED")]
    logs = (tmp_path / ".snakemake/slurm_logs").rglob("*.log")  # of the jobs that failed
    reasons = {log: log.read_text() for log in logs}
    assert len(reasons) == 2
    assert any("exceeded memory limit" in text for text in reasons.values())
    assert any("DUE TO TIME LIMIT" in text for text in reasons.values())
    assert all(str(log) in said for log in reasons)

    assert {tuple(job[4:6]) for job in jobs} == {tuple(site.values())}
    assert all("--nice=7" in job[6] for job in jobs)
    assert "No SLURM account given" not in said
    made, ours = hashes(tmp_path / "results"), hashes(local / "results")
    for target in targets:
        assert made[f"miniature/{target}"] == ours[f"miniature/{target}"]
