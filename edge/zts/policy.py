"""Who may reach which service of a device: one pure function, asked at every leg and every OPEN."""

from . import wire
from .crypto import equal


def decide(owner: bytes, party: bytes, service: str | None) -> int:
    """A wire code: OK or DENIED. `owner` and `party` are fingerprints; `service` None asks for the leg itself.

    The owner reaches everything, nobody else anything. What is not clearly allowed is denied.
    """
    if len(owner) == wire.FP_BYTES and equal(owner, party):
        return wire.OK
    return wire.DENIED
