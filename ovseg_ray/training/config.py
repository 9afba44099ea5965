"""The configuration of a training run: what `config.yaml` of a run directory holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg_ray.config import (
    PRESETS,
    Config,
    DataConfig,
    TrainingConfig,
    build,
    merge,
    parse_overrides,
    read_yaml,
    resolve_preset,
)
from ovseg_ray.errors import UserError
from ovseg_ray.methods.registry import get_method


class RunConfig(Config):
    """Everything that decides the result of a training, and nothing else."""

    method: str
    model: dict[str, Any]
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()


def resolve_config(method: str, file: str | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Defaults of the method, then a YAML file or shipped preset, then overrides.

    Raises:
        UserError: unknown method, key or value; names the nearest known key.
    """
    cls = get_method(method)
    values: dict[str, Any] = {"method": method, "model": {}}
    values = merge(values, read_yaml(PRESETS / f"{method}.yaml"))
    source = "configuration"
    if file is not None:
        path = resolve_preset(file)
        given, source = read_yaml(path), str(path)
        if given.get("method", method) != method:
            raise UserError(f"{path}: configures method '{given['method']}', not '{method}'; name that method")
        values = merge(values, given)
    values = merge(values, overrides)
    given_model = values.get("model") or {}
    if isinstance(given_model, Mapping):
        given_model = cls.from_data(given_model, _paths(values))
    model = build(cls.config_class, given_model, f"{source}: model" if file else "model")
    values["model"] = model.model_dump(mode="json")
    config = build(RunConfig, values, source)
    cls.check_training(config.training)
    return config


def _paths(values: Mapping[str, Any]) -> list[str]:
    """Of the data sets, as far as the configuration is what it should be; it is checked later."""
    data = values.get("data")
    sources = data.get("sources") if isinstance(data, Mapping) else None
    listed = sources if isinstance(sources, list) else []
    return [str(source["path"]) for source in listed if isinstance(source, Mapping) and "path" in source]


def overrides_of(settings: Sequence[str], data: Sequence[Path], file: str | None) -> dict[str, Any]:
    """What `--set` and `--data` lay over a configuration file.

    The given data sets take the places of the file's `data.sources`, in order, and keep what the file says of
    each (split, vocabulary, held-out labels); a file without sources takes any number of them.

    Args:
        settings: `key=value` strings.
        data: directories of data sets; none keeps the file's.
        file: configuration file or preset, as `resolve_config` takes it.

    Raises:
        UserError: malformed settings, or another number of data sets than the file has sources.
    """
    overrides = parse_overrides(settings)
    if not data:
        return overrides
    section = (read_yaml(resolve_preset(file)) if file is not None else {}).get("data")
    known = section.get("sources") if isinstance(section, dict) else None
    sources = known if isinstance(known, list) and all(isinstance(source, dict) for source in known) else []
    if sources and len(sources) != len(data):
        raise UserError(
            f"{file}: has {len(sources)} data.sources, but --data was given {len(data)} times; give one for each"
        )
    paths = [{"path": str(path)} for path in data]
    merged = [merge(source, path) for source, path in zip(sources, paths, strict=True)] if sources else paths
    return merge({"data": {"sources": merged}}, overrides)
