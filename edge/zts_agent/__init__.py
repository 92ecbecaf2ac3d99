"""The agent: the program on a device that answers sessions, on MicroPython and on CPython."""
