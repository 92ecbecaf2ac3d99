"""What a device has to say to its relay but for its legs: it enrols, once, and asks whether it was revoked.

Loaded when that is needed, and dropped then: a board has better use for the memory.
"""

import asyncio

from zts import codes, control, identity, wire
from zts import enrol as exchange
from zts.errors import RemoteError, ZtsError
from zts.initiator import Initiator

from . import board
from .agent import EXIT_REFUSED, EXIT_REVOKED, FIRST_WAIT_MS, LONGEST_WAIT_MS, AgentError, jitter
from .keystore import Keystore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MODULES = ("zts_agent.joining", "zts.enrol", "zts.initiator", "zts.codes")
SILENCES = 3  # connections closed without an answer, until the code counts as unknown: a relay may just restart


async def enrol(
    store: Keystore, s: "tuple[bytes, bytes]", address: "tuple[str, int] | None", pause: "Callable[[AgentError], Awaitable[None]]"
) -> identity.Account:
    """Enrols the key pair `s`, for as long as it takes, and remembers the account. `address` is the relay's, None: as its code says.

    `pause` is told of what only a person can mend.
    """
    code = store.join_code()
    if address is not None:
        code = codes.JoinCode(code.relay_key, code.secret, address[0], address[1])
    wait = FIRST_WAIT_MS
    silences = 0
    while True:
        try:
            account = await exchange.enrol(board, code, s, store.state["name"])
        except OSError as error:
            board.log("relay not reached", error=str(error))
            silences = 0
        except RemoteError as error:
            exit_code = EXIT_REVOKED if error.code == wire.REVOKED else EXIT_REFUSED
            await pause(AgentError(f"the relay does not enrol this device: code {error.code}", exit_code))
        except EOFError:
            silences += 1
            if silences == SILENCES:
                await pause(AgentError("the relay does not know this enrolment line; it may be used or expired", EXIT_REFUSED))
                silences = 0
        else:
            store.enrolled(account)
            board.log("enrolled", relay=identity.fingerprint_text(code.relay_key))
            return account
        await asyncio.sleep(jitter(wait) / 1000)
        wait = min(2 * wait, LONGEST_WAIT_MS)


async def is_revoked(account: identity.Account, s: "tuple[bytes, bytes]", address: "tuple[str, int] | None") -> bool:
    """A broker does not say why it lets nobody in; the relay does, to who proves to hold the account's key."""

    def initiator(challenge: bytes) -> Initiator:
        psk = control.party_psk(account.party_key)
        return Initiator(wire.PURPOSE_RELAY, s, account.relay_key, psk, challenge, wire.KIND_LOOK_UP, account.account)

    host, port = address or (account.host, account.port)
    try:
        answer = await exchange.ask_relay(board, host, port, initiator, {wire.TLV_CODE_ID: bytes(wire.HINT_BYTES)})
    except (OSError, EOFError, ZtsError):
        return False
    return answer[wire.TLV_CODE][0] == wire.REVOKED
