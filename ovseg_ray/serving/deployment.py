"""The endpoint as a deployment of Ray Serve: a thin shell around `Engine`.

`ovseg-ray serve` runs it on one machine; `serve deploy cluster/serve.yaml` on a cluster. What it serves comes as
Serve's `user_config`, so that changing it (a new version of a model, other limits) reaches replicas in place: they load
what is new, turn to it, and no request is lost. What it runs on (`ScalingConfig`) comes as the argument.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from ovseg_ray import __version__
from ovseg_ray.cluster import KEEP_MEMORY
from ovseg_ray.config import build
from ovseg_ray.errors import UserError
from ovseg_ray.serving.app import create_app
from ovseg_ray.serving.config import LimitsConfig, ScalingConfig, ServingConfig
from ovseg_ray.serving.engine import Engine
from ovseg_ray.serving.hub_actor import RemoteHub

APPLICATION = "ovseg-ray"
SPARE_REQUESTS = 16  # beside those that the engine admits: health, metrics, refusals
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5.0, 30.0
PUSH_INTERVAL = "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"
PUSH_INTERVAL_S = 10.0  # Ray's default
SERVE_LOGGER = "ray.serve"
logger = logging.getLogger("ovseg_ray.serving")


@serve.deployment(name="endpoint")
@serve.ingress()
class Endpoint:
    """One replica: decodes, runs the model and encodes the answer in one process."""

    def __init__(self) -> None:
        _log_to(logging.getLogger(SERVE_LOGGER).handlers)
        context = serve.get_replica_context()
        self._engine = Engine(RemoteHub(context.app_name), context.replica_id.unique_id)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve what `config` says, a mapping as of `ServingConfig`. Called by Serve at the start and on changes.

        What cannot be served is logged and changes nothing. Serve hands it over all the same, to replicas that start
        later too: these serve what any replica could serve last.

        Raises:
            UserError: it cannot be served, and nothing was served before.
        """
        try:
            await asyncio.to_thread(self._engine.load, build(ServingConfig, config, "user_config"))
        except Exception as error:  # the new models may not fit beside the old ones, too
            if not self._engine.ready:
                last = await asyncio.to_thread(self._engine.hub.get_config)
                if last is None or last == config:
                    raise
                await asyncio.to_thread(self._engine.load, ServingConfig.model_validate(last))
            logger.error("the old models stay: %s", error, exc_info=not isinstance(error, UserError))

    def check_health(self) -> None:
        """Called by Serve; raises where the replica must be replaced."""
        if not self._engine.alive:
            raise RuntimeError("the model's thread does not answer")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._engine, returns_request_id=False)


def _log_to(handlers: list[logging.Handler]) -> None:
    """The application's lines go where Serve's do."""
    own = logging.getLogger("ovseg_ray.serving")
    own.handlers, own.propagate = list(handlers), False
    own.setLevel(logging.INFO)


def application(args: dict[str, Any]) -> Application:
    """The `import_path` of a deployed file: what it serves is the `user_config` of its deployment.

    Args:
        args: of the file, a mapping as of `ScalingConfig`. Ray Serve wants a function of one argument, and its own way
            to type that would let unknown keys pass with an error of many lines.

    Raises:
        UserError: an unknown key, or a wrong value.
    """
    return endpoint(build(ScalingConfig, args, "args"))


def endpoint(scaling: ScalingConfig, serving: ServingConfig | None = None) -> Application:
    """The application, for `serve.run`.

    Args:
        scaling: what it runs on.
        serving: what it serves; None: that comes as `user_config` from elsewhere.
    """
    deployment: serve.Deployment = Endpoint
    requests = (serving.limits.requests if serving else LimitsConfig().requests) + SPARE_REQUESTS
    options: dict[str, Any] = {
        "max_ongoing_requests": requests,
        "max_queued_requests": 2 * requests,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
        "graceful_shutdown_timeout_s": scaling.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "ray_actor_options": {
            "num_cpus": scaling.num_cpus,
            "num_gpus": scaling.num_gpus,
            "runtime_env": {"env_vars": KEEP_MEMORY},
        },
        "logging_config": {"enable_access_log": False},  # the application writes its own
    }
    if scaling.min_replicas == scaling.max_replicas:
        options["num_replicas"] = scaling.max_replicas
    else:
        options["autoscaling_config"] = _autoscaling(scaling)
    if serving is not None:
        options["user_config"] = serving.model_dump(mode="json")
    # `serve.run` takes a deployment without a version for new code and replaces its replicas; only this keyword gives
    # it one, so that another `user_config` reaches them in place
    return deployment.options(**options, version=__version__, _internal=True).bind()


def _autoscaling(scaling: ScalingConfig) -> AutoscalingConfig:
    # replicas and handles report how many requests they have this often; shorter periods would see nothing
    interval = float(os.environ.get(PUSH_INTERVAL, PUSH_INTERVAL_S))
    return AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        initial_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_requests,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
        look_back_period_s=2 * interval,
    )
