"""Shows the figures that passing tests print: times, sizes, ratios. They are measured, not asserted."""

import signal

import pytest

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that: Ctrl-C could not be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {line}"
        for report in terminalreporter.stats.get("passed", [])
        for line in report.capstdout.splitlines()
    ]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
