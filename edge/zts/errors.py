"""Every exception the protocol raises. A caller needs to know three things: whose fault, which code, may it go on."""


class ZtsError(Exception):
    """Base of all errors raised by ZTS itself."""


class CryptoError(ZtsError):
    """A tag, a MAC or a public key did not check. Carries no detail: detail helps the attacker."""


class LocalError(ZtsError):
    """The caller broke a rule of the API (wrote past the credit, used a closed stream). Nothing was sent."""


class RemoteError(ZtsError):
    """The other side broke the protocol. `code` is the wire code to answer with, PROTO unless told."""

    def __init__(self, message: str, code: int = 9) -> None:
        super().__init__(message)
        self.code = code


class FormatError(ZtsError):
    """Text a person pasted, or a file, is not of the form it should be. The message says what is wrong with it."""


class StreamReset(ZtsError):
    """The stream ended without a FIN: some bytes may be missing. `code` is the wire code that says why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream reset, code {code}")
        self.code = code
