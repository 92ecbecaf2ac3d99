"""What `zts flash` runs on a board: MicroPython programs for `cable.Cable.run`, with their arguments in A. None prints a secret."""

from typing import Final

# -> what the board is, and what of ours is on it. A: how our main.py begins.
PROBE: Final = """
import sys, gc
def load(path):
    try:
        with open(path) as f: return json.load(f)
    except OSError: return None
    except ValueError: return "damaged"
def raw(path):
    try:
        with open(path, "rb") as f: return binascii.hexlify(f.read(64)).decode()
    except OSError: return ""
def main():
    try:
        with open("/main.py") as f: return "ours" if f.read(len(A[0])) == A[0] else "foreign"
    except OSError: return ""
    except UnicodeError: return "foreign"
def version(slot):
    m = load("/agent/" + slot + "/manifest.json")
    return m.get("version", "") if isinstance(m, dict) else ""
def key(text):
    try: return isinstance(text, str) and len(binascii.unhexlify(text)) in (0, 32)
    except ValueError: return False
def ssids(c):
    wifi = c.get("wifi", []) if isinstance(c, dict) else []
    return [n["ssid"] for n in wifi if isinstance(n, dict) and isinstance(n.get("ssid"), str)] if isinstance(wifi, list) else []
s = load("/agent/state/state.json")
state = None
if isinstance(s, dict) and isinstance(s.get("name", ""), str) and all([key(s.get(k, "")) for k in ("public", "owner", "pairing")]):
    state = {k: s.get(k, "") for k in ("name", "public", "owner")}
    state["pairing"] = binascii.hexlify(hashlib.sha256(s.get("pairing", "").encode()).digest()).decode()
    state["enrolled"] = "relay" in s
c = load("/agent/config.json")
config = isinstance(c, dict)
try: agent = os.listdir("/agent")
except OSError: agent = []
has_network = True
try:
    import network
    wlan = hasattr(network, "WLAN")
except ImportError:
    wlan = has_network = False
i = sys.implementation
v = os.statvfs("/")
gc.collect()
print(json.dumps({
    "name": i[0], "version": list(i[1][:3]), "machine": getattr(i, "_machine", ""), "mpy": getattr(i, "_mpy", 0),
    "platform": sys.platform, "heap_free": gc.mem_free(), "block": v[0], "blocks_free": v[3], "wlan": wlan,
    "main": main(), "saved": "main.before-zts.py" in os.listdir("/"),
    "state": state, "damaged": s is not None and state is None, "network": has_network,
    "foreign_agent": bool(agent) and "slots.mpy" not in agent and agent != ["slots.mpy.new"],
    "configured": config and isinstance(c.get("services"), dict),
    "ssids": ssids(c),
    "switch": [raw("/agent/switch.0"), raw("/agent/switch.1")],
    "versions": [version("a"), version("b")],
}))
"""

# -> the SHA-256 of each file, "" where there is none. A: paths.
HASHES: Final = "print(json.dumps([sha(path) for path in A[0]]))"

# -> how many files. A: a slot's folder, the paths in it that stay. The slot is not whole from now on.
PRUNE: Final = """
gone = 0
def prune(folder, prefix):
    global gone
    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.stat(path)[0] & 0x4000:
            prune(path, prefix + name + "/")
            if not os.listdir(path): os.rmdir(path)
        elif prefix + name not in A[1]:
            os.remove(path)
            gone += 1
try: os.remove(A[0] + "/manifest.json")
except OSError: pass
try: os.stat(A[0])
except OSError: pass
else: prune(A[0], "")
print(gone)
"""

# -> [path, "good", "changed" or "missing"] of each file that a slot's manifest names, and null without a manifest. A: the slot's folder.
AUDIT: Final = """
def audit():
    try:
        with open(A[0] + "/manifest.json") as f: files = json.load(f)["files"]
        said = []
        for path, size, digest in files:
            d = sha(A[0] + "/" + path)
            said.append([path, "good" if d == digest else "changed" if d else "missing"])
        return said
    except (OSError, ValueError, KeyError, TypeError): return None
print(json.dumps(audit()))
"""

# -> the names of the Wi-Fi networks. A: configuration without Wi-Fi, a network to prefer or None, whether services that are there stay.
CONFIGURE: Final = """
path = "/agent/config.json"
try:
    with open(path) as f: old = json.load(f)
    if not isinstance(old, dict): old = {}
except (OSError, ValueError): old = {}
new = dict(A[0])
if A[2] and isinstance(old.get("services"), dict): new["services"] = old["services"]
wifi = old.get("wifi", [])
wifi = [n for n in wifi if isinstance(n, dict) and "ssid" in n] if isinstance(wifi, list) else []
if A[1]: wifi = ([A[1]] + [n for n in wifi if n["ssid"] != A[1]["ssid"]])[:4]
if wifi: new["wifi"] = wifi
if new != old:
    with open(path + ".new", "w") as f: f.write(json.dumps(new))
    place(path)
print(json.dumps([n["ssid"] for n in wifi]))
"""

# -> "" or what is wrong with the configuration. A: the slot's folder.
CHECK_CONFIG: Final = """
import sys
if A[0] not in sys.path: sys.path.insert(0, A[0])
from zts.errors import FormatError
from zts_agent import main, services
try:
    services.Services(main.read_config("/agent/config.json").get("services", {}), main.KINDS)
    print('""')
except FormatError as error:
    print(json.dumps(str(error)))
"""

# -> the public key, as hexadecimal. A: the slot's folder, the enrolment line, 32 random bytes of the host's, whether to begin anew.
# The radio is a source of the chip's entropy, so it is on while the key pair is cut.
CUT_KEYS: Final = """
import sys
if A[0] not in sys.path: sys.path.insert(0, A[0])
try:
    import network
    network.WLAN(0).active(True)
except (ImportError, AttributeError, OSError): pass
import machine
from zts import crypto
from zts_agent.keystore import Keystore
path = "/agent/state/state.json"
crypto.add_entropy(A[2] + (machine.unique_id() if hasattr(machine, "unique_id") else b""))
try:
    with open(path) as f: state = json.load(f)
    if not isinstance(state, dict): raise ValueError
    if A[3] and state.pop("relay", None):
        state["line"] = A[1]
        with open(path + ".new", "w") as f: f.write(json.dumps(state))
        place(path)
except OSError: pass
except ValueError: os.remove(path)
k = Keystore("/agent/state")
k.adopt(A[1])
k.open()
print(json.dumps(k.state["public"]))
"""
