"""Checkpoints of the paper's published code (mhamilton723/STEGO) as runs of this package.

Sizes are read from the tensors. Of the published file only what inference needs is kept: the copy of the cluster probe
that training never used and the decoder of an optional loss are dropped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_ray.errors import UserError
from ovseg_ray.methods.checkpoint_file import read_checkpoint
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.stego.config import StegoConfig
from ovseg_ray.methods.stego.model import Stego
from ovseg_ray.networks.frozen import DINO_SIZES
from ovseg_ray.run_directory import RunDirectory, write_atomically

# the original's prefixes, "net." taken off, and ours
PREFIXES = {"model.": "backbone.vit.model.", "cluster1.": "head.cluster1.", "cluster2.": "head.cluster2."}
DROPPED = ("train_cluster_probe.", "decoder.")
SIZES = {width: name for name, (width, _, _) in DINO_SIZES.items()}


@dataclass(frozen=True)
class Conversion:
    """What came of a checkpoint.

    Attributes:
        method: the model, in eval mode.
        entries: tensors of the file.
        dropped: of them, by prefix, those that the output never depends on.
    """

    method: Stego
    entries: int
    dropped: dict[str, int]


def convert(checkpoint: Path, out: Path) -> tuple[RunDirectory, Conversion]:
    """Write a checkpoint of the original as a run directory, which loads like that of a training.

    Args:
        checkpoint: .ckpt (Lightning) or .safetensors; no code of it is run.
        out: the run directory; new or empty.

    Raises:
        UserError: a file that is no checkpoint of STEGO, or `out` holds something already.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; choose a new or empty directory for OUT")
    conversion = convert_state(read_checkpoint(Path(checkpoint)).state, str(checkpoint))
    with Path(checkpoint).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {
        "converted_from": str(Path(checkpoint).absolute()),
        "sha256": digest,
        "entries": conversion.entries,
        "dropped": conversion.dropped,
    }
    config = {"method": "stego", "model": conversion.method.config.model_dump(mode="json")}
    run = RunDirectory.create(out, config, resume=False)
    write_atomically(run.provenance_file, json.dumps(provenance, indent=1) + "\n")
    save_model(conversion.method, run.model, vocabularies=[], provenance=provenance)
    return run, conversion


def convert_state(state: dict[str, Tensor], source: str) -> Conversion:
    """The model of a checkpoint's tensors.

    Args:
        state: by the original's keys, "net." taken off.
        source: what errors call it.

    Raises:
        UserError: tensors that are missing, too many, or of shapes that no STEGO has.
    """
    method = Stego(_config(state, source))
    kept = {_renamed(key): value for key, value in state.items() if not key.startswith(DROPPED)}
    wanted = method.state_dict()
    for name, value in wanted.items():
        if name not in kept:
            raise UserError(f"{source}: '{_original(name)}' is missing; give a whole checkpoint of STEGO")
        if kept[name].shape != value.shape:
            shapes = f"of shape {tuple(kept[name].shape)}, {tuple(value.shape)} is expected"
            raise UserError(f"{source}: '{_original(name)}' is {shapes}; give a checkpoint of STEGO")
    if strange := next((name for name in kept if name not in wanted), None):
        raise UserError(f"{source}: '{_original(strange)}' is no part of STEGO; give a checkpoint of it")
    method.load_state_dict({name: value.float() for name, value in kept.items()})
    dropped = {f"{prefix}*": sum(key.startswith(prefix) for key in state) for prefix in DROPPED}
    return Conversion(method.eval(), len(state), {prefix: count for prefix, count in dropped.items() if count})


def _renamed(key: str) -> str:
    return next((new + key.removeprefix(old) for old, new in PREFIXES.items() if key.startswith(old)), key)


def _original(name: str) -> str:
    return next((old + name.removeprefix(new) for old, new in PREFIXES.items() if name.startswith(new)), name)


def _config(state: dict[str, Tensor], source: str) -> StegoConfig:
    patch = _shape(state, "model.patch_embed.proj.weight", 4, source)
    code = _shape(state, "cluster1.0.weight", 4, source)
    clusters = _shape(state, "cluster_probe.clusters", 2, source)
    classes = _shape(state, "linear_probe.weight", 4, source)
    if patch[0] not in SIZES or patch[3] not in (8, 16):
        raise UserError(
            f"{source}: a backbone of width {patch[0]} with patches of {patch[3]}; STEGO's are DINO's ViT-S and ViT-B "
            "with patches of 8 or 16"
        )
    values: dict[str, Any] = {
        "encoder": {"name": "dino", "architecture": f"{SIZES[patch[0]]}_patch{patch[3]}"},
        "squares": {"size": 224, "resampling": "nearest"},  # as it was trained and is evaluated
        "width": code[0],
        "projection": "nonlinear" if any(key.startswith("cluster2.") for key in state) else "linear",
        "clusters": classes[0],
        "extra_clusters": max(clusters[0] - classes[0], 0),
        "classes": classes[0],
    }
    return StegoConfig.model_validate(values)


def _shape(state: dict[str, Tensor], key: str, axes: int, source: str) -> torch.Size:
    if key not in state or state[key].ndim != axes:
        raise UserError(f"{source}: holds no '{key}' of {axes} axes; give a checkpoint of STEGO")
    return state[key].shape
