"""`ovseg-ray convert`: checkpoints of other programs as runs of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ovseg_ray.commands.options import Debug, emit

EXAMPLES = (
    "ovseg-ray convert lseg demo_e200.ckpt runs/lseg-vitl16",
    'ovseg-ray predict runs/lseg-vitl16 photo.jpg --labels "sky, grass, other" --out predictions',
    "ovseg-ray convert lseg ade20k.ckpt runs/bottleneck --head-block bottleneck --block-depth 2",
)
STEGO_EXAMPLES = (
    "ovseg-ray convert stego cocostuff27_vit_base_5.ckpt runs/stego-vitb8",
    "ovseg-ray evaluate runs/stego-vitb8 --data labelled --out result.json --crf",
)


def lseg(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Of the paper's published code: .ckpt (Lightning) or .safetensors."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run directory to write; new or empty.")],
    head_block: Annotated[
        Literal["bottleneck", "depthwise"] | None,
        typer.Option(metavar="KIND", help="If it has a head block: bottleneck (arch_option 1) or depthwise (2)."),
    ] = None,
    block_depth: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Applications of the head block. Default: 0, which is one.")
    ] = None,
    activation: Annotated[
        Literal["relu", "lrelu", "tanh"] | None, typer.Option(metavar="NAME", help="Between them. Default: lrelu.")
    ] = None,
    readout: Annotated[
        Literal["project", "ignore", "add"] | None,
        typer.Option(metavar="KIND", help="Where it has no readout projections: ignore or add. Default: project."),
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Attention heads of the ViT. Default: its width / 64.")
    ] = None,
    text_heads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The same of the text tower. Default: its width / 64.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Text encoder in place of its own, such as open_clip:ViT-B-32:openai."),
    ] = None,
    vocabulary: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Label set it was trained on, such as ade20k-150; again for more."),
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Score in half precision, as the published code does; slower.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Turn a checkpoint of the published LSeg code into a run for predict, evaluate and ovseg_ray.load.

    Sizes are read from its tensors. What they do not tell comes from the options, else from the arguments of its
    training that a Lightning file keeps. Tensors that the output never depends on are dropped, and named.
    """
    from ovseg_ray.methods.lseg.original import Untold, convert
    from ovseg_ray.vocabulary import Vocabulary

    untold = Untold(heads, readout, head_block, block_depth, activation, text_heads, text)
    trained_on = [Vocabulary.from_yaml(name) for name in vocabulary or []]
    run, conversion = convert(checkpoint, out, untold, trained_on, reference=reference)
    config = conversion.method.config
    emit(
        {
            "run": str(run.path),
            "model": str(run.model),
            "encoder": config.encoder.name,
            "head_block": config.head_block.kind,
            "joint_width": config.joint_width,
            "entries": conversion.entries,
            "dropped": conversion.dropped,
        }
    )


def stego(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Of the paper's published code: .ckpt (Lightning) or .safetensors."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Run directory to write; new or empty.")],
    debug: Debug = False,
) -> None:
    """Turn a checkpoint of the published STEGO code into a run for evaluate, name and ovseg_ray.load.

    Sizes are read from its tensors. Tensors that the output never depends on are dropped, and named.
    """
    from ovseg_ray.methods.stego.original import convert

    run, conversion = convert(checkpoint, out)
    config = conversion.method.config
    emit(
        {
            "run": str(run.path),
            "model": str(run.model),
            "encoder": config.encoder.architecture,
            "width": config.width,
            "clusters": config.clusters + config.extra_clusters,
            "entries": conversion.entries,
            "dropped": conversion.dropped,
        }
    )
