"""The ZTS protocol, sans-IO, in the dialect MicroPython runs. See PROTOCOL.md."""

__version__ = "0.1.0"
