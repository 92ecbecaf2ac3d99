"""What the local side of a connection through 127.0.0.1 may say: browser pages must not ride on it. No input or output here.

Any page in the user's browser can have it connect to 127.0.0.1 and say HTTP there. So a service that speaks something else gets
nothing that looks like HTTP, and one that speaks HTTP gets only requests that name this address and come from no other site.
"""

from typing import Protocol

import h11

from zts_gateway.http_requests import Fields, Requests, quote, values
from zts_gateway.http_requests import Refused as Refused

# --- services that do not speak HTTP ---------------------------------------------------------------------------------------------

# What RFC 9112 section 3.2 lets follow a method: a path, an absolute URL, "*". So SQL's "DELETE FROM" or SIP's "OPTIONS sip:" is none.
_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")
_FOLLOWING = (b"/", b"*", b"http://", b"https://")
# A host and port after CONNECT. NATS' "CONNECT {" is none.
_HOST_BEGINS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789["
_HTTP_BEGINS = (
    *(method + b" " + following for method in _METHODS for following in _FOLLOWING),
    *(b"CONNECT " + bytes([first]) for first in _HOST_BEGINS),
    b"PRI * HTTP/2.0",  # RFC 9113 section 3.4
)


class Guard(Protocol):
    """Sees both directions of one connection."""

    def take(self, data: bytes) -> bytes:
        """What of the local side's bytes, and of those held back, may pass on now. Raises Refused."""
        ...

    def end(self) -> bytes:
        """What may still pass when the local side has ended."""
        ...

    def hear(self, data: bytes) -> None:
        """What the device says; all of it passes."""
        ...


class NotHttp:
    """For a service that does not speak HTTP. Only a beginning that could become HTTP's is held back, 15 bytes at most."""

    def __init__(self) -> None:
        self._held = b""
        self._decided = False

    def take(self, data: bytes) -> bytes:
        if self._decided:
            return data
        self._held += data
        if self._held.startswith(_HTTP_BEGINS):
            raise Refused(
                "refused what looks like HTTP, as a page in a browser may say it; "
                'if the service does speak HTTP, give it kind = "http" in the device\'s configuration'
            )
        if any(begin.startswith(self._held) for begin in _HTTP_BEGINS):
            return b""
        self._decided = True
        return self.end()

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def hear(self, data: bytes) -> None:
        pass


# --- services that do ------------------------------------------------------------------------------------------------------------


class Http(Requests):
    """For a service that speaks HTTP/1: every request on the connection is checked."""

    def __init__(self, port: int) -> None:
        super().__init__()
        names = [f"{host}:{port}" for host in ("127.0.0.1", "localhost")] + ["127.0.0.1", "localhost"] * (port == 80)
        self._address = names[0]
        self._hosts = [name.encode() for name in names]
        self._origins = [b"http://" + host for host in self._hosts]

    def judge(self, request: h11.Request, fields: Fields) -> Fields:
        hosts, origins = values(request, b"host"), values(request, b"origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            said = quote(b", ".join(hosts))
            raise self.refuse("403 Forbidden", f"the request is for the host {said}, and this is {self._address}", request)
        if not (request.target.startswith(b"/") or (request.method == b"OPTIONS" and request.target == b"*")):
            raise self.refuse("403 Forbidden", f"the request is for {quote(request.target)}, and this is no proxy", request)
        if any(origin not in self._origins for origin in origins):
            raise self.refuse("403 Forbidden", f"the request comes from a page of {quote(b', '.join(origins))}", request)
        if any(site not in (b"same-origin", b"none") for site in values(request, b"sec-fetch-site")):
            raise self.refuse(
                "403 Forbidden", f"the request comes from another site's page; type http://{self._address}/ into the address bar", request
            )
        return fields
