"""A real Slurm of two nodes, each with one counted GPU, on this machine: Debian's slurm-wlm, no accounting.

It lives in a network namespace that has nothing but a loopback device, so that no job can reach a network.
`python -m tests.slurm.cluster FOLDER` keeps one up until it is interrupted, to try commands by hand.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

PACKAGES = ("slurm-wlm", "munge", "iproute2")
SYSTEM = Path("/etc/slurm/slurm.conf")  # where Slurm's job steps look, who do not inherit SLURM_CONF
WITH_US = ("setpriv", "--pdeathsig", "KILL")  # before a command that is to end with this process, even by kill -9
NODES = {"n1": "/dev/null", "n2": "/dev/zero"}
# A second address: with 127.0.0.1 alone, resolvers (AI_ADDRCONFIG), and so Slurm, find no address at all.
LOOPBACK = "ip link set lo up && ip address add 198.51.100.1/32 dev lo && exec sleep infinity"
SETTINGS = """
ClusterName=trajquant
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=5
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
GresTypes=gpu
ReturnToService=2
MinJobAge=300
SlurmdTimeout=10
KillWait=2
InactiveLimit=0
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory={memory} Gres=gpu:1\n"
)
PARTITION = "PartitionName=main Nodes=n1,n2 Default=YES State=UP MaxTime=120\n"


def install() -> None:
    """Install Slurm and Munge from Debian where they are missing.

    Raises:
        subprocess.CalledProcessError: no Debian, no root, or no package index.
    """
    if not (shutil.which("slurmctld") and shutil.which("munged")):
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], **quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", *PACKAGES], **quiet)


class Cluster:
    """The daemons, and what can befall them; all files are below one folder, which /etc/slurm/slurm.conf points to."""

    def __init__(self, folder: Path, cores: int, memory: int = 8000):
        """Write the configuration. cores: of each node; memory: MB of each node."""
        self.folder = folder.resolve()
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.daemons: dict[str, subprocess.Popen] = {}
        alive = os.open(self.folder / "alive", os.O_CREAT | os.O_RDONLY)  # open and locked until this process ends
        fcntl.flock(alive, fcntl.LOCK_EX)
        ports = free_ports(1 + len(NODES))
        host = socket.gethostname()
        text = SETTINGS.format(host=host, folder=self.folder, controller_port=ports[0])
        for name, port in zip(NODES, ports[1:], strict=True):
            text += NODE.format(name=name, host=host, port=port, cores=cores, memory=memory)
        (self.folder / "slurm.conf").write_text(text + PARTITION)
        gres = "".join(f"NodeName={name} Name=gpu File={device}\n" for name, device in NODES.items())
        (self.folder / "gres.conf").write_text(gres)

    def start(self) -> "Cluster":
        """Start everything and wait until both nodes are idle.

        Raises:
            RuntimeError: this machine belongs to a Slurm already.
        """
        if SYSTEM.exists() and not left_by_a_killed_run():
            raise RuntimeError(f"{SYSTEM} exists: these tests need a machine that is not part of a Slurm")
        end_jobs()
        os.environ.pop("SLURM_CONF", None)
        SYSTEM.unlink(missing_ok=True)
        SYSTEM.parent.mkdir(exist_ok=True)
        SYSTEM.symlink_to(self.folder / "slurm.conf")
        start_munge()
        self.namespace = subprocess.Popen([*WITH_US, "unshare", "--net", "sh", "-c", LOOPBACK])
        wait_for(lambda: "lo:" in self.ask("cat", "/proc/net/dev"), 10, "the namespace")
        time.sleep(0.5)
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self.wait_until_idle()
        return self

    def start_controller(self) -> None:
        self._start("slurmctld", ["slurmctld", "-D"])

    def start_node(self, name: str) -> None:
        self._start(name, ["slurmd", "-D", "-N", name])

    def _start(self, name: str, command: list[str]) -> None:
        with open(self.folder / f"{name}.out", "ab") as output:
            environment = os.environ | {
                "SLURM_CONF": str(self.folder / "slurm.conf")
            }  # gres.conf is looked for beside it
            command = [*WITH_US, *self.inside, *command]
            self.daemons[name] = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    @property
    def inside(self) -> list[str]:
        """What stands before a command that is to run in the cluster's network."""
        return ["nsenter", f"--net=/proc/{self.namespace.pid}/ns/net", "--"]

    def stop_controller(self) -> None:
        stop(self.daemons.pop("slurmctld"), signal.SIGTERM)

    def lose_node(self, name: str) -> None:
        """What a power cut does: the node's daemon, its job managers and its jobs end at once."""
        stop(self.daemons.pop(name), signal.SIGKILL)
        for process in processes_of(name):
            kill_tree(process)

    def stop(self) -> None:
        self.cancel_all()
        for name in list(self.daemons):
            stop(self.daemons.pop(name), signal.SIGTERM)
        end_jobs()
        stop(self.namespace, signal.SIGKILL)
        SYSTEM.unlink()

    def cancel_all(self) -> None:
        self.ask("scancel", "--user=root")
        wait_for(lambda: not self.jobs(), LONG, "all jobs to end")

    def ask(self, *command: str, folder: Path | None = None) -> str:
        """Output of a command in the cluster's network, started in a folder, which never waits for more than 30 s."""
        command = [*self.inside, *command]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True).stdout

    def jobs(self) -> list[list[str]]:
        """Jobs waiting or running: id, state, node, folder, comment."""
        lines = self.ask("squeue", "--noheader", "--array", "--format=%i|%T|%N|%Z|%k").splitlines()
        return [line.split("|", 4) for line in lines]

    def wait_until_idle(self) -> None:
        wait_for(lambda: set(self._states()) == {"idle"}, LONG, "both nodes to be idle")

    def _states(self) -> list[str]:
        try:
            return self.ask("sinfo", "--noheader", "--Node", "--format=%t").split()
        except subprocess.SubprocessError:
            return []


