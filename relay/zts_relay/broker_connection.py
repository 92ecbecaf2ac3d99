"""One MQTT connection of the embedded broker: its socket, its deadlines, its packets. The broker decides what they do."""

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final, cast

from zts.errors import RemoteError
from zts_relay import mqtt_codec as codec
from zts_relay.tls import TlsStream

if TYPE_CHECKING:
    from zts_relay.broker import Broker

READ_BYTES: Final = 4096  # taken from one socket before the others get their turn
_PENALTY_S: Final = 0.1  # a connection over its rate is not read for so long: a flood costs 40 KB/s of parsing


class Connection(asyncio.BufferedProtocol):
    """One socket: waits for a good CONNECT, then serves packets until the end."""

    def __init__(self, broker: "Broker", tls: TlsStream | None, source: bytes) -> None:
        self.username = ""
        self.client_id = ""
        self.will: codec.Will | None = None
        self.filters: set[str] = set()
        self.source = source
        self._broker = broker
        self._limits = broker.limits
        self._tls = tls
        self._decoder = codec.Decoder(broker.limits.connect_bytes)
        self._loop = asyncio.get_running_loop()
        self._state = "new"  # new, pending, serving, ended
        self._keepalive = 0.0
        self._heard = 0.0  # when the last whole packet came
        self._tokens = broker.limits.packet_burst
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    # --- asyncio's side ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # The kernel would hold megabytes for a subscriber that does not read.
        connected = cast(socket.socket, transport.get_extra_info("socket"))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._limits.outgoing_bytes)
        self._timer = self._loop.call_later(self._limits.connect_s, self._late)
        if self._broker.admit(self):
            self._state = "pending"
        else:
            self.abort()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._broker.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(memoryview(self._broker.read_buffer)[:nbytes])
        try:
            if self._tls:
                data = self._tls.receive(data)
                self._flush()
            self._decoder.feed(data)
            self._serve()
        except (RemoteError, ssl.SSLError):
            if self._tls:
                self._flush()  # the alert that says why
            self.drop("malformed")
        if self._tls and self._tls.ended:
            self.abort()

    def eof_received(self) -> bool:
        self.abort()  # asyncio's own close would wait until a client that reads no more has taken everything
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._leave()
        self._broker.forget(self)

    # --- the broker's side -------------------------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """End the connection now and count why."""
        if self._state in ("pending", "serving"):
            self._broker.stats.closed[reason] += 1
        self.abort()

    def abort(self) -> None:
        """End the connection now: its will is published, what is unsent is lost."""
        self._leave()
        self._transport.abort()

    def deliver(self, packet: bytes) -> None:
        """Send a PUBLISH, unless the subscriber is too slow or gone."""
        if self._state != "serving":
            return
        if self._transport.get_write_buffer_size() + len(packet) > self._limits.outgoing_bytes:
            self._broker.stats.dropped["slow"] += 1
        else:
            self._broker.stats.messages_out += 1
            self._write(packet)

    # --- packets -----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while self._state in ("pending", "serving"):
            packet = self._decoder.next_packet()
            if packet is None:
                return
            if self._state == "pending":
                self._log_in(packet)
            else:
                self._handle(packet, self._take_token())

    def _log_in(self, packet: codec.Packet) -> None:
        if not isinstance(packet, codec.Connect):
            raise RemoteError("CONNECT must come first")
        code = self._broker.login(self, packet)
        if code != codec.ACCEPTED:
            self._write(codec.connack(code))
            self._leave()
            self._transport.close()  # if the client takes no CONNACK, the timer of the CONNECT ends it
            return
        self._broker.settled(self)
        self._state = "serving"
        self._decoder.limit = self._limits.packet_bytes
        longest = self._limits.keepalive_s
        self._keepalive = 1.5 * (min(packet.keepalive, longest) or longest)
        self._timer.cancel()
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._keepalive, self._late)
        self._write(codec.connack(code))

    def _handle(self, packet: codec.Packet, in_rate: bool) -> None:
        match packet:
            case codec.Publish():
                if in_rate:
                    self._broker.publish(self, packet)
                else:
                    self._broker.stats.dropped["rate"] += 1
                if packet.packet_id is not None:
                    self._reply(codec.puback(packet.packet_id))
            case codec.Subscribe():
                granted = [self._broker.subscribe(self, text) for text in packet.filters]
                self._reply(codec.suback(packet.packet_id, [codec.GRANTED if good else codec.REFUSED for good in granted]))
                for text, good in zip(packet.filters, granted, strict=True):
                    hello = self._broker.retained(text)
                    if good and hello is not None:
                        self.deliver(codec.publish(text, hello, retain=True))
            case codec.Unsubscribe():
                for text in packet.filters:
                    self._broker.unsubscribe(self, text)
                self._reply(codec.unsuback(packet.packet_id))
            case codec.PingReq():
                self._reply(codec.PINGRESP)
            case codec.Disconnect():
                self.will = None
                self.abort()
            case codec.Connect():
                raise RemoteError("a second CONNECT")

    def _take_token(self) -> bool:
        """Whether the packet just read is within the connection's rate; if not, reading pauses."""
        now, limits = self._loop.time(), self._limits
        self._tokens = min(limits.packet_burst, self._tokens + (now - self._heard) * limits.packets_per_s)
        self._heard = now
        if self._tokens >= 1:
            self._tokens -= 1
            return True
        if self._transport.is_reading():
            self._transport.pause_reading()
            self._loop.call_later(_PENALTY_S, self._transport.resume_reading)
        return False

    def _reply(self, packet: bytes) -> None:
        """Answer a request. A client that asks on and on and takes no answer is dropped."""
        if self._transport.get_write_buffer_size() > 2 * self._limits.outgoing_bytes:
            self.drop("slow")
        else:
            self._write(packet)

    def _write(self, data: bytes) -> None:
        if self._tls:
            self._tls.send(data)
            self._flush()
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        assert self._tls
        data = self._tls.outgoing()
        if data:
            self._transport.write(data)

    def _late(self) -> None:
        """The timer: no CONNECT in time, or no packet within the keep-alive time."""
        if self._state == "serving":
            due = self._heard + self._keepalive
            if self._loop.time() < due:
                self._timer = self._loop.call_at(due, self._late)
                return
        self.drop("timeout")

    def _leave(self) -> None:
        state, self._state = self._state, "ended"
        if state == "pending":
            self._broker.settled(self)
        elif state == "serving":
            self._broker.logout(self)
