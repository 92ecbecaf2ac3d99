"""Ten thousand decisions for 50 parties under 200 rules: what one costs in time and heap, on both interpreters."""

import gc
import time

from policy_blob import HOLDERS, encode, rule
from zts import wire
from zts.grant import Terms
from zts.policy import Policy, decide

DECISIONS = 10_000
OWNER = b"o" * wire.FP_BYTES
PARTIES = [bytes([n, 7] * 8)[: wire.FP_BYTES] for n in range(50)]
NAMES = ["http", "console", "ssh", "metrics"]


def rules():
    """200: four a party, the last ones for all holders."""
    made = [rule([PARTIES[n % 49]], [NAMES[n // 49]], streams=1 + n // 49, until=1_900_000_000) for n in range(196)]
    return made + [rule([HOLDERS], [name], kib=64) for name in NAMES]


def test_ten_thousand_decisions():
    policy = Policy(encode(rules(), revoked=[bytes([n]) * 8 for n in range(1, 31)]))
    members = [Terms(party, True, None, 0, 0, 0, 0, False) for party in PARTIES]
    holders = [Terms(party, False, ["http", "ssh"], 0, 0, 0, 0, False) for party in PARTIES]
    gc.collect()
    used = gc.mem_alloc() if hasattr(gc, "mem_alloc") else 0
    start = time.time()
    allowed = 0
    for n in range(DECISIONS):
        terms = (members if n & 1 else holders)[n % 50]
        code, _ = decide(OWNER, policy, terms.holder, bytes(8), terms, NAMES[n // 50 % 4], wire.SERVICE_HTTP, 1_800_000_000)
        allowed += code == wire.OK
    took = time.time() - start
    gc.collect()
    grown = gc.mem_alloc() - used if used else 0
    # Of 49 members each reaches all four; the holders two of the four.
    assert 0.7 < allowed / DECISIONS < 0.77, allowed
    print(f"{len(policy.blob)} bytes of policy, {took / DECISIONS * 1e6:.0f} us a decision, heap grew by {max(0, grown)} bytes")
    assert grown < 1024
