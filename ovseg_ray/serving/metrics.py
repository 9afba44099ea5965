"""Prometheus metrics of a replica, and of all replicas together.

`ovseg_requests_total` and `ovseg_request_seconds` by route and status, `ovseg_requests_inside`, `ovseg_stage_seconds`
(queue, image, text, post), `ovseg_batch_images` and `ovseg_batch_seconds` by model, `ovseg_images_total` by model and
whether the encoding was known, `ovseg_prompts_total` by whether the embedding was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ovseg_ray.serving.api import SegmentResponse

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Metrics of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"namespace": "ovseg", "registry": self.registry}
        self._requests = Counter("requests", "Requests answered", ["route", "method", "status"], **common)
        self._seconds = Histogram("request_seconds", "From receipt to answer", ["route"], buckets=SECONDS, **common)
        self._inside = Gauge("requests_inside", "Requests being answered", **common)
        self._stages = Histogram("stage_seconds", "Stages of an answer", ["stage"], buckets=SECONDS, **common)
        self._batch = Histogram("batch_images", "Pictures of a batch", ["model"], buckets=IMAGES, **common)
        self._batch_seconds = Histogram("batch_seconds", "A batch", ["model"], buckets=SECONDS, **common)
        self._images = Counter("images", "Pictures segmented", ["model", "encoding"], **common)
        self._prompts = Counter("prompts", "Prompts asked for", ["embedding"], **common)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def inside(self, count: int) -> None:
        """So many requests are being answered."""
        self._inside.set(count)

    def batch(self, model: str) -> Callable[[int, float], None]:
        """What a batcher calls after each batch, with its size and seconds."""

        def record(size: int, seconds: float) -> None:
            self._batch.labels(model).observe(size)
            self._batch_seconds.labels(model).observe(seconds)

        return record

    def answered(self, model: str, response: SegmentResponse) -> None:
        """A picture was segmented."""
        for stage in ("queue", "image", "text", "post"):
            self._stages.labels(stage).observe(getattr(response.timings, stage) / 1000)
        self._images.labels(model, "known" if response.cache.image else "made").inc()
        self._prompts.labels("known").inc(response.cache.prompts)
        self._prompts.labels("made").inc(response.cache.prompts_encoded)

    def families(self) -> list[Metric]:
        """All of it as plain data, for other replicas."""
        return list(self.registry.collect())


class _Merged:
    """Families of several replicas, told apart by the label `replica`."""

    def __init__(self, replicas: Mapping[str, Sequence[Metric]]) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for replica, families in sorted(self._replicas.items()):
            for family in families:
                into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    into.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
        yield from merged.values()


def render(replicas: Mapping[str, Sequence[Metric]]) -> bytes:
    """Metrics of all replicas in Prometheus's text format."""
    return generate_latest(_Merged(replicas))
