"""A tiny run and pictures to ask about."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ovseg_ray.config import build
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.lseg import LSeg, LSegConfig
from ovseg_ray.vocabulary import Vocabulary
from ovseg_ray.vocabulary.table_encoder import TableTextEncoder

WORDS = ["sky", "grass", "a red car", "car", "automobile", *(f"word {i}" for i in range(300))]


def make_run(path: Path, seed: int = 0) -> Path:
    """A finished run of a random LSeg that knows `WORDS`."""
    torch.manual_seed(seed)
    method = LSeg(build(LSegConfig, {"text": "table:/gone.npz", "width": 8, "encoder": {"channels": [8, 8, 8, 8]}}))
    method.use_text_encoder(TableTextEncoder(WORDS, torch.randn(len(WORDS), 16)))
    save_model(method, path / "model", vocabularies=[Vocabulary.of(["sky", "grass"])], provenance={})
    return path


def picture(height: int = 37, width: int = 65, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with areas, not noise: labels then cover areas too."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST))


def encoded(image: np.ndarray, form: str = "PNG") -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=form)
    return buffer.getvalue()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
