"""The virtual board, by the real mpremote as a person uses it, without `resume`: what holds for a board must hold here."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from whole_network import until
from zts_gateway.virtual_board import VirtualBoard

MPREMOTE = Path(sys.executable).parent / "mpremote"
MICROPYTHON = Path(sys.executable).parent / "micropython"
WAIT_S = 30.0


def mpremote(board: VirtualBoard, *arguments: str) -> str:
    done = subprocess.run([MPREMOTE, "connect", board.port, *arguments], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def interrupted(board: VirtualBoard, program: str) -> None:
    """Starts the program with mpremote, interrupts it after it said "begun", and has the board go on."""
    process = subprocess.Popen([MPREMOTE, "connect", board.port, "exec", program], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline().strip() == b"begun"
    process.kill()
    process.wait()
    process.stdout.close()
    assert mpremote(board, "exec", "print(6 * 7)") == "42\n"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[VirtualBoard]:
    with VirtualBoard(tmp_path / "flash", networks={"home": "right"}) as board:
        yield board


def test_exec_and_run(board: VirtualBoard, tmp_path: Path) -> None:
    assert mpremote(board, "exec", "print(1 + 2)") == "3\n"
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(sys.platform, __name__)\nraise ValueError('mine')\n")
    done = subprocess.run([MPREMOTE, "connect", board.port, "run", script], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 1
    assert "__main__" in done.stdout
    assert "ValueError: mine" in done.stdout + done.stderr


def test_files(board: VirtualBoard, tmp_path: Path) -> None:
    data = bytes(range(256)) * 24
    local, back = tmp_path / "local.bin", tmp_path / "back.bin"
    local.write_bytes(data)
    mpremote(board, "fs", "cp", str(local), ":there.bin")
    assert (board.folder / "there.bin").read_bytes() == data
    mpremote(board, "fs", "cp", ":there.bin", str(back))
    assert back.read_bytes() == data
    assert hashlib.sha256(data).hexdigest() in mpremote(board, "fs", "sha256sum", ":there.bin")
    assert f"{len(data)} there.bin" in mpremote(board, "fs", "ls")
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "one.txt").write_text("one\n")
    mpremote(board, "fs", "cp", "-r", str(folder), ":")
    assert "one.txt" in mpremote(board, "fs", "tree")
    assert mpremote(board, "fs", "cat", ":package/inner/one.txt") == "one\n"
    mpremote(board, "fs", "mkdir", ":empty", "+", "fs", "rm", "-r", ":package")
    assert sorted(path.name for path in board.folder.iterdir()) == ["empty", "there.bin"]


def test_a_file_is_renamed_onto_another(board: VirtualBoard) -> None:
    program = (
        "import os\nopen('/old', 'w').write('new')\nopen('/there', 'w').write('old')\nos.mkdir('/sub')\nos.chdir('/sub')\n"
        "os.rename('/old', '/there')\nos.rename('/there', 'here')\nprint(os.getcwd(), os.listdir('/sub'))"
    )
    assert mpremote(board, "exec", program) == "/sub ['here']\n"
    assert (board.folder / "sub" / "here").read_text() == "new"
    assert not (board.folder / "old").exists() and not (board.folder / "there").exists()


def test_mip_with_a_local_package(board: VirtualBoard, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"urls": [["mine.py", "mine.py"]], "version": "1.0"}))
    (tmp_path / "mine.py").write_text("x = 5\n")
    mpremote(board, "mip", "install", str(tmp_path / "package.json"))
    assert mpremote(board, "exec", "import mine; print(mine.x, mine.__file__)") == "5 /lib/mine.py\n"


def test_mount_with_an_interrupt_among_the_bytes(board: VirtualBoard, tmp_path: Path) -> None:
    (tmp_path / "mounted.py").write_text("text = 'a\x03b'\n")
    assert "b'a\\x03b'" in mpremote(board, "mount", str(tmp_path), "exec", "import mounted; print(mounted.text.encode())")


def test_soft_reset_forgets_and_runs_boot_alone(board: VirtualBoard) -> None:
    (board.folder / "boot.py").write_text("import builtins\nbuiltins.booted = True\nprint('booting')\n")
    (board.folder / "main.py").write_text("import builtins\nbuiltins.main = True\n")
    mpremote(board, "soft-reset")
    assert mpremote(board, "exec", "x = 1; print(booted, hasattr(__import__('builtins'), 'main'))") == "True False\n"
    assert mpremote(board, "exec", "print('x' in globals())") == "False\n"
    mpremote(board, "exec", "--no-follow", "import machine; machine.soft_reset()")
    assert mpremote(board, "exec", "import machine; print(machine.reset_cause() == machine.SOFT_RESET)") == "True\n"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import asyncio\nasync def wait():\n  await asyncio.sleep(1000)\nasyncio.run(wait())",
        "import sys\nsys.stdin.read(1)\nwhile True: print('x' * 100)",
    ],
)
def test_ctrl_c(board: VirtualBoard, program: str) -> None:
    interrupted(board, "print('begun')\n" + program)


def test_main_runs_at_power_on_and_ctrl_c_gives_a_prompt(board: VirtualBoard) -> None:
    board.cut_power()
    (board.folder / "boot.py").write_text("print('boot')\n")
    (board.folder / "main.py").write_text("import time\nopen('/ran', 'w').close()\nwhile True: time.sleep(1)\n")
    board.start()
    until((board.folder / "ran").exists, "main.py runs")
    with serial.Serial(board.port, timeout=WAIT_S) as port:
        port.write(b"\r\x03")
        assert b"KeyboardInterrupt" in port.read_until(b">>> ")
        port.write(b"6 * 7\r\n")
        assert b"\n42\n" in port.read_until(b"42\n>>> ")
        (board.folder / "ran").unlink()
        port.write(b"\x04")
        assert b"MPY: soft reboot" in port.read_until(b"boot\n")
        until((board.folder / "ran").exists, "main.py runs after a soft reset")


def test_a_boot_that_fails_says_so_and_main_is_not_run(board: VirtualBoard) -> None:
    board.cut_power()
    (board.folder / "boot.py").write_text("1 / 0\n")
    (board.folder / "main.py").write_text("open('/ran', 'w').close()\n")
    board.start()
    assert mpremote(board, "exec", "print('here')") == "here\n"
    assert not (board.folder / "ran").exists()


def test_sys_exit_in_main_is_a_soft_reset(board: VirtualBoard) -> None:
    board.cut_power()
    (board.folder / "main.py").write_text("import sys, time\nopen('/runs', 'a').write('x')\ntime.sleep(0.3)\nsys.exit()\n")
    board.start()
    until(lambda: (board.folder / "runs").exists() and len((board.folder / "runs").read_text()) > 2, "main.py runs again and again")
    assert mpremote(board, "exec", "print('here')") == "here\n"


def test_what_is_written_survives_a_power_cut_and_nothing_runs_on(board: VirtualBoard) -> None:
    (board.folder / "main.py").write_text("n = 0\nwhile True:\n  n += 1\n  with open('/n', 'w') as f: f.write(str(n))\n")
    mpremote(board, "reset")
    until((board.folder / "n").exists, "main.py runs")
    children = Path(f"/proc/{board.pid}/task/{board.pid}/children").read_text().split()
    assert children
    board.cut_power()
    until(lambda: not any(Path("/proc", child).exists() for child in children), "the interpreter is gone")
    last = (board.folder / "n").read_text()
    time.sleep(0.1)
    assert (board.folder / "n").read_text() == last
    (board.folder / "main.py").unlink()
    board.start()
    assert mpremote(board, "exec", "import machine; print(open('/n').read())") == last + "\n"


def test_one_flash_is_one_board(board: VirtualBoard) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zts_gateway.virtual_board", str(board.folder)], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 2
    assert "another virtual board" in done.stderr


def test_the_port_goes_when_the_board_ends_in_order(board: VirtualBoard) -> None:
    os.kill(board.pid, signal.SIGTERM)
    until(lambda: not os.path.lexists(board.port), "the link is gone")


def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, tempfile, time; from pathlib import Path; from zts_gateway.virtual_board import VirtualBoard\n"
        "tempfile.tempdir = sys.argv[2]\n"
        "board = VirtualBoard(Path(sys.argv[1])); board.start(); print(board.pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "flash"), str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        process.kill()
    until(lambda: not any(Path("/proc", str(one)).exists() for one in [pid, *children]), "the board and its interpreter are gone")


def test_its_heap_is_the_ports_own(board: VirtualBoard) -> None:
    ask = "import gc; gc.collect(); print(gc.mem_free())"
    bare = subprocess.run([MICROPYTHON, "-X", "heapsize=256K", "-c", ask], capture_output=True, text=True, timeout=WAIT_S)
    free = int(mpremote(board, "exec", ask))
    assert abs(free - int(bare.stdout)) < 4096, (free, bare.stdout)


def test_machine_reset_and_its_cause(board: VirtualBoard) -> None:
    assert (
        mpremote(board, "exec", "import machine; print(machine.unique_id() == machine.unique_id(), len(machine.unique_id()))") == "True 6\n"
    )
    mpremote(board, "reset")
    assert mpremote(board, "resume", "exec", "import machine; print(machine.reset_cause() == machine.HARD_RESET)") == "True\n"


def test_a_watchdog_that_is_not_fed_resets(board: VirtualBoard) -> None:
    board.cut_power()
    (board.folder / "main.py").write_text(
        "import machine, time\nopen('/causes', 'a').write(str(machine.reset_cause()))\n"
        "w = machine.WDT(timeout=500)\nfor _ in range(15):\n  w.feed()\n  time.sleep(0.05)\n"
        "open('/causes', 'a').write('f')\nwhile True: pass\n"
    )
    board.start()
    until(lambda: (board.folder / "causes").exists() and (board.folder / "causes").read_text().startswith("1f3f"), "reset by the watchdog")


TIMER = """
import machine, time
seen = []
timer = machine.Timer(-1)
timer.init(period=10, mode=machine.Timer.PERIODIC, callback=lambda t: seen.append(t is timer))
end = time.ticks_add(time.ticks_ms(), 300)
while time.ticks_diff(end, time.ticks_ms()) > 0: pass
busy = len(seen)
time.sleep(0.3)
slept = len(seen) - busy
timer.deinit()
time.sleep(0.05)
count = len(seen)
time.sleep(0.1)
once = []
machine.Timer(0, period=10, mode=machine.Timer.ONE_SHOT, callback=once.append)
time.sleep(0.2)
print(busy >= 3, slept >= 3, all(seen), count == len(seen), len(once))
"""


def test_a_timer_ticks_in_a_busy_loop_and_in_sleep(board: VirtualBoard) -> None:
    assert mpremote(board, "exec", TIMER) == "True True True True 1\n"


ECHO = """
import asyncio, machine
async def echo():
    uart = machine.UART(1, 115200, tx=17, rx=16, timeout=0, timeout_char=0, rxbuf=2048)
    stream = asyncio.StreamReader(uart)
    print("begun")
    while True:
        data = await stream.read(256)
        stream.write(data)
        await stream.drain()
