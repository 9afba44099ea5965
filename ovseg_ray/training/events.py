"""TensorBoard events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """Writes metrics as scalars.

    Args:
        directory: of event files.
        step: what an earlier attempt logged after this step is struck out.
    """

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None, flush_secs=30)

    def add(self, metrics: Mapping[str, Any], prefix: str = "") -> None:
        """Every number of a record, at its step."""
        for key, value in metrics.items():
            if isinstance(value, (int, float)) and key != "step":
                self._writer.add_scalar(f"{prefix}{key}", value, metrics["step"])
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
