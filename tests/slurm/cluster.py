"""A SLURM cluster on one machine, for tests: the real daemons, two nodes, everything on loopback.

    python tests/slurm/cluster.py install   Debian's packages (root; starts nothing)
    python tests/slurm/cluster.py up
    python tests/slurm/cluster.py down

Each node's daemon lives in a PID namespace of its own, so a node can die as machines do: with
everything that runs on it. Nothing is started as a service; ``down`` ends what ``up`` started, by
process id and start time, and puts ``/etc`` back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NAME = "consilience"
NODES = {"n1": 17011, "n2": 17012}  # and the ports of their daemons
PARTITIONS, ACCOUNT = ("short", "long"), "testers"  # the first partition is the default

PACKAGES = ["munge", "slurmctld", "slurmd", "slurm-client", "slurmdbd", "mariadb-server"]
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd", "unshare"]

HOME = Path("/tmp") / f"{NAME}-cluster"
ETC = Path("/etc/slurm")  # the job-step executor drops SLURM_CONF, so it must be here
STARTED = HOME / "started.json"
DATABASE_SOCKET = HOME / "database/socket"

# Processors and memory are what the nodes claim, not what the machine has. A node that is silent
# for SlurmdTimeout seconds counts as dead. Memory is enforced by sampling, every second; it needs
# no control groups. MinJobAge is SLURM's default. JobRequeue is too: the profile must cope.
SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
SlurmctldPort=16817
SrunPortRange=60001-60999
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/logs/slurmctld.log
SlurmdLogFile={home}/logs/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=2
JobRequeue=1
MinJobAge=300
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=16819
AccountingStorageEnforce=associations,limits
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu
GresTypes=gpu
{nodes}
PartitionName={partitions[0]} Nodes=ALL Default=YES LLN=YES MaxTime=12:00:00 State=UP
PartitionName={partitions[1]} Nodes=ALL LLN=YES MaxTime=7-0 State=UP
"""

NODE_LINE = (
    "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs=2 RealMemory=16000 Gres=gpu:1 State=UNKNOWN"
)

# A GPU a node, for SLURM to hand out: it is a device file like any other.
GRES_CONF = "NodeName={node} Name=gpu File=/dev/null\n"

SLURMDBD_CONF = """\
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
CommunicationParameters=NoInAddrAny
LogFile={home}/logs/slurmdbd.log
PidFile={home}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""


class ClusterError(Exception):
    """The cluster cannot be brought up; says why."""


def missing() -> str | None:
    """Return why no cluster can be brought up here, or None where one can."""
    if os.geteuid() != 0:
        return "bringing up SLURM's daemons needs root"
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    if lacking:
        return f"not installed: {', '.join(lacking)} (tests/slurm/cluster.py install)"
    if (ETC / "slurm.conf").exists() and not _is_ours():
        return f"{ETC} belongs to another cluster"
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        return "PID namespaces are not allowed here"
    return None


def _is_ours() -> bool:
    """Tell whether ``/etc/slurm`` is what ``up`` wrote."""
    conf = ETC / "slurm.conf"
    return conf.exists() and f"ClusterName={NAME}\n" in conf.read_text()


def install() -> None:
    """Install Debian's packages without letting them start any daemon."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", "DPkg::Lock::Timeout=120"]
    try:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wait, *PACKAGES],
        ):
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
            if run.returncode:
                raise ClusterError(
                    f"{' '.join(command)}:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
                )
    finally:
        if ours:
            policy.unlink()


def _start_time(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot; None where it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]


def _started() -> dict:
    return json.loads(STARTED.read_text()) if STARTED.exists() else {}


def _start(name: str, *command: str) -> None:
    """Start a daemon in the foreground of a session of its own, and note which process it is."""
    with open(HOME / "logs" / f"{name}.out", "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    started = _started()
    started[name] = [process.pid, _start_time(process.pid)]
    STARTED.write_text(json.dumps(started))


def _end(name: str, sign: int = signal.SIGTERM) -> None:
    """End a daemon that this module started, and wait until it is gone."""
    started = _started()
    if name not in started:
        return
    pid, born = started[name]
    deadline = time.monotonic() + 15
    while _start_time(pid) == born:
        if time.monotonic() > deadline:
            sign = signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.1)
    del started[name]
    STARTED.write_text(json.dumps(started))


def _wait(what: str, *command: str, says: str = "", seconds: float = 60) -> None:
    """Wait until a command succeeds and its output has ``says`` in it."""
    deadline = time.monotonic() + seconds
    while True:
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode == 0 and says in run.stdout:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"no {what} after {seconds:.0f} s; see {HOME}/logs\n{run.stderr}")
        time.sleep(0.2)


def _run(*command: str, **more) -> None:
    run = subprocess.run(command, capture_output=True, text=True, **more)
    if run.returncode:
        raise ClusterError(f"{' '.join(command)}:\n{run.stdout}{run.stderr}")


def start_node(node: str) -> None:
    """Start a node: a PID namespace whose first process keeps the daemon running."""
    private = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    _start(node, *private, "sh", "-c", f"while :; do slurmd -D -N {node}; sleep 3; done")


def kill_node(node: str) -> None:
    """Let a node die at once, with every process on it."""
    _end(node, signal.SIGKILL)


