"""Configuration of STEGO."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ovseg_ray.config import Config
from ovseg_ray.data.squares import SquareConfig
from ovseg_ray.methods.stego.correspondence import KINDS, CorrespondenceConfig
from ovseg_ray.methods.stego.crf import CrfConfig
from ovseg_ray.networks.frozen import BackboneConfig


def _absolute(path: str) -> str:
    return str(Path(path).absolute())


PathName = Annotated[str, AfterValidator(_absolute)]


class StegoConfig(Config):
    """Everything that decides what the network is and how it is trained, apart from the loop."""

    features: PathName | None = Field(
        None, description="feature store to train on; encoder, squares, classes and clusters default to its own"
    )
    neighbours: PathName | None = Field(
        None, description="table of 'ovseg-ray neighbours build'; null: none, and the neighbour term is left out"
    )
    neighbour_ranks: int = Field(7, ge=1, description="a neighbour is drawn from this many best")
    encoder: BackboneConfig = BackboneConfig()
    squares: SquareConfig = SquareConfig()
    width: int = Field(70, ge=1, description="channels of a code")
    projection: Literal["nonlinear", "linear", "none"] = Field("nonlinear", description="kind of the head")
    dropout: bool = Field(True, description="channel dropout in the head and on the features of the loss")
    correspondence: CorrespondenceConfig = CorrespondenceConfig()
    clusters: int = Field(27, ge=2, description="of the cluster probe; as many as classes to be comparable")
    extra_clusters: int = Field(0, ge=0, description="clusters beyond these, free to stay without a class")
    classes: int = Field(0, ge=0, description="of the linear probe, which measures only; 0: no labels, no probe")
    probe_lr_scale: float = Field(10.0, gt=0, description="lr factor of both probes")
    selection: Literal["agreement", "labels"] = Field(
        "agreement",
        description="what the best models are kept by: agreement of clusters on places alike, which reads no labels, "
        "or the original's mIoU of matched clusters",
    )
    flip: bool = Field(True, description="average codes with those of the mirrored image, at inference")
    inference_size: int | None = Field(
        None, ge=1, description="shorter side that pictures are resized to when labels are asked; null: as they are"
    )
    evaluation_size: int = Field(320, ge=1, description="side of the squares that evaluation scores")
    crf: CrfConfig = CrfConfig()
    name_width: int | None = Field(None, ge=1, description="width of the text space in which clusters are named")
    name_temperature: float = Field(0.05, gt=0, description="label scores are cosines over this")
    reference: bool = Field(
        False,
        description="the original's negatives, NaN of the linear loss where nothing is labelled, picture for the CRF",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_store(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("features") is None:
            return values
        if {"encoder", "squares", "classes", "clusters"} <= set(values) and not _open_shifts(values):
            return values  # resolved before: a finished model needs no store
        from ovseg_ray.feature_store.store import FeatureStore

        info = FeatureStore.open(values["features"]).info
        labels = len(info.labels)
        own: dict[str, Any] = {"encoder": info.job["encoder"], "squares": info.job["squares"], "classes": labels}
        if labels > 1:
            own["clusters"] = labels
        values = {**own, **values}
        return {**values, "correspondence": _with_shifts(values)} if _open_shifts(values) else values

    @model_validator(mode="after")
    def _check(self) -> StegoConfig:
        if self.projection != "none" and self.width < 2:
            raise ValueError("width must be 2 or more: codes are compared by direction")
        return self


def _open_shifts(values: dict[str, Any]) -> list[str]:
    """Kinds of pairs whose shift is to be told from the features."""
    given = values.get("correspondence") or {}
    pairs = given.model_dump() if isinstance(given, CorrespondenceConfig) else given
    return [kind for kind in KINDS if isinstance(pairs.get(kind), dict) and pairs[kind].get("shift") is None]


def _with_shifts(values: dict[str, Any]) -> dict[str, Any]:
    from ovseg_ray.feature_store.store import FeatureStore
    from ovseg_ray.methods.stego.shifts import spread_maps, suggest_shifts

    config = CorrespondenceConfig.model_validate(values["correspondence"])
    shifts = suggest_shifts(spread_maps(FeatureStore.open(values["features"])), config)
    told = config.model_dump()
    for kind in _open_shifts(values):
        told[kind]["shift"] = shifts[kind]
    return told
