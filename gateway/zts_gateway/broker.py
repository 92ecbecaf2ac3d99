"""One connection to the broker, and what it tells: hellos and messages.

A connection lives as long as one question: it is never taken up again by itself, so nothing is answered from an old one.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import aiomqtt

from zts import control, crypto, enrol, identity, wire
from zts.errors import RemoteError
from zts.initiator import Initiator
from zts_agent import board
from zts_gateway.addressbook import Identity
from zts_gateway.ui import Exit, Failure

BROKER_S = 10.0  # TCP, TLS and login
PRESENCE_S = 5.0  # to hear the retained hellos
_PER_SUBSCRIBE = 40  # hellos in one packet and on one connection at a time: brokers take 64 subscriptions and 2 KiB
_QUEUED = 4096  # messages that wait for us, at most: more than the devices of one owner; what is beyond is dropped
_LOGIN_REFUSED = (4, 5, 134, 135)  # bad user name or password, not authorised: MQTT 3.1.1, and as paho renames them


def pinned(pin: bytes) -> ssl.SSLContext:
    """A context that trusts exactly the certificate whose DER form has this SHA-256, and says nothing to any other."""

    class Pinned(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            certificate = self.getpeercert(binary_form=True)
            if certificate is None or not crypto.equal(crypto.sha256(certificate), pin):
                self.close()
                raise wrong_certificate()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no authority: the pin decides
    context.sslsocket_class = Pinned
    return context


def wrong_certificate() -> Failure:
    return Failure(
        Exit.AUTHENTICATION,
        "the broker does not show the certificate this relay is known by; somebody may be in between, or the relay was "
        "set up anew: ask its operator, and join again",
    )


@asynccontextmanager
async def connect(me: Identity, account: identity.Account, will: str | None = None) -> AsyncIterator[aiomqtt.Client]:
    """A clean session with a client id of the broker's choice, so that any number of processes get along.

    `will`: a topic whose retained message the broker forgets when we are gone.
    """
    tls, host, port = identity.parse_broker(account.broker, account.host)
    where = identity.join_address(host, port)
    logger = logging.getLogger("zts.mqtt")
    logger.setLevel(logging.CRITICAL)  # what matters comes as an exception
    client = aiomqtt.Client(
        host,
        port,
        username=me.fp,
        password=account.password,
        identifier="",
        clean_session=True,
        will=None if will is None else aiomqtt.Will(will, b"", retain=True),
        max_queued_incoming_messages=_QUEUED,
        timeout=BROKER_S,
        tls_context=pinned(account.pin) if tls else None,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        logger=logger,
    )
    _hear_end(client)
    try:
        await client.__aenter__()
    except aiomqtt.MqttCodeError as error:
        code = error.rc if isinstance(error.rc, int) or error.rc is None else error.rc.value
        if code in _LOGIN_REFUSED:
            raise await _explain_refusal(me, account) from None
        raise Failure(Exit.UNREACHABLE, f"the broker at {where} refuses to serve ({error}); try again later, or ask its operator") from None
    except aiomqtt.MqttError as error:
        raise unreachable(where, str(error)) from None
    _hear_end(client)  # the client may have a new one
    try:
        yield client
    except aiomqtt.MqttError as error:
        raise Failure(
            Exit.UNREACHABLE, f"the broker at {where} went away ({error}); check the network and the relay, then try again"
        ) from None
    finally:
        with suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)
        sock = client._client.socket()  # which it keeps when the other side broke MQTT
        if sock is not None:
            sock.close()


def _hear_end(client: aiomqtt.Client) -> None:
    """What ends a connection comes as an exception; it also lies in a future, which asyncio would print if nobody asked it."""
    client._disconnected.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


def unreachable(where: str, why: str) -> Failure:
    return Failure(Exit.UNREACHABLE, f"cannot reach the broker at {where} ({why}); check the network, and that the relay runs")


async def _explain_refusal(me: Identity, account: identity.Account) -> Failure:
    """A broker does not say why it lets nobody in; the relay does, to who proves to hold the account's key."""
    answer = await ask_relay(me, account, wire.KIND_LOOK_UP, {wire.TLV_CODE_ID: bytes(wire.HINT_BYTES)})
    if answer[wire.TLV_CODE][0] == wire.REVOKED:
        return Failure(Exit.DENIED, f"@{me.name} was revoked at the relay; ask its operator for a new join code")
    return Failure(
        Exit.AUTHENTICATION,
        "the broker does not accept this computer's login; if it is an external one, its operator must reload the files the relay writes",
    )


async def ask_relay(me: Identity, account: identity.Account, kind: int, fields: dict[int, bytes]) -> dict[int, bytes]:
    """A question to our relay as its party; the answer's fields. Raises Failure when there is none."""

    def initiator(challenge: bytes) -> Initiator:
        psk = control.party_psk(account.party_key)
        return Initiator(wire.PURPOSE_RELAY, me.pair, account.relay_key, psk, challenge, kind, account.account)

    where = identity.join_address(account.host, account.port)
    try:
        return await enrol.ask_relay(board, account.host, account.port, initiator, fields)
    except EOFError:
        raise Failure(
            Exit.AUTHENTICATION,
            f"{where} does not know this computer, or is another relay than the one it joined; ask its operator, and join again",
        ) from None
    except OSError as error:
        raise relay_unreachable(where, error) from None
    except RemoteError as error:
        raise Failure(Exit.LOST, f"the relay at {where} answers what this zts does not understand ({error}); update both") from None


def relay_unreachable(where: str, error: OSError) -> Failure:
    why = error.strerror or str(error)
    return Failure(Exit.UNREACHABLE, f"cannot reach the relay at {where} ({why}); check the network, and that the relay runs")


async def subscribe(client: aiomqtt.Client, topics: Iterable[str]) -> None:
    """Raises Failure when the broker refuses one."""
    granted = await client.subscribe([(topic, 0) for topic in topics])
    if any((code if isinstance(code, int) else code.value) >= 0x80 for code in granted):
        raise Failure(
            Exit.DENIED, "the broker refuses the subscription; its access rules are not those the relay writes: tell its operator"
        )


async def present(me: Identity, account: identity.Account, fingerprints: list[str]) -> set[str]:
    """Which of these parties have a retained hello now: a hint, not a proof. Within PRESENCE_S of the login."""
    found: set[str] = set()
    topics = {control.hello_topic(fp): fp for fp in fingerprints}
    async with connect(me, account) as client:
        try:
            async with asyncio.timeout(PRESENCE_S):
                for at in range(0, len(topics), _PER_SUBSCRIBE):
                    some = list(topics)[at : at + _PER_SUBSCRIBE]
                    await subscribe(client, some)
                    # A broker works in order: when it has answered this, it has sent the retained messages.
                    await client.unsubscribe(some)
        except TimeoutError:
            raise Failure(Exit.UNREACHABLE, "the broker does not answer; try again, and look at the relay") from None
        for _ in range(len(client.messages)):  # not "while": a broker may never stop
            message = await anext(client.messages)
            try:
                control.decode_hello(payload(message))
                found.add(topics[message.topic.value])
            except (RemoteError, KeyError):
                continue
    return found


def payload(message: aiomqtt.Message) -> bytes:
    return message.payload if isinstance(message.payload, bytes) else b""
