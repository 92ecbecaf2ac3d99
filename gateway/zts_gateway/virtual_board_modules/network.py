"""`network` as on an ESP32. Its radio hears the networks that the virtual board was told of; sockets are the host's own."""

import _chip

STA_IF, AP_IF = 0, 1
STAT_IDLE, STAT_CONNECTING, STAT_GOT_IP = 1000, 1001, 1010
STAT_NO_AP_FOUND, STAT_WRONG_PASSWORD = 201, 202

_settings = {}


def hostname(name=None):
    if name is None:
        return _settings.get("hostname", "virtual")
    _settings["hostname"] = name


def country(code=None):
    if code is None:
        return _settings.get("country", "XX")
    _settings["country"] = code


class WLAN:
    IF_STA, IF_AP = 0, 1
    PM_NONE, PM_PERFORMANCE, PM_POWERSAVE = 0, 1, 2

    def __init__(self, interface=STA_IF):
        if interface != STA_IF:
            raise ValueError("the virtual board is no access point")

    def active(self, on=None):
        return _chip.ask("wlan active", on)

    def connect(self, ssid=None, key=None, *, bssid=None):
        if not self.active():
            raise OSError("Wifi Not Started")
        _chip.ask("wlan connect", ssid, key)

    def disconnect(self):
        _chip.ask("wlan disconnect")

    def isconnected(self):
        return self.status() == STAT_GOT_IP

    def status(self, what=None):
        status, rssi = _chip.ask("wlan status")
        return rssi if what == "rssi" else status

    def scan(self):
        return [(name.encode(), bytes(6), 1, -50, 3, False) for name in _chip.ask("wlan scan")]

    def ifconfig(self):
        if self.isconnected():
            return ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")
        return ("0.0.0.0", "0.0.0.0", "0.0.0.0", "0.0.0.0")

    def config(self, *names, **settings):
        if names:
            if names[0] == "mac":
                return _chip.unique_id
            return _settings[names[0]]
        _settings.update(settings)
