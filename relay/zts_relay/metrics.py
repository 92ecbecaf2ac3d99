"""Prometheus metrics over HTTP.

Served by the relay's own loop: the numbers are read where they are written, and prometheus_client's server would look
its own host name up, which a relay that never dials must not do.
"""

import asyncio
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from zts_relay.broker import Broker
from zts_relay.enrolment import Desk
from zts_relay.listener import Listener
from zts_relay.server import LegServer

_REQUEST_BYTES: Final = 8192
_REQUEST_S: Final = 5.0
_REQUESTS: Final = 16  # at once; who watches a relay needs one
_FULL: Final = 0.95  # of the descriptors: a relay that is full can still be asked why


class RelayCollector(Collector):
    def __init__(self, legs: LegServer, desk: Desk, broker: Broker | None) -> None:
        self._legs, self._desk, self._broker = legs, desk, broker

    def collect(self) -> Iterable[Metric]:
        legs = self._legs
        by_state = {
            "unknown": legs.unknown.total(),
            "parked": legs.rendezvous.parked,
            "joined": 2 * legs.pairs,
        }
        yield _gauge("zts_relay_legs", "Connections to the leg port by state", "state", by_state.items())
        yield GaugeMetricFamily("zts_relay_pairs", "Pairs of joined legs", legs.pairs)
        yield _counter("zts_relay_pairs_ended", "Pairs that ended, by reason", "reason", legs.ended.items())
        moved = {"copy": legs.carrier.copied, "splice": legs.carrier.spliced}
        yield _counter("zts_relay_bytes", "Bytes read from legs for their partners, by how", "path", moved.items())
        yield GaugeMetricFamily("zts_relay_pipes", "Pipes lent to directions with bytes in flight", legs.carrier.pipes.lent)
        yield _counter("zts_relay_refused", "Connections to the leg port that were not joined, by reason", "reason", legs.refused.items())
        enrolments = CounterMetricFamily("zts_relay_enrolments", "Messages 1 by kind and outcome", labels=("kind", "outcome"))
        for labels, count in self._desk.outcomes.items():
            enrolments.add_metric(labels, count)
        yield enrolments
        if self._broker:
            yield from self._of_broker(self._broker)

    def _of_broker(self, broker: Broker) -> Iterator[Metric]:
        stats = broker.stats
        connections = {"unknown": stats.pending, "logged_in": stats.connections}
        yield _gauge("zts_relay_broker_connections", "MQTT connections by state", "state", connections.items())
        messages = {"in": stats.messages_in, "out": stats.messages_out}
        yield _counter("zts_relay_broker_messages", "MQTT messages by direction", "direction", messages.items())
        yield CounterMetricFamily("zts_relay_broker_auth_failures", "CONNECTs refused", stats.auth_failures)
        yield _counter("zts_relay_broker_dropped", "MQTT messages dropped, by reason", "reason", stats.dropped.items())
        yield _counter("zts_relay_broker_closed", "MQTT connections closed by the broker, by reason", "reason", stats.closed.items())


class MetricsServer:
    def __init__(self, legs: LegServer, desk: Desk, broker: Broker | None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(RelayCollector(legs, desk, broker))
        ProcessCollector(registry=self._registry)
        self._listener = Listener("metrics", _FULL, self._accept)
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen on an IP address; port 0 picks one. Returns the address bound. Raises OSError."""
        return self._listener.open(host, port)

    async def close(self) -> None:
        self._listener.close()
        await asyncio.sleep(0)  # who was accepted just now begins, so that its socket is closed
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _accept(self, sock: socket.socket, _: Any) -> None:
        if len(self._answering) >= _REQUESTS:
            sock.close()
            return
        task = asyncio.create_task(self._serve(sock))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock, limit=_REQUEST_BYTES)
        try:
            async with asyncio.timeout(_REQUEST_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(request.split(b"\r\n", 1)[0]))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass
        finally:
            writer.close()

    def _answer(self, request_line: bytes) -> bytes:
        words = request_line.split(b" ")
        if len(words) != 3 or words[0] != b"GET":
            return _response("405 Method Not Allowed", "text/plain", b"GET only\n")
        if words[1].partition(b"?")[0] not in (b"/", b"/metrics"):
            return _response("404 Not Found", "text/plain", b"see /metrics\n")
        return _response("200 OK", CONTENT_TYPE_LATEST, generate_latest(self._registry))


def _response(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def _gauge(name: str, help_: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_, labels=(label,))
    for value, number in values:
        family.add_metric((value,), number)
    return family


def _counter(name: str, help_: str, label: str, values: Iterable[tuple[str, float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_, labels=(label,))
    for value, number in values:
        family.add_metric((value,), number)
    return family
