"""The demo's service: a small HTTP/1.1 page about the device it runs on. `page` is its handler.

`/` is the page, which asks `/reading.json` for what changes. One request a connection, GET and HEAD.
"""

import json

from . import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REQUEST_S = 10  # for a whole request head
_HEADERS_MAX = 64

# In three parts, so that nothing long is ever copied: a board's heap may have no long run of free bytes.
_HEAD = b"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>
:root{color-scheme:light dark;--a:light-dark(#0b6e4f,#5fd3a8);--l:light-dark(#e3e7e5,#2c3431)}
*{box-sizing:border-box}body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.5 system-ui,sans-serif;
background:light-dark(#f4f6f5,#121614);color:light-dark(#17201c,#e6ebe8)}
main{width:min(36rem,100% - 2rem);padding:2rem;border-radius:1rem;background:light-dark(#fff,#1a201d);border:1px solid var(--l)}
h1{margin:0;font-size:1.6rem}h1 span{color:var(--a)}p{margin:.2rem 0 1.5rem;opacity:.75}
#v{font-size:3.2rem;font-weight:600;line-height:1.1;font-variant-numeric:tabular-nums;color:var(--a)}
dl{display:grid;grid-template-columns:auto 1fr;gap:.4rem 1.5rem;margin:1.5rem 0 0;padding-top:1.2rem;border-top:1px solid var(--l)}
dt{opacity:.65}dd{margin:0;text-align:right;font-variant-numeric:tabular-nums}
i{display:block;height:.4rem;margin-top:1rem;border-radius:.2rem;background:var(--l);overflow:hidden}
b{display:block;height:100%;background:var(--a)}
</style>"""
_BODY = """<title>@{}</title><main><h1><span>@</span>{}</h1><p>{}</p><div id="v">{} {}</div><div id="w">{}</div>
<dl><dt>up</dt><dd id="u">{} s</dd><dt>memory used</dt><dd id="m">{} B</dd><dt>memory free</dt><dd id="f">{}</dd></dl>
<i><b id="b"></b></i></main>
"""
_TAIL = b"""<script>
const e=i=>document.getElementById(i),n=x=>x==null?"\\u2013":x.toLocaleString()+" B";
async function t(){try{const r=await(await fetch("reading.json")).json();e("v").textContent=r.value+" "+r.unit;e("w").textContent=r.reading;
e("u").textContent=(r.uptime_ms/1e3).toFixed(1)+" s";e("m").textContent=n(r.heap_used);e("f").textContent=n(r.heap_free);
e("b").style.width=r.heap_free==null?0:100*r.heap_used/(r.heap_used+r.heap_free)+"%"}catch{}setTimeout(t,2e3)}t()
</script></html>
"""


async def measure() -> "dict[str, Any]":
    """What /reading.json says."""
    what, unit, value = await board.reading()
    free, used = board.memory()
    return {
        "name": board.device_name,
        "device": board.RUNTIME,
        "reading": what,
        "unit": unit,
        "value": value,
        "uptime_ms": board.clock(),
        "heap_free": free,
        "heap_used": used,
    }


async def _read_head(reader: "Any") -> "tuple[str, str] | None":
    """(method, path) of a request, None when it is not one."""
    line = await reader.readline()
    words = line.split()
    for _ in range(_HEADERS_MAX):
        if not line.endswith(b"\n"):
            break
        line = await reader.readline()
        if line in (b"\r\n", b"\n"):
            good = len(words) == 3 and words[2].startswith(b"HTTP/1.")
            return (words[0].decode(), words[1].decode()) if good else None
    return None


def _fill(said: "dict[str, Any]") -> str:
    name, free = said["name"], said["heap_free"]
    device = said["device"].replace("&", "&amp;").replace("<", "&lt;")
    left = "\u2013" if free is None else f"{free} B"
    up = said["uptime_ms"] // 1000
    return _BODY.format(name, name, device, said["value"], said["unit"], said["reading"], up, said["heap_used"], left)


async def page(reader: "Any", writer: "Any") -> None:
    """Answers one request."""
    try:
        head = await board.within(REQUEST_S, _read_head(reader))
    except (OSError, ValueError):
        head = None
    kind = "text/plain"
    before = after = b""
    if head is None:
        status, body = "400 Bad Request", "This is not an HTTP request.\n"
    elif head[0] not in ("GET", "HEAD"):
        status, body = "405 Method Not Allowed", "GET and HEAD only.\n"
    elif head[1] == "/":
        status, kind, body = "200 OK", "text/html", _fill(await measure())
        before, after = _HEAD, _TAIL
    elif head[1] == "/reading.json":
        status, kind, body = "200 OK", "application/json", json.dumps(await measure()) + "\n"
    else:
        status, body = "404 Not Found", "There is / and /reading.json.\n"
    data = body.encode()
    size = len(before) + len(data) + len(after)
    answer = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {size}\r\nConnection: close\r\n"
        + "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    writer.write(answer.encode())
    if head is None or head[0] != "HEAD":
        for part in (before, data, after):
            writer.write(part)
    await writer.drain()
