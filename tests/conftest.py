"""Shows the figures that passing tests print: times, sizes, ratios. They are measured, not asserted."""

import pytest


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
