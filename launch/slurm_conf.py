"""The files that make a Slurm of four nodes on one machine: slurm.conf, gres.conf, and the ports they name."""

from __future__ import annotations

import getpass
import os
import random
import socket
from collections.abc import Sequence
from pathlib import Path

NODES = ("n0", "n1", "n2", "n3")
GPUS_PER_NODE = 4
CPUS_PER_NODE = 32
"""More than the machine has: four tasks of eight CPUs, as on a real node, must fit."""

_PORTS = range(10_000, 19_000)  # below those that clients are given by chance, and below those of launch.rank
_TRIES = 50

# Timers are short so that a lost node or a requeue costs seconds. Why some lines are there:
# cred_expire        a requeued job waits until its old credentials are forgotten, 121 s by default
# config_overrides   CPUs and memory are what this file says, not what the machine has
# FirstJobId         launch.rank takes its port from the job: two testbeds on one machine must not use the same
# EnforcePartLimits  what no partition can ever give is refused, not queued for ever
_CONF = """\
ClusterName=testbed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=1
ReturnToService=2
SlurmdTimeout=15
SlurmctldTimeout=15
MessageTimeout=15
KillWait=20
MinJobAge=3600
FirstJobId={first_job}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
GresTypes=gpu
{accounting}
{nodes}
PartitionName=main Nodes={all_nodes} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 MaxTime=1-00:00:00 State=UP
PartitionName=urgent Nodes={all_nodes} PriorityTier=10 PreemptMode=OFF MaxTime=1-00:00:00 State=UP
"""


def write_conf(folder: Path, ports: Sequence[int], *, accounting: str) -> None:
    """Write the files below `folder`. ports: the controller's, then the nodes'; accounting: its lines of slurm.conf."""
    controller_port, *node_ports = ports
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    host = socket.gethostname().split(".")[0]
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE}"
        f" RealMemory={memory_mb} Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
        for name, port in zip(NODES, node_ports, strict=True)
    ]
    text = _CONF.format(
        host=host,
        user=getpass.getuser(),
        folder=folder,
        controller_port=controller_port,
        first_job=random.randrange(1, 60) * 1000 + 1,
        accounting=accounting,
        nodes="\n".join(nodes),
        all_nodes=",".join(NODES),
    )
    # Slurm wants a file for each GPU and only looks whether it is there.
    for number in range(GPUS_PER_NODE):
        (folder / f"gpu{number}").touch()
    gpus = f"NodeName={','.join(NODES)} Name=gpu File={folder}/gpu[0-{GPUS_PER_NODE - 1}]\n"
    (folder / "gres.conf").write_text(gpus, encoding="utf-8")
    (folder / "slurm.conf").write_text(text, encoding="utf-8")


def free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody listens on, next to each other."""
    for _ in range(_TRIES):
        first = random.choice(_PORTS[:-number])
        if not any(map(is_taken, range(first, first + number))):
            return list(range(first, first + number))
    raise ValueError(f"no {number} free ports between {_PORTS.start} and {_PORTS.stop}; stop what listens there")


def is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            return True
    return False