asyncio.run(echo())
"""


def test_a_uart_under_asyncio(board: VirtualBoard) -> None:
    process = subprocess.Popen([MPREMOTE, "connect", board.port, "exec", ECHO], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline().strip() == b"begun"
        data = bytes(range(256)) * 64
        with serial.Serial(board.uart(1), timeout=WAIT_S) as line:
            for at in range(0, len(data), 1024):
                line.write(data[at : at + 1024])
                assert line.read(1024) == data[at : at + 1024]
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_a_uart_by_hand(board: VirtualBoard) -> None:
    with serial.Serial(board.uart(2), timeout=WAIT_S) as line:
        assert (
            mpremote(board, "exec", "import machine; u = machine.UART(2, 9600); print(u.any(), u.read(), u.write(b'hello'))")
            == "0 None 5\n"
        )
        assert line.read(5) == b"hello"
        line.write(b"abc\ndef")
        ask = (
            "import machine; u = machine.UART(2, timeout=1000); b = bytearray(2); print(u.readinto(b), b, u.readline(), u.read(3), u.any())"
        )
        assert mpremote(board, "resume", "exec", ask) == "2 bytearray(b'ab') b'c\\n' b'def' 0\n"
    # With nobody at the other end, a line holds nobody up.
    ask = "import machine; u = machine.UART(2, 9600); n = sum(u.write(b'x' * 1000) or 0 for _ in range(200)); print(n > 0)"
    assert mpremote(board, "exec", ask) == "True\n"


DUPTERM = """
import io, machine, os, time
class Terminal(io.IOBase):
    typed = b""
    said = b""
    def readinto(self, buffer):
        if not self.typed: return None
        buffer[0] = self.typed[0]
        self.typed = self.typed[1:]
        return 1
    def write(self, data):
        self.said += data
        return len(data)
    def ioctl(self, request, argument): return -1
