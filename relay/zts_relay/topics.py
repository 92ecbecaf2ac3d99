"""Who may do what on the control plane: pure functions over a party's fingerprint and a topic or filter.

Topics: `zts/1/<to>/in/<from>` is the inbox of `to`, with the sender in its name; `zts/1/<fp>/hello` is a party's retained
hello. A party reads its own inbox and hellos it can name exactly; it writes inboxes in its own name, and its own hello.
"""

from typing import Final

from zts import wire
from zts.control import hello_topic as hello
from zts.control import inbox_topic as inbox
from zts.identity import is_fingerprint_text as is_fingerprint

PREFIX: Final = f"zts/{wire.VERSION}/"

__all__ = ["hello", "inbox", "is_fingerprint", "may_publish", "may_subscribe"]


def may_subscribe(fingerprint: str, topic_filter: str) -> bool:
    """Whether the party may subscribe to `topic_filter`: its own inbox, or one exactly named hello."""
    if not topic_filter.startswith(PREFIX):
        return False
    match topic_filter[len(PREFIX) :].split("/"):
        case [to, "in", sender]:
            return to == fingerprint and (sender == "+" or is_fingerprint(sender))
        case [party, "hello"]:
            return is_fingerprint(party)
    return False


def may_publish(fingerprint: str, topic: str, size: int, retain: bool) -> bool:
    """Whether the party may publish `size` bytes of payload to `topic`.

    An inbox takes at most a message 1, never retained; the own hello is always retained and is a whole hello or empty
    (which clears it), so the broker can keep nothing else for anybody.
    """
    if not topic.startswith(PREFIX):
        return False
    match topic[len(PREFIX) :].split("/"):
        case [to, "in", sender]:
            return sender == fingerprint and is_fingerprint(to) and not retain and size <= wire.M1_BYTES
        case [party, "hello"]:
            return party == fingerprint and retain and size in (0, wire.HELLO_BYTES)
    return False
