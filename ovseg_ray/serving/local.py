"""An endpoint that lives as long as this process, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovseg_ray.cluster import connect
from ovseg_ray.errors import UserError
from ovseg_ray.serving.config import ScalingConfig, ServingConfig
from ovseg_ray.serving.models import identity

LOOPBACK = "127.0.0.1"
HAPROXY_PORTS = (8404, 9101)  # of its counters; Ray gives no way to choose them
ONLY_HERE = (LOOPBACK, "::1", "localhost")
REQUEST_GRACE_S = 5.0  # beyond the longest deadline: the engine's own answer comes first
METRIC_INTERVAL_S = "1"
# read when Ray's processes start
_RESPONSIVE = {
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": METRIC_INTERVAL_S,
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": METRIC_INTERVAL_S,
    "RAY_worker_niceness": "0",  # Ray's 15 is for work that nobody waits for
}
# replay what a replica took to its grave; a request is replayed whole, so it must fit into a buffer
_HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
    "RAY_SERVE_HAPROXY_RETRIES": "3",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(2**20),
    "RAY_SERVE_HAPROXY_MAXCONN": "512",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",  # that HAProxy has to notice; 30 are for whole clusters
}


def serve_here(
    config: Callable[[], ServingConfig],
    scaling: ScalingConfig,
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    haproxy: bool = False,
    address: str | None = None,
    debug: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until SIGINT or SIGTERM; on SIGHUP serve what the configuration says then.

    Args:
        config: reads the configuration.
        scaling: what it runs on.
        host: to listen on.
        port: to listen on.
        haproxy: take requests through HAProxy, which is faster and shows its counters on every interface.
        address: Ray cluster; default: start Ray here.
        debug: show what Ray logs.
        say: told when requests are taken, when the configuration was read again, and what was wrong with it.

    Raises:
        UserError: a run that cannot be served, or a port that is taken.
    """
    if haproxy and address is not None:
        raise UserError(
            f"--haproxy --address {address}: a cluster decides that when it starts; see docs/how-to/serving.md"
        )
    settings = _checked(config)
    if address is None:
        _knock(host, port, f"--host {host} --port {port}", "choose another")
        for own in HAPROXY_PORTS if haproxy else ():
            _knock("0.0.0.0", own, f"--haproxy: its port {own}", "another 'serve --haproxy' may have it; leave it out")
    if not debug:
        # a filter: Serve sets the level of its logger anew
        logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.ERROR)
    os.environ.update({name: value for name, value in _RESPONSIVE.items() if name not in os.environ})
    if haproxy:
        os.environ.update({name: value for name, value in _HAPROXY.items() if name not in os.environ})
    # signals after Ray: it takes SIGTERM for itself when it starts
    with connect(address, debug=debug), _Signals() as signals:
        say(f"loading {', '.join(model.name or Path(model.run).name for model in settings.models)}")
        _run(settings, scaling, host, port)
        if host not in ONLY_HERE and not settings.tokens:
            say(f"anybody who reaches port {port} of this machine may ask; give tokens in --config")
        if haproxy:
            say("HAProxy's counters (ports 8404 and 9101) can be read from other machines; a firewall keeps them in")
        say(f"serving at http://{host}:{port} (API: /docs); Ctrl-C stops it")
        try:
            while signals.wait() == signal.SIGHUP:
                _reload(config, scaling, host, port, say)
            say("stopping; what was begun is finished")
        finally:
            _stop()


class _Signals:
    """SIGINT, SIGTERM and SIGHUP as something to wait for."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, lambda number, _: self._arrived.put(number))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> int:
        """The next signal."""
        while True:
            # with a timeout: a wait without one would hold signal handlers back
            with contextlib.suppress(queue.Empty):
                return self._arrived.get(timeout=0.5)


def _run(settings: ServingConfig, scaling: ScalingConfig, host: str, port: int) -> None:
    from ray import serve

    from ovseg_ray.serving.deployment import APPLICATION, endpoint

    timeout = settings.limits.deadline_ms / 1000 + REQUEST_GRACE_S
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": timeout})
    serve.run(endpoint(scaling, settings), name=APPLICATION, route_prefix="/")


def _reload(
    config: Callable[[], ServingConfig],
    scaling: ScalingConfig,
    host: str,
    port: int,
    say: Callable[[str], None],
) -> None:
    try:
        _run(_checked(config), scaling, host, port)
    except UserError as error:
        say(f"error: {error}")
    else:
        say("serving what the configuration says now")


def _checked(config: Callable[[], ServingConfig]) -> ServingConfig:
    """What is wrong with a run shows before Ray starts."""
    settings = config()
    seen: set[tuple[str, str]] = set()
    for model in settings.models:
        found = identity(model)
        if found in seen:
            raise UserError(f"{model.run}: another run is called {found[0]}@{found[1]} too; give it another name")
        seen.add(found)
    return settings


def _knock(host: str, port: int, what: str, way: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what}: cannot be listened on ({reason}); {way}") from error


def _stop() -> None:
    from ray import serve

    from ovseg_ray.serving.deployment import APPLICATION
    from ovseg_ray.serving.hub_actor import stop_hub

    serve.delete(APPLICATION)  # replicas finish what they have begun
    serve.shutdown()
    stop_hub(APPLICATION)
