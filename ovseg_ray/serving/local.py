"""An endpoint on this machine, until it is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from ovseg_ray.cluster import connect
from ovseg_ray.serving.config import ServingConfig
from ovseg_ray.serving.models import identity

LOOPBACK = "127.0.0.1"


def serve_here(
    config: ServingConfig,
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    address: str | None = None,
    debug: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        config: of the endpoint.
        host: to listen on.
        port: to listen on.
        address: Ray cluster; default: start Ray here.
        debug: show what Ray logs.
        ready: called once requests are taken.

    Raises:
        UserError: a run that cannot be served.
    """
    for model in config.models:
        identity(model)  # what is wrong with a run shows before Ray starts
    stop = threading.Event()
    with connect(address, debug=debug):
        from ray import serve

        from ovseg_ray.serving.deployment import APPLICATION, endpoint

        before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            serve.start(http_options={"host": host, "port": port})
            serve.run(endpoint(config.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
            ready()
            stop.wait()
        finally:
            serve.shutdown()
            for number, handler in before.items():
                signal.signal(number, handler)
