"""The dialogue of the service repl, without an interpreter of its own."""

from dialogues import ALL, BANNER, RESETS
from zts_agent import raw_repl
from zts_agent.raw_repl import PASTE_WINDOW, Dialogue, Reset, is_incomplete


class Prompt:
    """A dialogue whose programs run here."""

    def __init__(self, room=1 << 20):
        self.dialogue = Dialogue(BANNER + b">>> ", lambda: room)
        self.said = b""
        self._names = {}

    def type(self, data):
        self.dialogue.receive(data)
        while True:
            event = self.dialogue.next_event()
            self.said += self.dialogue.take_output()
            if event is None:
                return
            if isinstance(event, Reset):
                self._names = {}
                self.dialogue.restarted()
            else:
                self._run(event)

    def _run(self, run):
        self._names["print"] = lambda *values: self._say(" ".join([str(value) for value in values]))
        told = b""
        try:
            source = self.dialogue.take_program().decode()
            if run.is_single:
                self._show(source)
            else:
                exec(compile(source, "<stdin>", "exec"), self._names)
        except (Exception, KeyboardInterrupt) as error:
            told = b"{" + type(error).__name__.encode() + b"}"
        self.said += run.between + told + run.after

    def _say(self, text):
        self.said += text.encode() + b"\r\n"

    def _show(self, source):
        try:
            code = compile(source, "<stdin>", "eval")
        except SyntaxError:
            exec(compile(source, "<stdin>", "exec"), self._names)
            return
        value = eval(code, self._names)
        if value is not None:
            self._names["_"] = value
            self._say(repr(value))


def _window(said):
    return said.replace(b"{WINDOW}", PASTE_WINDOW.to_bytes(2, "little"))


def test_every_dialogue_in_pieces_of_any_size():
    for what, typed, said in ALL + RESETS:
        for size in (1, 2, 3, 7, len(typed)):
            prompt = Prompt()
            for at in range(0, len(typed), size):
                prompt.type(typed[at : at + size])
            assert prompt.said == _window(said), (what, size, prompt.said)


def test_the_beginning_says_what_it_is():
    prompt = Prompt()
    prompt.dialogue.start()
    assert prompt.dialogue.take_output() == BANNER + b">>> "


def test_a_return_and_a_newline_are_one():
    """MicroPython shows a second prompt; what comes from a file or a paste need not."""
    prompt = Prompt()
    prompt.type(b"2\r\n3\r\n")
    assert prompt.said == b"2\r\n2\r\n>>> 3\r\n3\r\n>>> "


def test_backspace_and_lines_before():
    prompt = Prompt()
    prompt.type("x\x08print('ä°\x7f')\r".encode())
    assert prompt.said == "x\x08 \x08print('ä°\x08 \x08')\r\nä\r\n>>> ".encode()
    for typed, shown in (
        (b"1\r2\r", b"1\r\n1\r\n>>> 2\r\n2\r\n>>> "),
        (b"\x1b[A", b"\r>>> 2\x1b[K"),
        (b"\x1b[A", b"\r>>> 1\x1b[K"),
        (b"\x1b[B", b"\r>>> 2\x1b[K"),
        (b"\x1bOB", b"\r>>> \x1b[K"),
        (b"\x1b[B\x1b[C\x1b[1;5D\x1b[3~", b""),  # nothing there, and keys that do nothing
        (b"\x1bx3\r", b"3\r\n3\r\n>>> "),
    ):
        prompt.said = b""
        prompt.type(typed)
        assert prompt.said == shown, (typed, prompt.said)


