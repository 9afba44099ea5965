"""What all tests share: settings that keep them small, one Ray cluster, and where real data lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# before torch and Ray are imported anywhere
os.environ.update(
    OMP_NUM_THREADS="1",
    RAY_AUTH_MODE="disabled",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="30",
    RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="1",
    RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="1",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    # Ray's workers import what tests define, by its module
    PYTHONPATH=os.pathsep.join(
        [str(TESTS.parent), *sorted(str(path) for path in TESTS.iterdir() if path.is_dir())]
        + ([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])
    ),
)

REAL_DATA = "OVSEG_RAY_REAL_DATA"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on this machine with 4 logical CPUs, one for the whole test run."""
    import ray

    # "local": never a cluster that runs on this machine already
    ray.init(address="local", num_cpus=4, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Directory of the real data sets: OVSEG_RAY_REAL_DATA, else `../shared/data` beside the checkout."""
    path = Path(os.environ.get(REAL_DATA) or TESTS.parents[1] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set {REAL_DATA}")
    return path
