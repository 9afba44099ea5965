"""A checkpoint of the published code as a run of this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ovseg_ray.errors import UserError
from ovseg_ray.methods.checkpoint_file import read_checkpoint
from ovseg_ray.methods.export import save_model
from ovseg_ray.methods.lseg.original.network import Conversion, Untold, convert_state
from ovseg_ray.run_directory import RunDirectory, write_atomically
from ovseg_ray.vocabulary import Vocabulary


def convert(
    checkpoint: Path,
    out: Path,
    untold: Untold | None = None,
    vocabularies: Sequence[Vocabulary] = (),
    *,
    reference: bool = False,
) -> tuple[RunDirectory, Conversion]:
    """Write a checkpoint of the original as a run directory, which loads like that of a training.

    Args:
        checkpoint: .ckpt (Lightning), .pt, .pth or .safetensors.
        out: the run directory; new or empty.
        untold: what tensors do not tell.
        vocabularies: label sets that it was trained on, if known.
        reference: `model.reference` of the run: scores in the original's half precision.

    Raises:
        UserError: a file that is no checkpoint of LSeg, an option that is missing or contradicts it, or `out` holds
            something already.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; choose a new or empty directory for OUT")
    untold = untold or Untold()
    found = read_checkpoint(Path(checkpoint))
    conversion = convert_state(
        found.state,
        untold,
        settings=found.settings,
        source=str(checkpoint),
        text_spec=untold.text or f"run:{out}",
        reference=reference,
    )
    provenance = {
        "converted_from": str(Path(checkpoint).absolute()),
        "sha256": _sha256(Path(checkpoint)),
        "entries": conversion.entries,
        "dropped": conversion.dropped,
    }
    config = {"method": "lseg", "model": conversion.method.config.model_dump(mode="json")}
    run = RunDirectory.create(out, config, resume=False)
    write_atomically(run.provenance_file, json.dumps(provenance, indent=1) + "\n")
    save_model(conversion.method, run.model, vocabularies=vocabularies, provenance=provenance)
    return run, conversion


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
