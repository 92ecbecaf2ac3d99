"""The agent's own service: what it measures, and how its name is kept apart from the configuration's."""

import json
from pipes import run

from check import raises
from zts import crypto
from zts.errors import FormatError
from zts_agent import page, services, status

PAGE = {"kind": "handler", "target": "zts_agent.page:page"}


def test_measures():
    said = run(status.measure())
    assert json.loads(json.dumps(said)) == said and len(json.dumps(said)) < 600
    assert said["aead_kbps"] > 0 and said["x25519_ms"] > 0
    assert (said["aes"], said["ghash"], said["x25519"]) == crypto.CODE


def test_every_call_is_counted_once():
    calls = [0]

    def work(count):
        assert count == calls[0]
        calls[0] += 1

    ms = status._ms_each(work)
    assert ms * calls[0] >= status.MEASURE_MS * 0.99


def test_names_of_the_agents_own_are_refused():
    for name in ("zts-status", "zts-x"):
        assert "zts-" in str(raises(FormatError, services.Services, {name: PAGE}))
    services.Services({"zts": PAGE, "ztsx": PAGE})


def test_its_own_are_found_and_not_announced():
    table = services.Services({"page": PAGE})
    names = list(table.names)
    table.add_own("status", page.page)
    assert table.find("zts-status") is not None
    assert table.find("status") is None
    assert table.names == names
