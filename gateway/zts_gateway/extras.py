"""What only some commands need, and who installs it."""

import importlib.util

from zts_gateway.ui import Exit, Failure


def need(extra: str, *modules: str) -> None:
    """Raises Failure when one of the modules is not installed, and names the extra of zts that brings it."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Failure(Exit.USAGE, f"this needs {module}, which is not installed; run: pip install 'zts[{extra}]'")
