"""Giving the clusters of a run names: the same model, and from then on it answers label lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ovseg_ray.data.dataset import DataSet
from ovseg_ray.errors import UserError
from ovseg_ray.methods.clip.image_encoder import build_image_encoder
from ovseg_ray.methods.export import describe_model, load_model, save_model
from ovseg_ray.methods.stego import Stego
from ovseg_ray.methods.stego.naming import Names, cluster_names
from ovseg_ray.progress import ProgressBar
from ovseg_ray.run_directory import RunDirectory, find_model, write_atomically
from ovseg_ray.vocabulary.encoders import absolute_spec, build_text_encoder

IMAGES = 256


@dataclass(frozen=True)
class Named:
    """A run that was written, and what its clusters were named by."""

    run: RunDirectory
    names: Names


def name_run(run: Path, out: Path, clip: str, dataset: DataSet, images: int = IMAGES, device: str = "cpu") -> Named:
    """Write a run whose clusters have names.

    Args:
        run: of a `train stego`.
        out: run directory to write; new or empty.
        clip: whose towers name: `run:PATH` of a `train clip`, or `open_clip:ARCHITECTURE:WEIGHTS`.
        dataset: pictures, without need of masks; those that the clusters were learned from do.
        images: of it, evenly spread; 0: all.
        device: of torch.

    Raises:
        UserError: another kind of run, towers that cannot be read, an unreadable picture, or `out` holds something.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):  # said now, not after the work
        raise UserError(f"{out}: is not empty; choose a new or empty directory for OUT")
    model = find_model(Path(run).absolute())
    description, method = describe_model(model), load_model(model, device)
    if not isinstance(method, Stego):
        raise UserError(f"{run}: is a run of '{method.name}', whose labels have names; give one of 'train stego'")
    if method.config.name_width is not None:
        raise UserError(f"{run}: its clusters are named already; give the run they come from")
    embed = build_image_encoder(clip, device)
    text = build_text_encoder(clip)
    total = len(dataset) if images == 0 else min(images, len(dataset))
    rows = [index * len(dataset) // max(total, 1) for index in range(total)]
    with ProgressBar("name clusters", total, "images") as bar:
        found = cluster_names(method, (dataset.decoded(row).image for row in rows), embed, bar.update)
    method.use_text_encoder(text)
    method.name_clusters(found.vectors.to(device))
    naming = {
        "clip": absolute_spec(clip),
        "text_encoder": text.fingerprint,
        "data": {"fingerprint": dataset.fingerprint(), "split": dataset.split, "images": total},
        "regions": found.regions.tolist(),
        "run": str(Path(run).absolute()),
    }
    config = {"method": "stego", "model": method.config.model_dump(mode="json")}
    written = RunDirectory.create(out, config, resume=False)
    provenance = {**description.provenance, "named": naming}
    write_atomically(written.provenance_file, json.dumps(provenance, indent=1) + "\n")
    save_model(method, written.model, vocabularies=description.label_sets, provenance=provenance)
    return Named(written, found)