def kill_daemon(node: str) -> None:
    """Kill a node's daemon alone. Jobs run on; a new daemon comes after three seconds."""
    pid = str(_started()[node][0])
    for options in ([], ["--exact", "slurmd"]):
        pid = subprocess.check_output(["pgrep", "--parent", pid, *options], text=True).split()[0]
    os.kill(int(pid), signal.SIGKILL)


def up() -> None:
    """Bring the cluster up.

    Raises
    ------
    ClusterError
        Where this machine cannot, one is up already, or a daemon does not answer.
    """
    if why := missing():
        raise ClusterError(why)
    if any(_start_time(pid) == born for pid, born in _started().values()):
        raise ClusterError(f"it is up already ({STARTED})")
    shutil.rmtree(HOME, ignore_errors=True)
    for folder in ("logs", "state", "database", "munge", *(f"spool-{node}" for node in NODES)):
        (HOME / folder).mkdir(parents=True)
    try:
        _bring_up()
    except BaseException:
        down()
        raise


def _bring_up() -> None:
    # Every daemon binds to what the host's name resolves to.
    host = socket.gethostname().split(".")[0]
    hosts = Path("/etc/hosts")
    if f" {host}\n" not in hosts.read_text().replace("\t", " "):
        hosts.write_text(hosts.read_text() + f"127.0.0.1 {host} # {NAME}-cluster\n")

    key = HOME / "munge/key"
    key.write_bytes(os.urandom(1024))
    Path("/run/munge").mkdir(exist_ok=True)
    for path in (HOME / "munge", key, Path("/run/munge")):
        shutil.chown(path, "munge", "munge")
        path.chmod(0o400 if path == key else 0o755)
    as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--init-groups"]
    files = [f"--{kind}-file={HOME}/munge/{kind}" for kind in ("key", "log", "pid", "seed")]
    _start("munged", *as_munge, "munged", "--foreground", "--force", *files)
    _wait("munge", "sh", "-c", "munge -n | unmunge")

    ETC.mkdir(exist_ok=True)
    nodes = [
        NODE_LINE.format(node=node, host=host, port=port) for node, port in sorted(NODES.items())
    ]
    filled = {"name": NAME, "host": host, "home": HOME, "partitions": PARTITIONS}
    (ETC / "slurm.conf").write_text(SLURM_CONF.format(**filled, nodes="\n".join(nodes)))
    gres = "".join(GRES_CONF.format(node=node) for node in NODES)
    (ETC / "gres.conf").write_text(gres)
    # Version 1 by name: nothing is looked for, and as no plugin asks, nothing is made.
    (ETC / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    dbd = ETC / "slurmdbd.conf"
    dbd.touch(0o600)
    dbd.write_text(SLURMDBD_CONF.format(home=HOME))

    database = HOME / "database"
    shutil.chown(database, "mysql", "mysql")
    options = ["--no-defaults", "--user=mysql", f"--datadir={database}"]
    log = ["--skip-test-db", "--auth-root-authentication-method=socket"]
    _run("mariadb-install-db", *options, *log)
    options += ["--skip-networking", f"--socket={DATABASE_SOCKET}"]
    options += [f"--pid-file={database}/pid", "--innodb-buffer-pool-size=64M"]
    _start("mariadbd", "mariadbd", *options, "--innodb-lock-wait-timeout=900")
    client = ["--no-defaults", f"--socket={DATABASE_SOCKET}"]
    _wait("database", "mariadb-admin", *client, "ping")
    # slurmdbd takes the socket from the client library's variable and is root to the database.
    _start("slurmdbd", "env", f"MYSQL_UNIX_PORT={DATABASE_SOCKET}", "slurmdbd", "-D")
    _wait("accounting", "sacctmgr", "-n", "show", "cluster")
    _run("sacctmgr", "-i", "add", "cluster", NAME)
    _run("sacctmgr", "-i", "add", "account", ACCOUNT, f"Cluster={NAME}")
    _run("sacctmgr", "-i", "add", "user", "root", f"Account={ACCOUNT}", f"DefaultAccount={ACCOUNT}")

    _start("slurmctld", "slurmctld", "-D")
    _wait("controller", "scontrol", "ping", says="is UP")
    for node in NODES:
        start_node(node)
        wait_for_node(node)
    _run("srun", "--nodes=2", "--ntasks=2", "--time=1", "true", timeout=60)


def wait_for_node(node: str, state: str = "idle") -> None:
    """Wait until a node is in a state of sinfo's (``idle``, ``down*``)."""
    asked = ["sinfo", "-h", "-p", PARTITIONS[0], "-n", node, "-o", "|%t|"]
    _wait(f"{state} node {node}", *asked, says=f"|{state}|")


def down() -> None:
    """End everything that ``up`` started, and put ``/etc`` back."""
    if "slurmctld" in _started():
        subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=30)
    for node in NODES:
        kill_node(node)
    for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
        _end(name)
    if _is_ours():
        for name in ("slurm.conf", "slurmdbd.conf", "cgroup.conf", "gres.conf"):
            (ETC / name).unlink(missing_ok=True)
    hosts = Path("/etc/hosts")
    kept = [line for line in hosts.read_text().splitlines(True) if f"# {NAME}-cluster" not in line]
    if len(kept) < len(hosts.read_text().splitlines()):
        hosts.write_text("".join(kept))


if __name__ == "__main__":
    actions = {"install": install, "up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    try:
        actions[sys.argv[1]]()
    except ClusterError as error:
        sys.exit(f"cluster: {error}")