terminal = Terminal()
os.dupterm(terminal)
print("seen")
timer = machine.Timer(-1)
def look(t):
    terminal.typed = b"\\x03"
    os.dupterm_notify(None)
timer.init(mode=machine.Timer.ONE_SHOT, period=100, callback=look)
try:
    {work}
    outcome = "went on"
except KeyboardInterrupt:
    outcome = "interrupted"
print(os.dupterm(None) is terminal, outcome)
print(terminal.said)
"""


@pytest.mark.parametrize("work", ["for _ in range(10**9): pass", "time.sleep(1000)"])
def test_an_interrupt_through_dupterm(board: VirtualBoard, work: str) -> None:
    assert mpremote(board, "exec", DUPTERM.format(work=work)) == "seen\nTrue interrupted\nb'seen\\r\\n'\n"


WIFI = """
import network, time
wlan = network.WLAN(network.STA_IF)
wlan.active(True)
print(wlan.isconnected(), wlan.status() == network.STAT_IDLE, [found[0] for found in wlan.scan()])
for name, key in (("nowhere", "x"), ("home", "wrong"), ("home", "right")):
    wlan.connect(name, key)
    while wlan.status() == network.STAT_CONNECTING: time.sleep_ms(10)
    print(wlan.status(), wlan.isconnected(), wlan.ifconfig()[0])
"""


def test_wifi(board: VirtualBoard) -> None:
    said = mpremote(board, "exec", WIFI).splitlines()
    assert said == ["False True [b'home']", "201 False 0.0.0.0", "202 False 0.0.0.0", "1010 True 127.0.0.1"]
    board.set_networks({})
    ask = "import network; w = network.WLAN(network.STA_IF); print(w.active(), w.status())"
    assert mpremote(board, "resume", "exec", ask) == "True 201\n"
    assert mpremote(board, "exec", ask) == "False 1000\n"
