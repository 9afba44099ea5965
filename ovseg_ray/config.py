"""The typed configuration: defaults, then a YAML file, then `key=value` from the command line.

Every part of the system owns a frozen pydantic model derived from `Config`; unknown keys are errors that name
the nearest known one, and every value is checked before anything starts.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ovseg_ray.errors import UserError
from ovseg_ray.validation import keys_at, mistakes, section

Precision = Literal["fp32", "bf16", "fp16"]
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]
PRESETS = Path(__file__).parent / "configs"


class Config(BaseModel):
    """Base of every configuration: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(Config):
    """One data set among those trained on together."""

    path: str = Field(description="directory of the data set")
    split: str = Field("train", description="split to read")
    vocabulary: str | None = Field(None, description="YAML vocabulary; default: the data set's own labels")
    held_out: list[str] = Field([], description="labels whose pixels are ignored in training (zero-shot)")


class DataConfig(Config):
    """What is trained on, and how images reach the network."""

    sources: list[SourceConfig] = Field([], description="data sets; `--data` fills this in")
    validation_split: str = Field("val", description="split for mIoU during training")
    validation_images: int = Field(64, ge=0, description="images of that split used (evenly spread); 0: all")
    validation_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="validate on this share of the training images, kept from training; 0: on the split",
    )
    held_out: Literal["data set", "none"] = Field(
        "data set", description="hold out the labels that the data set itself names as unseen, or none"
    )
    episodes: str | None = Field(
        None,
        description="zero-shot training: every image once for each class it shows, that class against all else, the "
        "fold's classes left out: pascal-5i:0..3, coco-20i:0..3, fss-1000 or world:0..3",
    )
    input: Literal["loader", "ray_data"] = Field(
        "loader",
        description="who decodes and augments: a torch DataLoader, or Ray Data on any node of the cluster; the batches "
        "are the same",
    )
    loader_workers: int = Field(0, ge=0, description="decoding processes for each training worker")
    cache_images: bool = Field(False, description="keep decoded images in memory (the loader, small data sets)")