def test_raw_paste_opens_windows():
    kept, raw_repl.PASTE_WINDOW = PASTE_WINDOW, 200
    try:
        prompt = Prompt()
        prompt.type(b"\r\x01\x05A\x01")
        prompt.said = b""
        program = b"x = 1  # a\n" * 100
        for at in range(0, len(program), 33):
            prompt.type(program[at : at + 33])
            assert prompt.said == b"\x01" * (min(at + 33, len(program)) // 200)
        prompt.type(program[:500] + b"\x04")
        assert prompt.said == b"\x01" * 8 + b"\x04\x04\x04>"
    finally:
        raw_repl.PASTE_WINDOW = kept


def test_raw_paste_may_be_declined():
    prompt = Prompt()
    prompt.type(b"\r\x01\x05A\x01")
    assert prompt.dialogue.is_pasting()
    prompt.type(b"x")
    assert not prompt.dialogue.is_pasting()
    prompt.type(b"=1\x04")
    prompt.dialogue.can_paste = False
    prompt.said = b""
    prompt.type(b"\x05A\x01")
    assert prompt.said == b"R\x00" and not prompt.dialogue.is_pasting()
    prompt.type(b"print(x)\x04")
    assert prompt.said == b"R\x00OK1\r\n\x04\x04>"


def test_a_program_that_is_too_long_is_refused():
    room = 3000
    text = b"#" + bytes([0x61]) * (room // 2)
    for before, ends, after in (
        (b"\r\x01", b"\x04", b"OK\x04{MemoryError}\x04>"),
        (b"\r\x01\x05A\x01", b"\x04", b"\x04\x04{MemoryError}\x04>"),
        (b"\r\x01\x05A\x01", b"\x03", b"\x04\x04{MemoryError}\x04>"),
        (b"\x05", b"\x04", b"\r\n{MemoryError}>>> "),
    ):
        for fits in (True, False):
            prompt = Prompt(room)
            prompt.type(before)
            prompt.said = b""
            for _ in range(1 if fits else 40):
                prompt.type(text)
                if before == b"\x05":
                    prompt.said = b""
                kept = sum([len(piece) for piece in prompt.dialogue._program])
                assert kept <= room
            assert prompt.said == (b"\x04" if not fits and len(before) > 2 else b"")
            prompt.type(ends)
            assert (prompt.said == after) != fits, prompt.said
            # And it goes on.
            prompt.said = b""
            prompt.type(b"print(5)\r" if before == b"\x05" else b"print(5)\x04")
            assert prompt.said.replace(b"print(5)\r\n", b"OK").startswith(b"OK5\r\n")


def test_junk_is_survived():
    seed = 1
    for _ in range(300):
        dialogue = Dialogue(BANNER, lambda: 2000)
        for _ in range(10):
            junk = []
            for _ in range(30):
                seed = seed * 1103515245 + 12345 & 0x7FFFFFFF
                byte = seed >> 16 & 0xFF
                # One in two is one that means something.
                junk.append(byte if byte & 1 else b"\x01\x02\x03\x04\x05A\r\n\x08\x1b['\\("[byte % 14])
            dialogue.receive(bytes(junk))
            while dialogue.next_event() is not None:
                if isinstance(dialogue._whole, bytes):
                    dialogue.take_program()
            dialogue.take_output()
            assert dialogue.waiting() == 0


def test_a_line_that_is_no_text():
    prompt = Prompt()
    prompt.type(b"\xff\r1\r")
    assert prompt.said == b"\xff\r\nthat is not UTF-8\r\n>>> 1\r\n1\r\n>>> "


def test_what_is_typed_while_a_program_runs():
    dialogue = Prompt().dialogue
    dialogue.receive(b"ab\r\ncd\n\x03e")
    assert dialogue.take_interrupt() and not dialogue.take_interrupt()
    assert [dialogue.take_byte() for _ in range(9)] == list(b"ab\rcd\re") + [-1, -1]
    dialogue.receive(b"1\x04")
    assert dialogue.waiting() == 2


def test_statements_that_go_on():
    for source, goes_on in (
        ("", False),
        ("x", False),
        ("(", True),
        (")(", False),
        ("'(", False),
        ("'''", True),
        ("''''''", False),
        ("''", False),
        ("'", False),
        ("'''\"\"\"", True),
        ("# (", True),  # as MicroPython has it
        ("@d", True),
        ("@d\ndef f(): pass\n", False),
        ("for_", False),
        ("for", True),
        ("async def f(): pass", True),
        ("x = {\n", True),
        ("x = [1,\n2]", False),
        ("'a\\'b", False),
        ("x\\", True),
    ):
        assert is_incomplete(source) == goes_on, source


def test_the_window_is_one_that_mpremote_takes():
    assert 0 < raw_repl.PASTE_WINDOW < 1 << 16
