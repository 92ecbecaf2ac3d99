"""Structured logs: one JSON object a line on stderr. Events and numbers only: no names, fingerprints, accounts, keys or codes."""

import json
import logging
import sys
from datetime import UTC, datetime

_logger = logging.getLogger("zts_relay")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure() -> None:
    """Send every log record of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def event(what: str, **fields: str | int | float | None) -> None:
    _logger.info(what, extra={"fields": fields})


def warning(what: str, **fields: str | int | float | None) -> None:
    _logger.warning(what, extra={"fields": fields})


def failure(where: str) -> None:
    """The exception being handled is a bug; whatever it hit was ended, and nothing else."""
    _logger.exception("internal error", extra={"fields": {"where": where}})
