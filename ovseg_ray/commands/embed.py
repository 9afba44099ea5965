"""`ovseg-ray embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ovseg_ray.commands.options import Address, Debug, emit, goes_on, loading, say

EXAMPLES = (
    "ovseg-ray embed demo/world features --weights demo/clip/model/model.safetensors --size 64 --stride 8",
    "ovseg-ray embed photos features --encoder mobilenet_v2 --weights mobilenet_v2.safetensors --crops five",
)


def embed(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Data set: any that 'train' takes, or a folder of images.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Feature store to write, or to go on with.")],
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of the data set. Default: train, or the only one.")
    ] = None,
    encoder: Annotated[
        Literal["small", "mobilenet_v2", "resnet", "dino", "timm"],
        typer.Option(
            metavar="NAME",
            help=("Frozen backbone: small (the demo's), mobilenet_v2, resnet, dino, or timm (DINOv2, CLIP's towers)."),
        ),
    ] = "small",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Its weights: safetensors; for dino and timm also a .pth, a model saved by transformers, timm:TAG. "
            "Default: random.",
        ),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(metavar="NAME", help="dino: vit_small_patch8 and so on; timm: a name of timm's.")
    ] = None,
    stride: Annotated[
        int, typer.Option(metavar="N", help="Which map of small, mobilenet_v2, resnet: 4, 8, 16 or 32.")
    ] = 16,
    size: Annotated[int, typer.Option(min=1, metavar="N", help="Pixels of a side of the squares embedded.")] = 224,
    resampling: Annotated[
        Literal["bilinear", "nearest"],
        typer.Option(metavar="NAME", help="Of images: bilinear, or the paper's nearest."),
    ] = "bilinear",
    crops: Annotated[
        Literal["none", "five"], typer.Option(metavar="KIND", help="five: corners and centre of each image instead.")
    ] = "none",
    jpeg_quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, metavar="N", help="Compress crops in between: 75 in the original. Default: not."),
    ] = None,
    kind: Annotated[
        Literal["tokens", "keys", "original_keys"],
        typer.Option(metavar="NAME", help="Features of dino: tokens, keys, or original_keys (as if of 6 heads)."),
    ] = "tokens",
    dense: Annotated[
        Literal["none", "float16", "int8"], typer.Option(metavar="KIND", help="Store maps as float16 or int8, or none.")
    ] = "float16",
    vector_dropout: Annotated[
        float, typer.Option(min=0, max=0.99, metavar="P", help="Channels zeroed before pooling: 0.1 in the original.")
    ] = 0.0,
    workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Actors. Default: by GPUs or CPUs.")] = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Embed images with a frozen backbone into a feature store: a vector and a dense map each.

    Stopped, it goes on with the same command. Images that cannot be read are named and left out.
    """
    loading()
    from ovseg_ray.cluster import connect
    from ovseg_ray.config import build
    from ovseg_ray.data import open_dataset
    from ovseg_ray.embedding import EmbedConfig
    from ovseg_ray.embedding import embed as run
    from ovseg_ray.embedding.job import check

    backbone = {"name": encoder, "weights": weights, "architecture": architecture, "stride": stride, "kind": kind}
    squares = {"size": size, "resampling": resampling, "crops": crops, "jpeg_quality": jpeg_quality}
    values = {"encoder": backbone, "squares": squares, "dense": dense, "vector_dropout": vector_dropout}
    config = build(EmbedConfig, values, "embed")
    dataset = open_dataset(data, split)
    check(dataset, out.absolute(), config)  # before Ray takes its time to start
    with goes_on(), connect(address, debug=debug):
        store = run(dataset, out, config, workers=workers)
    info = store.info
    for _, problem in info.failed[:20]:
        say(f"left out: {problem}")
    if info.dense == "int8":
        say(f"int8 maps are off by at most {100 * info.error:.2f} % of a place's length")
    emit(
        {
            "features": str(store.path),
            "images": info.images,
            "rows": info.rows,
            "unreadable": len(info.failed),
            "dim": info.dim,
            "grid": list(info.grid),
            "hash": info.features,
        }
    )
