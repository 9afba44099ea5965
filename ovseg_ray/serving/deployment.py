"""The endpoint as a deployment of Ray Serve: a thin shell around `Engine`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from ovseg_ray.config import build
from ovseg_ray.serving.app import create_app
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.models import Models, ServedModel

APPLICATION = "ovseg-ray"


@serve.deployment(name="endpoint")
@serve.ingress()
class Endpoint:
    """One replica: decodes, runs the model and encodes the answer in one process."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = build(ServingConfig, config, "serving configuration")
        models = Models([ServedModel.load(model) for model in self._config.models])
        self._engine = Engine(self._config, models)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._engine)


def endpoint(config: dict[str, Any]) -> Application:
    """The application of a serving configuration, for `serve.run` and for `import_path` of a deployed file."""
    deployment: serve.Deployment = Endpoint
    return deployment.bind(build(ServingConfig, config, "serving configuration").model_dump(mode="json"))
