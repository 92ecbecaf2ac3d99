"""One laboratory a broker, for all end-to-end tests of a run."""

from collections.abc import Iterator
from typing import Any

import pytest

from lab import Lab, laboratory


@pytest.fixture(scope="session", params=["embedded", "mosquitto"])
def lab(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(tmp_path_factory.mktemp(request.param), request.param) as opened:
        yield opened
