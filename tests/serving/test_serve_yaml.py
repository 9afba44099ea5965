"""cluster/serve.yaml, checked more strictly than Ray Serve does: it ignores keys that it does not know."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.serving import deployment
from ovseg_ray.serving.config import LimitsConfig, ScalingConfig, ServingConfig

FILE = Path(__file__).parents[2] / "cluster" / "serve.yaml"


@pytest.fixture
def content() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def test_every_key_is_known(content: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(content)
    assert set(content) <= set(ServeDeploySchema.model_fields)
    assert set(content["http_options"]) <= set(type(schema.http_options).model_fields)
    (application,) = content["applications"]
    assert set(application) <= set(type(schema.applications[0]).model_fields)
    (deployment,) = application["deployments"]
    assert set(deployment) == {"name", "user_config"}
    build(ScalingConfig, application["args"])
    serving = build(ServingConfig, deployment["user_config"])
    assert content["http_options"]["request_timeout_s"] > serving.limits.deadline_ms / 1000
    assert serving.limits.requests == LimitsConfig().requests, "the application reckons with the default"


def test_a_wrong_key_is_named(content: dict[str, Any]) -> None:
    (application,) = content["applications"]
    with pytest.raises(UserError, match="did you mean 'max_replicas'"):
        deployment.application({**application["args"], "max_replica": 2})


def test_the_import_path_builds_the_named_deployment(content: dict[str, Any]) -> None:
    (application,) = content["applications"]
    module, _, name = application["import_path"].partition(":")
    builder = getattr(importlib.import_module(module), name)
    built = call_user_app_builder_with_args_if_necessary(builder, application["args"])  # as `serve deploy` does
    bound = built._bound_deployment
    assert bound.name == application["deployments"][0]["name"]
    assert bound._deployment_config.autoscaling_config.max_replicas == 4
    assert bound.ray_actor_options["num_gpus"] == 1
