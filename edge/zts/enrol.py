"""One exchange with a relay, which enrols a party or answers an enrolled one. A device needs it once, so it loads it then.

`net` is what `dial` takes.
"""

from . import codes, identity, wire
from .dial import DIAL_S, close_quietly, greet
from .errors import FormatError, RemoteError
from .initiator import Initiator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .dial import Net


async def ask_relay(
    net: "Net", host: str, port: int, initiator: "Callable[[bytes], Initiator]", fields: "dict[int, bytes]"
) -> "dict[int, bytes]":
    """One enrolment exchange (ZE1): the relay's authenticated answer.

    Raises OSError when there is no relay, EOFError when it closed without an answer: it does not know the code or the
    account, or is not the relay of that key. RemoteError: an answer we do not understand.
    """
    reader, writer, challenge = await net.within(DIAL_S, greet(net, host, port, wire.MAGIC_ENROL))
    try:
        asking = initiator(challenge)
        writer.write(asking.message_1(fields))
        await writer.drain()
        m2 = await net.within(DIAL_S, reader.readexactly(wire.M2_BYTES))
    finally:
        await close_quietly(writer)
    answer = asking.read_message_2(m2)
    if answer is None:
        raise EOFError("the answer is not the relay's")
    return answer


async def enrol(net: "Net", code: codes.JoinCode, s: "tuple[bytes, bytes]", name: str) -> identity.Account:
    """Enrols the key pair `s` at the code's relay. The same key and code again give the same account again.

    Raises as ask_relay does, and RemoteError with the relay's code when it refuses (a used or expired join code: DENIED).
    """
    fields = {wire.TLV_NAME: name.encode()}
    hint, psk = codes.code_id(code.secret), codes.code_psk(code.secret)

    def initiator(challenge: bytes) -> Initiator:
        return Initiator(wire.PURPOSE_RELAY, s, code.relay_key, psk, challenge, wire.KIND_ENROL, hint)

    answer = await ask_relay(net, code.host, code.port, initiator, fields)
    return read_account(answer, code)


def read_account(answer: "dict[int, bytes]", code: codes.JoinCode) -> identity.Account:
    """What an enrolment's answer gives. Raises RemoteError with the relay's code, or when the answer is not whole."""
    if answer[wire.TLV_CODE][0] != wire.OK:
        raise RemoteError("the relay refuses to enrol", answer[wire.TLV_CODE][0])
    for kind in (wire.TLV_ACCOUNT, wire.TLV_PARTY_KEY, wire.TLV_PASSWORD, wire.TLV_BROKER):
        if kind not in answer:
            raise RemoteError("the relay's answer is not whole")
    try:
        broker = answer[wire.TLV_BROKER].decode()
        tls = identity.parse_broker(broker, code.host)[0]
    except (UnicodeError, FormatError):
        raise RemoteError("the relay's broker URL is none")
    if tls != (wire.TLV_PIN in answer):
        raise RemoteError("a broker's pin and its mqtts:// go together")
    password = identity.base32(answer[wire.TLV_PASSWORD])
    pin = answer.get(wire.TLV_PIN, b"")
    account, key = answer[wire.TLV_ACCOUNT], answer[wire.TLV_PARTY_KEY]
    return identity.Account(code.relay_key, code.host, code.port, account, key, password, pin, broker)
