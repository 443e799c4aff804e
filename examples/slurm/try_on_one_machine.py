"""A real Slurm on this machine, a sweep on it, one of its two workers killed in the middle; results as without.

    apt-get install slurm-wlm munge        # Debian or Ubuntu
    python examples/slurm/try_on_one_machine.py --folder /tmp/trial

Starts munged, slurmctld and one slurmd a worker, all as the user who calls it and all in --folder, runs a sweep of
smoke runs through them with Snakemake's Slurm plugin, kills one worker with everything that runs on it, runs
the same sweep without Slurm, and compares every results.json. Exit code 0 if the sweep was completed and all
are equal. Steps that are done are not done again, so it can be called in parts (--only).
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

SLURM_CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=5
JobRequeue=0
PartitionName=workers Nodes={nodes} Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=4000 State=UNKNOWN\n"
PROFILE = """
executor: slurm
jobs: {jobs}
retries: 2
latency-wait: 10
quiet: [rules]
slurm-no-account: true
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 5
default-resources: {{cpus_per_task: 1, mem_mb: 2000, runtime: 60}}
"""
SWEEP = "experiment: {experiment}\nprofile: smoke\nseeds: {seeds}\n"


class OneMachineSlurm:
    """A controller and workers w1, w2, ... on this machine, with all they have in `folder`. A context manager."""

    def __init__(self, folder: Path, workers: int):
        self.folder, self.names = folder, [f"w{number + 1}" for number in range(workers)]
        self.ports = free_ports(1 + workers)
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{PATH}"}

    def __enter__(self) -> OneMachineSlurm:
        for part in ("state", "bin"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self._write_settings()
        self._start_munge()
        self._run("slurmctld", "-c", "-f", self.environment["SLURM_CONF"])
        for name in self.names:
            self._run("slurmd", "-N", name, "-f", self.environment["SLURM_CONF"], KIT_WORKER=name)
        self._wait_for_workers()
        return self

    def _write_settings(self) -> None:
        host, user = socket.gethostname(), subprocess.check_output(["id", "-un"], text=True).strip()
        text = "".join(NODE.format(name=name, host=host, port=port)
                       for name, port in zip(self.names, self.ports[1:], strict=True))
        text += SLURM_CONF.format(host=host, user=user, port=self.ports[0], folder=self.folder,
                                  nodes=",".join(self.names))
        (self.folder / "slurm.conf").write_text(text)
        # The plugin's inner step drops every SLURM_ variable, SLURM_CONF among them. A cluster has its
        # /etc/slurm/slurm.conf and does not mind; here srun has to be told.
        srun = self.folder / "bin" / "srun"
        real = shutil.which("srun", path=PATH)
        srun.write_text(f'#!/bin/sh\nSLURM_CONF="{self.folder}/slurm.conf" exec {real} "$@"\n')
        srun.chmod(0o755)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.folder.chmod(0o755)
        self._run("munged", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
                  f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
                  f"--seed-file={self.folder}/munge.seed")

    def _run(self, *command: str, **more: str) -> None:
        path = shutil.which(command[0], path=PATH)
        subprocess.run([path, *command[1:]], env=self.environment | more, check=True)

    def _wait_for_workers(self) -> None:
        for _ in range(60):
            states = self.ask("sinfo", "--noheader", "--Node", "--format=%T").split()
            if states and set(states) == {"idle"}:
                return
            time.sleep(0.5)
        raise SystemExit(f"the workers did not come up, see {self.folder}/*.log")

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, text=True, capture_output=True).stdout

    def kill(self, worker: str) -> list[int]:
        """kill -9 of the worker's daemon and everything that runs on it, as if its machine had lost power."""
        killed = []
        for process in self._processes(f"KIT_WORKER={worker}", f"SLURMD_NODENAME={worker}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
        return killed

    def _processes(self, *marks: str) -> list[int]:
        """Processes of this very cluster with one of these variables."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (place / "environ").read_bytes().decode(errors="replace").split("\0")
                if f"SLURM_CONF={self.folder}/slurm.conf" in variables and set(marks) & set(variables):
                    found.append(int(place.name))
        return found

    def __exit__(self, *_error) -> None:
        for name in self.names:
            self.kill(name)
        for name in ("slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def sweep_on_slurm(folder: Path, workers: int, kill: bool) -> float:
    """Run the sweep on a fresh Slurm; returns its seconds."""
    (folder / "profile").mkdir(parents=True, exist_ok=True)
    (folder / "profile" / "config.yaml").write_text(PROFILE.format(jobs=workers))
    with OneMachineSlurm(folder / "slurm", workers) as slurm:
        if kill:
            threading.Thread(target=kill_in_the_middle, args=(slurm,), daemon=True).start()
        return sweep(folder, "cluster", slurm.environment, "--snakemake-profile", str(folder / "profile"))


def kill_in_the_middle(slurm: OneMachineSlurm, least: float = 8.0) -> None:
    """Wait until the last worker has had a job for some seconds, then kill it."""
    worker = slurm.names[-1]
    while "RUNNING" not in slurm.ask("squeue", "--noheader", "--format=%T", "--nodelist", worker):
        time.sleep(0.5)
    time.sleep(least + random.Random(0).uniform(0, 6))
    job = slurm.ask("squeue", "--noheader", "--format=job %i, running for %M", "--nodelist", worker).strip()
    print(f"*** worker {worker} ({job}) killed: processes {slurm.kill(worker)}", flush=True)


def sweep(folder: Path, place: str, environment, *options: str) -> float:
    """`python -m kitlib sweep` with its runs in folder/place; returns its seconds. Exits where it fails."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "kitlib", "sweep", str(folder / "trial.yaml"), *options]
    status = subprocess.run(command, env=environment | {"KITLIB_RUNS": str(folder / place)}).returncode
    if status:
        raise SystemExit(f"the sweep failed with status {status}; its runs and logs are in {folder / place}")
    return time.monotonic() - begin


def results_of(folder: Path) -> dict[str, dict]:
    """Every results.json below a folder of runs, without what tells of the machine and its clock."""
    def numbers(value):
        if isinstance(value, dict):
            return {key: numbers(each) for key, each in value.items() if key not in ("seconds", "environment")}
        return [numbers(each) for each in value] if isinstance(value, list) else value

    return {str(path.parent.relative_to(folder)): numbers(json.loads(path.read_text()))
            for path in sorted(folder.glob("*/*/seed*/results.json"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a new folder, or that of a trial to go on with")
    parser.add_argument("--experiment", default="digits_fgsm")
    parser.add_argument("--seeds", default="0-1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-kill", action="store_true", help="let all workers live")
    parser.add_argument("--only", choices=["cluster", "local", "compare"], help="one step of the three")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if not shutil.which(name, path=PATH)]
    if missing:
        print(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge", file=sys.stderr)
        return 2
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trial.yaml").write_text(SWEEP.format(experiment=arguments.experiment, seeds=arguments.seeds))
    if arguments.only in (None, "cluster"):
        seconds = sweep_on_slurm(folder, arguments.workers, kill=not arguments.no_kill and arguments.workers > 1)
        print(f"on Slurm with {arguments.workers} workers: {seconds:.0f} s")
    if arguments.only in (None, "local"):
        print(f"without Slurm: {sweep(folder, 'local', os.environ):.0f} s")
    return 0 if arguments.only in ("cluster", "local") else compare(folder)


def compare(folder: Path) -> int:
    """Print whether each run has the same results on Slurm and without; 1 where one differs."""
    there, here = results_of(folder / "cluster"), results_of(folder / "local")
    for run in sorted({*there, *here}):
        print(f"{run}: {'equal' if there.get(run) == here.get(run) else 'DIFFERENT'}")
    return 0 if there and there == here else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; call it again with the same --folder to go on")
