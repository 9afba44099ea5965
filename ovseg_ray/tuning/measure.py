"""What a finished model costs: time and memory for one image."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from ovseg_ray.methods.base import Method
from ovseg_ray.methods.export import load_model
from ovseg_ray.run_directory import RunDirectory
from ovseg_ray.training.config import RunConfig
from ovseg_ray.training.validation import validation_dataset

REPEATS = 15
WARM_UP = 3


def measure(run: RunDirectory, metric: str) -> float:
    """A number of a finished run's model, on the first of the images that validated it.

    Args:
        run: finished.
        metric: "latency_ms": time from pixels to the encoding that labels are asked of, see `latency_ms`; "memory_mb":
            of its weights and the most that a forward pass allocates beside them.
    """
    from ovseg_ray.config import build, read_yaml

    device = "cuda" if torch.cuda.is_available() else "cpu"
    method = load_model(run.model, device)
    data = build(RunConfig, read_yaml(run.config_file)).data
    image = validation_dataset(data.sources[0], data).decoded(0).image
    return latency_ms(method, image) if metric == "latency_ms" else memory_mb(method, image)


def latency_ms(method: Method, image: np.ndarray) -> float:
    """Milliseconds to encode an image, with its preprocessing.

    Other trials run on the machine meanwhile. So on a CPU it is the time that one thread computes, the median of some
    repeats: what it waits for its turn does not count. A GPU has no such clock: there it is the least time that passes,
    which others that share the GPU (`--gpus 0.5`) can still lengthen.
    """
    threads, device = torch.get_num_threads(), next(method.parameters()).device
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    torch.set_num_threads(1)
    times = []
    try:
        for repeat in range(WARM_UP + REPEATS):
            started = clock()
            _encode(method, image)
            if on_gpu:
                torch.cuda.synchronize(device)
            if repeat >= WARM_UP:
                times.append(1000 * (clock() - started))
    finally:
        torch.set_num_threads(threads)
    return min(times) if on_gpu else statistics.median(times)


def memory_mb(method: Method, image: np.ndarray) -> float:
    """Megabytes (10^6 bytes) of weights, and of the peak of what encoding an image allocates."""
    weights = sum(t.numel() * t.element_size() for t in [*method.parameters(), *method.buffers()])
    device = next(method.parameters()).device
    _encode(method, image)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _encode(method, image)
        return (weights + torch.cuda.max_memory_allocated(device) - before) / 1e6
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profile:
        _encode(method, image)
    return (weights + _peak(profile)) / 1e6


def _peak(profile: Any) -> int:
    """Largest sum of what was allocated and not freed, over the allocations that the profiler saw."""
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _encode(method: Method, image: np.ndarray) -> None:
    device = next(method.parameters()).device
    with torch.inference_mode():
        method.encode(method.preprocess(image).unsqueeze(0).to(device))
