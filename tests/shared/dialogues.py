"""What is typed at a MicroPython prompt, and what it answers: held against our dialogue, and by tests/host/test_repl_oracle.py against
MicroPython itself. BANNER stands for what the prompt says of the machine, {NAME} for the traceback of an error.
"""

BANNER = b"{BANNER}"
_RAW = b"raw REPL; CTRL-B to exit\r\n>"
_TO_RAW = (b"\r\x03\r\x01", b"\r\n>>> \r\n>>> \r\n>>> \r\n" + _RAW)

# (what it shows, typed, said)
FRIENDLY = [
    ("an expression", b"1+1\r", b"1+1\r\n2\r\n>>> "),
    ("no value", b"None\r", b"None\r\n>>> "),
    ("an empty line", b"\r", b"\r\n>>> "),
    ("a newline is a return", b"2\n", b"2\r\n2\r\n>>> "),
    ("output", b"print('a')\r", b"print('a')\r\na\r\n>>> "),
    ("an error", b"1/0\r", b"1/0\r\n{ZeroDivisionError}>>> "),
    ("no sense", b"1 1\r", b"1 1\r\n{SyntaxError}>>> "),
    ("variables stay", b"a=2\ra*3\r", b"a=2\r\n>>> a*3\r\n6\r\n>>> "),
    ("the last value", b"7\r_*2\r", b"7\r\n7\r\n>>> _*2\r\n14\r\n>>> "),
    ("an open bracket", b"(1 +\r2)\r", b"(1 +\r\n... 2)\r\n3\r\n>>> "),
    ("a closed one in a text", b"len(')'\r)\r", b"len(')'\r\n... )\r\n1\r\n>>> "),
    ("three quotes", b"len('''a\rb''')\r", b"len('''a\r\n... b''')\r\n3\r\n>>> "),
    ("other quotes in them", b'len("""\'\r""")\r', b'len("""\'\r\n... """)\r\n2\r\n>>> '),
    ("an escaped quote", b"len('\\'(')\r", b"len('\\'(')\r\n2\r\n>>> "),
    ("a backslash", b"1 + \\\r1\r", b"1 + \\\r\n... 1\r\n2\r\n>>> "),
    ("one line of a compound", b"if 1: print(2)\r\r", b"if 1: print(2)\r\n... \r\n2\r\n>>> "),
    ("an end by Ctrl-D", b"if 1: print(2)\r\x04", b"if 1: print(2)\r\n... 2\r\n>>> "),
    ("no compound", b"iffy=1\r", b"iffy=1\r\n>>> "),
    ("Ctrl-C at a line", b"abc\x03", b"abc\r\n>>> "),
    ("Ctrl-C in a statement", b"(1\r\x03", b"(1\r\n... \r\n>>> "),
    ("Ctrl-B", b"\x02", b"\r\n" + BANNER + b">>> "),
    ("other controls", b"1\x05\x06\x0e+1\r", b"1+1\r\n2\r\n>>> "),
    (
        "paste",
        b"\x05if 1:\r  print(3)\r\x04",
        b"\r\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== if 1:\r\n===   print(3)\r\n=== \r\n3\r\n>>> ",
    ),
    ("paste without an end", b"\x05print(3)\x04", b"\r\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== print(3)\r\n3\r\n>>> "),
    ("paste, given up", b"\x05print(\x033\r", b"\r\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== print(\r\n>>> 3\r\n3\r\n>>> "),
    (
        "an error in a paste",
        b"\x05x\r1/0\r\x04",
        b"\r\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== x\r\n=== 1/0\r\n=== \r\n{NameError}>>> ",
    ),
]
RAW = [
    ("raw and back", b"\x02", b"\r\n" + BANNER + b">>> "),
    ("a program", b"print(1)\nprint(2)\x04", b"OK1\r\n2\r\n\x04\x04>"),
    ("no value is shown", b"1+1\x04", b"OK\x04\x04>"),
    ("an error", b"print(1)\n1/0\x04", b"OK1\r\n\x04{ZeroDivisionError}\x04>"),
    ("no sense", b"1 1\x04", b"OK\x04{SyntaxError}\x04>"),
    ("one after the other", b"a=1\x04print(a)\x04", b"OK\x04\x04>OK1\r\n\x04\x04>"),
    ("Ctrl-C throws away", b"print(1)\x03print(2)\x04", b"OK2\r\n\x04\x04>"),
    ("Ctrl-A throws away", b"print(1)\x01print(2)\x04", _RAW + b"OK2\r\n\x04\x04>"),
    ("bytes above 0x7f", "print(len('°'))\x04".encode(), b"OK1\r\n\x04\x04>"),
    ("another request", b"\x05B\x01", b"R\x00>"),
    ("what is none", b"\x05AB\x01", _RAW),
    # The window's size is ours to choose.
    ("raw paste", b"\x05A\x01print(1)\nprint(2)\x04", b"R\x01{WINDOW}\x01\x041\r\n2\r\n\x04\x04>"),
    ("raw paste of nothing", b"\x05A\x01\x04", b"R\x01{WINDOW}\x01\x04\x04\x04>"),
    ("raw paste with other controls", b"\x05A\x01print('\x01\x02')\x04", b"R\x01{WINDOW}\x01\x04\x01\x02\r\n\x04\x04>"),
    ("raw paste, given up", b"\x05A\x01print(1)\x03", b"R\x01{WINDOW}\x01\x04\x04{KeyboardInterrupt}\x04>"),
    ("an error in a raw paste", b"\x05A\x011/0\x04", b"R\x01{WINDOW}\x01\x04\x04{ZeroDivisionError}\x04>"),
    ("no sense in a raw paste", b"\x05A\x01x = = 1\x04", b"R\x01{WINDOW}\x01\x04\x04{SyntaxError}\x04>"),
    ("two raw pastes", b"\x05A\x01a=1\x04\x05A\x01print(a)\x04", b"R\x01{WINDOW}\x01\x04\x04\x04>R\x01{WINDOW}\x01\x041\r\n\x04\x04>"),
]
ALL = FRIENDLY + [(what, _TO_RAW[0] + typed, _TO_RAW[1] + said) for what, typed, said in RAW]

# A soft reset, which the unix port answers by its end. So the second is held against the virtual board.
RESETS = [
    ("at the prompt", b"\x04", b"\r\nMPY: soft reboot\r\n" + BANNER + b">>> "),
    ("in raw", _TO_RAW[0] + b"\x04", _TO_RAW[1] + b"OK\r\nMPY: soft reboot\r\n" + _RAW),
    ("variables go", b"a=1\r\x04a\r", b"a=1\r\n>>> \r\nMPY: soft reboot\r\n" + BANNER + b">>> a\r\n{NameError}>>> "),
]
