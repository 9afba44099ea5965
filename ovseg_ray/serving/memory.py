"""How many pictures fit into memory at once: measured, not guessed."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ovseg_ray.methods.base import Method

PROBE_SIDE = 256
MARGIN = 2.0  # what libraries take beside tensors, and fragmentation
CPU_SHARE, GPU_SHARE = 0.25, 0.5
UNKNOWN = 4 * 2**30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cost:
    """Bytes for each pixel of the network's input.

    Attributes:
        encoding: at most, while a picture is encoded.
        encoded: of the encoding itself.
    """

    encoding: float
    encoded: float


def probe(method: Method, device: torch.device, side: int = PROBE_SIDE) -> Cost:
    """What encoding one picture takes.

    Counted by PyTorch's allocators during one forward pass, which also warms the model up.
    """
    side += -side % method.pads_to
    image = torch.zeros(1, 3, side, side, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with torch.inference_mode():
            found = method.encode(image)
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        with torch.inference_mode(), _Counter() as counter:
            found = method.encode(image)
        peak = counter.peak
    kept = sum(tensor.nbytes for tensor in found.tensors.values())
    return Cost(MARGIN * peak / side**2, kept / side**2)


class _Counter(TorchDispatchMode):
    """Most bytes of tensors made within the block that live at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, result)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._known or size == 0:
            return

        def freed(_: Any) -> None:
            self._live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, freed)
        self._live += size
        self.peak = max(self.peak, self._live)


def budget(device: torch.device) -> int:
    """Bytes that batches may take on a device: a share of what is free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(GPU_SHARE * free)
    return int(CPU_SHARE * min(_available(), _left_in_cgroup()))


def _available() -> int:
    """Bytes that the machine can give without swapping."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return UNKNOWN


def _left_in_cgroup() -> int:
    """Bytes that a container may still take."""
    try:
        most, now = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        most = now = "max"
    return int(most) - int(now) if most.isdecimal() and now.isdecimal() else 2**63


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory was too small; on a CPU PyTorch has no type of its own for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
