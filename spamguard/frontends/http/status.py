"""What monitoring asks for: /metrics for Prometheus, /healthz and /readyz.

Counters are those of `observe.Metrics`, gauges come from what `spamguard status` shows. No name,
address or id of a message is among them.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from spamguard.frontends.http.requests import Site
from spamguard.observe import Metrics

Status = Callable[[], Awaitable[dict[str, Any]]]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NOT_A_NAME = re.compile(r"[^a-z0-9_]")
_LATENCY_HELP = "Seconds from a message's end to its verdict"


def routes(site: Site, status: Status, is_draining: Callable[[], bool]) -> list[Route]:
    """Return the routes that monitoring uses."""

    async def metrics(request: Request) -> Response:
        site.require(request)
        return Response(render(site.metrics, await status()), media_type=CONTENT_TYPE)

    async def healthz(request: Request) -> Response:
        del request
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        del request
        scorers = len((await status())["scorers"])
        is_ready = scorers > 0 and not is_draining()
        answer = {"ready": is_ready, "scorers": scorers, "stopping": is_draining()}
        return JSONResponse(answer, 200 if is_ready else 503)

    return [
        Route("/metrics", metrics),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]


def render(metrics: Metrics, status: Mapping[str, Any]) -> bytes:
    """Return the text format that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, status))
    return generate_latest(registry)


class _Collector(Collector):
    """One reading of everything."""

    def __init__(self, metrics: Metrics, status: Mapping[str, Any]) -> None:
        self._metrics = metrics
        self._status = status

    def describe(self) -> list[Metric]:
        """Say nothing: what there is depends on what has happened."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield counters, the histogram of latencies, gauges."""
        yield from self._counters()
        yield self._latencies()
        status = self._status
        yield InfoMetricFamily(
            "spamguard",
            "Versions of the program and of the model in use",
            {"version": status["version"], "model": status["model"]},
        )
        yield _gauge("uptime_seconds", "Since the daemon started", status["uptime_seconds"])
        yield _gauge("scorers", "Scorer processes that run", len(status["scorers"]))
        yield _gauge("waiting", "Messages that wait for a scorer", status["waiting"])
        thresholds = GaugeMetricFamily(
            "spamguard_threshold", "Probability from which a label is given", labels=["label"]
        )
        for label, value in status["thresholds"].items():
            thresholds.add_metric([label], value)
        yield thresholds
        drift = GaugeMetricFamily(
            "spamguard_drift_psi",
            "Population stability index of the last messages: 0.1 watch, 0.25 shifted",
            labels=["signal"],
        )
        for name, value in status["drift"].get("psi", {}).items():
            drift.add_metric([name], value)
        yield drift
        yield _gauge("retraining", "1 while a retraining runs", status["retraining"]["running"])

    def _counters(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for key, value in self._metrics.snapshot().items():
            name, dot, label = key.partition(".")
            if name == "latency_ms":
                continue  # the histogram says more
            name = _NOT_A_NAME.sub("_", name)
            if name not in families:
                families[name] = CounterMetricFamily(
                    f"spamguard_{name}",
                    f"{name.replace('_', ' ')}, since the start",
                    labels=["label"] if dot else [],
                )
            families[name].add_metric([label] if dot else [], value)
        yield from families.values()

    def _latencies(self) -> Metric:
        counts, total_seconds = self._metrics.latency_histogram()
        family = HistogramMetricFamily("spamguard_latency_seconds", _LATENCY_HELP)
        buckets = [("+Inf" if le == float("inf") else str(le), n) for le, n in counts]
        family.add_metric([], buckets, total_seconds)
        return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"spamguard_{name}", text, value=float(value))