LONG = 3600  # seconds: ends a test that waits for what never comes; no test rests on how fast the machine is


def wait_for(condition, seconds: float, what: str, step: float = 0.2):
    """Wait until a condition gives something true, and return that.

    Raises:
        TimeoutError: it does not within so many seconds.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(step)
    raise TimeoutError(f"waited {seconds} s for {what}")


def left_by_a_killed_run() -> bool:
    """Whether Slurm's configuration is a link to that of a cluster of these tests whose process is gone."""
    alive = SYSTEM.resolve().parent / "alive"
    if not (SYSTEM.is_symlink() and alive.exists()):
        return False
    with open(alive) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def end_jobs() -> None:
    """Kill what runs on the nodes; daemons end with their cluster's process, jobs do not."""
    for name in NODES:
        for process in processes_of(name):
            kill_tree(process)


def start_munge() -> None:
    """A munged for the whole machine, unless one answers already."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(secrets.token_bytes(1024))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    subprocess.run(["su", "-s", "/bin/bash", "munge", "-c", "/usr/sbin/munged"], check=True)
    wait_for(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0, 20, "munged")


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def stop(process: subprocess.Popen, number: int) -> None:
    process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def processes_of(node: str) -> list[int]:
    """Processes of the jobs on a node, and the job managers (slurmstepd) that started them."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURMD_NODENAME") == node:
                parent = process.parent()
                managed = parent is not None and parent.name() == "slurmstepd"
                found |= {process.pid, parent.pid} if managed else {process.pid}
    return sorted(found)


def kill_tree(process: int) -> None:
    """kill -9 a process and all that it has started, the oldest first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process)
        for found in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.kill()


def main() -> None:
    install()
    cluster = Cluster(Path(sys.argv[1]), cores=1).start()
    print(f"Two nodes are up. Put before each command: {' '.join(cluster.inside)}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    cluster.stop()


if __name__ == "__main__":
    main()