class OptimizerConfig(Config):
    """The optimiser of all parameter groups."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="learning rate of a group with lr_scale 1")
    backbone_lr_scale: float = Field(1.0, ge=0, description="lr factor of pretrained parameters; 0 freezes them")
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum, or Adam beta1")
    beta2: float = Field(0.999, gt=0, lt=1, description="Adam beta2")


class ScheduleConfig(Config):
    """Learning rate over optimiser steps."""

    name: Literal["constant", "cosine", "poly"] = "cosine"
    warmup_steps: int = Field(0, ge=0, description="linear warm-up, optimiser steps")
    power: float = Field(0.9, gt=0, description="exponent of the poly schedule")
    final_scale: float = Field(0.0, ge=0, le=1, description="lr factor reached at the end (cosine, poly)")
    per_epoch: bool = Field(False, description="update once per epoch instead of each step")
    scales: list[tuple[float, float]] = Field(
        [], description="[[epoch, factor], …]: from that epoch on the rate is so many times what the rest says"
    )

    @model_validator(mode="after")
    def _check(self) -> ScheduleConfig:
        epochs = [epoch for epoch, _ in self.scales]
        if epochs != sorted(set(epochs)) or any(epoch < 0 or factor <= 0 for epoch, factor in self.scales):
            raise ValueError(f"scales = {self.scales}: epochs must ascend from 0 or more, factors be above 0")
        return self


class TrainingConfig(Config):
    """The training loop, the same for every method."""

    epochs: float = Field(10, gt=0, description="passes over the data; fractions allowed")
    steps: int | None = Field(None, ge=1, description="optimiser steps in all, in place of epochs; null: by epochs")
    batch_size: int = Field(16, ge=1, description="images per optimiser step over all workers (global batch)")
    accumulate: int = Field(1, ge=1, description="micro-batches per optimiser step")
    batch_norm_images: int | None = Field(
        None, ge=1, description="images that share batch statistics, on whichever workers; null: all of a micro-batch"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    precision: TrainingPrecision = Field(
        "fp32",
        description="bf16/fp16: autocast; weights stay fp32; auto: bf16 where the device is built for it, else fp32",
    )
    channels_last: bool = Field(False, description="NHWC memory layout for images and weights")
    clip_norm: float = Field(0.0, ge=0, description="gradient norm limit; 0: none")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="exponential moving average of weights; 0: none")
    compile: bool = Field(False, description="torch.compile the loss computation")
    seed: int = Field(0, ge=0)
    log_every: int = Field(10, ge=1, description="optimiser steps between metrics")
    checkpoint_every: float = Field(1.0, gt=0, description="epochs between checkpoints")
    validate_every: float = Field(1.0, ge=0, description="epochs between validations; 0: never")
    keep_last: int = Field(1, ge=1, description="newest checkpoints kept")
    keep_best: int = Field(1, ge=0, description="best checkpoints kept (by the validation metric)")
    max_failures: int = Field(3, ge=0, description="worker failures survived by restarting from a checkpoint")


C = TypeVar("C", bound=BaseModel)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, unreadable, broken YAML, or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise UserError(f"{path}: {reason}; give the path of a YAML file") from error
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}:{where} is not valid YAML ({problem}); mend that line") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, not a mapping of configuration keys")
    return value


def resolve_preset(name: str) -> Path:
    """Path of a configuration file: a file that exists, or the name of a shipped preset, which no directory hides.

    Raises:
        UserError: neither.
    """
    shipped = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if name in shipped and not os.path.isfile(name):
        return shipped[name]
    if os.path.exists(name):
        return Path(name)
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean the preset '{near[0]}'?" if near else f"shipped presets: {', '.join(shipped)}"
    raise UserError(f"--config {name}: no such file or preset; {hint}")


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Turn `a.b=value` strings into a nested mapping; values are YAML scalars or lists.

    Raises:
        UserError: an item without `=`, or a value that is not YAML.
    """
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, equals, raw = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {pair}: write key=value, for example --set training.epochs=5")
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise UserError(f"--set {pair}: the value is not valid YAML") from error
        if isinstance(value, str):
            # YAML 1.1 reads 1e-3 (no dot) as a string; everybody who types it means a number
            try:
                value = float(value)
            except ValueError:
                value = str(value)
        node = tree
        *parents, leaf = key.strip().split(".")
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {pair}: '{part}' was already given a plain value")
        node[leaf] = value
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated by `over`, mapping by mapping; lists and scalars are replaced."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def build(cls: type[C], values: Mapping[str, Any], source: str = "configuration") -> C:
    """Validate `values` as a `cls`.

    Raises:
        UserError: the first offending key or value, with the nearest known key where one is unknown.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(cls, error)}") from error


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    # an unknown key is the likeliest cause of any other complaint, so it is named first
    problems = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    if first["type"] == "extra_forbidden":
        known = keys_at(cls, first["loc"][:-1])
        elsewhere = _keys_named(cls, str(first["loc"][-1]))
        if elsewhere:
            return f"unknown key '{key}'; did you mean '{elsewhere[0]}'?"
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.4)
        prefix = "".join(f"{part}." for part in first["loc"][:-1])
        hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key '{key}'; {hint}"
    mistake = mistakes(problems)[0]
    if first["type"] == "missing":
        return str(mistake)
    return f"{mistake.key or key} = {repr(first.get('input'))[:80]}: {mistake.problem}"


def _keys_named(cls: type[BaseModel], leaf: str, prefix: str = "") -> list[str]:
    """Where in the tree a key of this name is: whoever writes `lr` means `training.optimizer.lr`."""
    found = []
    for name, info in cls.model_fields.items():
        if name == leaf:
            found.append(prefix + name)
        inner = section(info.annotation)
        if inner is not None:
            found += _keys_named(inner, leaf, f"{prefix}{name}.")
    return found


def dump(config: BaseModel) -> str:
    """The resolved configuration as YAML, every key present."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
