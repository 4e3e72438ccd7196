"""A SLURM of one node with two CPUs on this machine's loopback, for as long as a test or a command needs it:

    python tests/slurm/cluster.py COMMAND...      such as bash, or: sbatch --wait --gres=none train.sh ...

Everything is its own: folder, ports, key, configuration. What is missing is installed by apt-get, which needs root on
Debian; ``Unavailable`` says why there can be none. Partitions: low; polite, which gives a job 20 s before it preempts
it; high, which preempts jobs of both.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))  # of a command that is no test

import debian_packages  # noqa: E402
from debian_packages import Unavailable  # noqa: E402

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
PACKAGES = ("slurm-wlm", "munge")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for as long as its old credential is valid: 120 s by default.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
KillWait=30
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# The node is what is written here, whatever the machine has.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=low Nodes={host} PriorityTier=1 Default=YES
PartitionName=polite Nodes={host} PriorityTier=1 GraceTime=20
PartitionName=high Nodes={host} PriorityTier=10
"""


def install():
    """The programs of SLURM and munge, by apt-get where they are missing."""
    if not missing():
        return
    debian_packages.install(PACKAGES, f"{', '.join(missing())} missing")


def missing():
    return [name for name in PROGRAMS if not shutil.which(name, path=search_path())]


def search_path():
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def free_ports(count):
    """Numbers that are free now; taken together, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def cluster():
    """The environment in which commands of SLURM speak to a cluster, which ends with the block."""
    install()
    if os.geteuid() != 0:
        raise Unavailable("slurmd starts the jobs of a user as root only")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": search_path()}
    with contextlib.ExitStack() as leaving:
        leaving.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        leaving.callback(shutil.rmtree, folder, ignore_errors=True)
        write_files(folder)
        key, munge_socket = folder / "munge.key", folder / "munge.sock"
        start(leaving, environment, folder, "munged", "--foreground", "--force", f"--key-file={key}",
              f"--socket={munge_socket}", f"--pid-file={folder / 'munged.pid'}", f"--log-file={folder / 'munged.log'}",
              f"--seed-file={folder / 'munged.seed'}")
        wait_until(munge_socket.exists, folder, "munged")
        start(leaving, environment, folder, "slurmctld", "-D", "-c")
        start(leaving, environment, folder, "slurmd", "-D", "-c")
        leaving.callback(end_all_jobs, environment)
        wait_until(lambda: "idle" in ask(environment, "sinfo", "--noheader", "--format=%T"), folder, "slurmd")
        yield environment


def write_files(folder):
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)  # munged wants nothing that others can write on the way to its socket, which all must reach
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    controller_port, node_port = free_ports(2)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(
        folder=folder, host=socket.gethostname().partition(".")[0], controller_port=controller_port,
        node_port=node_port), encoding="utf-8")


def start(leaving, environment, folder, *words):
    """A daemon in the foreground, which ends with the block, or with this process should it be killed."""
    log = leaving.enter_context((folder / f"{words[0]}.out").open("w", encoding="utf-8"))
    daemon = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *words], env=environment, stdin=subprocess.DEVNULL,
                              stdout=log, stderr=log, start_new_session=True)  # a Ctrl-C is not for them
    leaving.callback(stop, daemon)


def stop(daemon):
    daemon.terminate()
    try:
        daemon.wait(timeout=15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def end_all_jobs(environment):
    """Before slurmd ends: whoever supervises a job outlives it."""
    jobs = ask(environment, "squeue", "--noheader", "--format=%A").split()
    for words in (["scancel", *jobs], ["scancel", "--signal=KILL", "--full", *jobs]) if jobs else ():
        ask(environment, *words)
        deadline = time.monotonic() + 10
        while ask(environment, "squeue", "--noheader").strip() and time.monotonic() < deadline:
            time.sleep(0.5)


def ask(environment, *words):
    """What a command prints, empty where it fails."""
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


def wait_until(condition, folder, name, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            told = (folder / f"{name}.out").read_text(encoding="utf-8")
            raise RuntimeError(f"{name} is not ready after {seconds} s:\n{told[-2000:]}")
        time.sleep(0.2)


def main(words):
    try:
        with cluster() as environment:
            return subprocess.run(words, env=environment, check=False).returncode
    except Unavailable as error:
        print(f"no SLURM here: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
