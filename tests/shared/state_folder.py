"""A device's state, for tests on both interpreters."""

import json
import os


class Folder:
    """A folder that is gone afterwards."""

    def __enter__(self):
        self.path = (os.getenv("TMPDIR") or "/tmp") + "/zts-state-" + "".join([f"{byte:02x}" for byte in os.urandom(8)])
        return self

    def __exit__(self, *_):
        for name in os.listdir(self.path):
            os.remove(self.path + "/" + name)
        os.rmdir(self.path)

    def state(self):
        with open(self.path + "/state.json") as file:
            return json.load(file)

    def write(self, text):
        with open(self.path + "/state.json", "w") as file:
            file.write(text)
