"""One door to Ray: join a cluster, or start one on this machine."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ovseg_ray.errors import UserError

# Logical CPUs of a cluster started here: room for two training workers, a validation task and data tasks,
# even on a laptop with two cores.
MIN_LOCAL_CPUS = 4
KNOCK_TIMEOUT_S = 10
# glibc hands every large activation back to the system and faults its pages in again at the next step, which costs
# a CPU worker 10 to 30 % of its time. Threads must share one arena, for those of their own hold nothing above 64 MiB.
# Read when a process starts, so Ray's workers must inherit it.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_ARENA_MAX": "1"}


@contextmanager
def connect(address: str | None = None, *, debug: bool = False) -> Iterator[None]:
    """Be connected to Ray within the block.

    A connection that is already there (a notebook, a job, a test) is used and left open, if it is to that cluster.

    Args:
        address: a cluster ("auto", "ray://host:10001", "host:6379"); None starts Ray on this machine, unless
            this process runs as a job of a cluster (RAY_ADDRESS), which is joined then.
        debug: let Ray log and forward its workers' output.

    Raises:
        UserError: no cluster answers at `address`, or this process is connected to another.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every zero-GPU task warns
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if address:
        send_token()
    import ray

    address = address or (None if ray.is_initialized() else os.environ.get("RAY_ADDRESS"))
    if address:
        _knock(address)
    if ray.is_initialized():
        connected = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", connected):
            raise UserError(f"--address {address}: this process is connected to {connected} already; leave it out")
        yield
        return
    level = "INFO" if debug else "ERROR"
    options = {"log_to_driver": debug, "logging_level": level, "ignore_reinit_error": True}
    if address:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"--address {address}: no Ray cluster answers ({reason}); leave it out to start one here"
            ) from error
    else:
        # Ray Train's controller asks the State API of the dashboard once a second: without it the log floods
        for name, value in KEEP_MEMORY.items():
            os.environ.setdefault(name, value)
        print("starting Ray on this machine", file=sys.stderr, flush=True)
        cpus = max(os.cpu_count() or 1, MIN_LOCAL_CPUS)
        try:
            # "local": a cluster that somebody else started on this machine is not joined unasked
            ray.init(address="local", num_cpus=cpus, include_dashboard=True, **options)
        except Exception as error:  # of a process of Ray's that does not come up in time it says no more than that
            raise UserError(
                f"Ray did not start on this machine ({' '.join(str(error).split())[:200]}); where other programs keep "
                "it busy, try again later; 'ovseg-ray doctor' looks closer"
            ) from error
    _quiet_data(debug)
    try:
        yield
    finally:
        ray.shutdown()


def send_token() -> None:
    """Let Ray send this user's token to the cluster that is joined, if there is one: clusters demand theirs, and Ray
    sends it to an address only where it is told to. Read when Ray is imported: to be called before."""
    if auth_token().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def auth_token() -> Path:
    """Where Ray keeps this user's token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))


def _knock(address: str) -> None:
    """Fail within seconds where nobody listens: Ray itself tries for minutes and fills the log meanwhile."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--address {address}: nobody answers there ({error}); leave it out to start Ray on this machine"
        ) from error


@dataclass(frozen=True)
class WorkerResources:
    """What one training process takes of the cluster.

    Attributes:
        cpus: also the threads of torch in it.
        gpus: 0, 1, or a fraction where processes share one.
    """

    cpus: int
    gpus: float = 0.0


def worker_resources(workers: int, least: int | None = None) -> WorkerResources:
    """What each of `workers` training processes gets of the connected cluster.

    Args:
        workers: wanted.
        least: fewer will do for now, since the cluster may grow; default: all of them.

    Raises:
        UserError: more workers than a cluster on this machine holds.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    least = least or workers
    if 0 < gpus < least and len(nodes) == 1:
        raise UserError(f"--workers {least}: this machine has {gpus} GPUs; use --workers {gpus}")
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if len(cpus) == 1:
        if least > cpus[0] - 1:
            raise UserError(f"--workers {least}: Ray has {cpus[0]} CPUs here; use at most {max(cpus[0] - 1, 1)}")
        # Ray may have been told of more CPUs than the machine has
        return WorkerResources(max(min(os.cpu_count() or 1, cpus[0] - 1) // workers, 1), float(gpus > 0))
    return WorkerResources(share_cpus(cpus, workers), float(gpus > 0))


def share_cpus(nodes: Sequence[int], workers: int) -> int:
    """The most CPUs that each of `workers` can have, a CPU kept for the validation task.

    1 where they do not fit even so: the cluster may grow.
    """
    for cpus in range(max(nodes, default=1), 0, -1):
        places = sum(node // cpus for node in nodes)
        if places > workers or (places == workers and any(node % cpus for node in nodes)):
            return cpus
    return 1


def _quiet_data(debug: bool) -> None:
    """Ray Data's own bars would flood a log; ours say the same in one line."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = debug
    context.print_on_execution_start = debug
    if not debug:  # an error reaches the caller as an exception; told twice, its one clear line drowns
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
