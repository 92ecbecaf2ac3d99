"""Two sessions in memory, and a wire between them that tests may cut, cut up and tamper with."""

from zts import session, wire

KEY = bytes(range(32))
BOARD = session.Offer(wire.BOARD_MAX_RECORD, wire.BOARD_WINDOW)


class End:
    """A session, the events it gave, and apart from them the bytes it received of each stream."""

    def __init__(self, role, offer, theirs, streams=8, key=KEY):
        self.session = session.Session(role, key, offer, theirs, streams)
        self.events = []
        self.data = {}

    def take(self, now):
        while True:
            event = self.session.next_event(now)
            if event is None:
                return
            if isinstance(event, session.Received):
                self.data.setdefault(event.stream, bytearray()).extend(event.data)
            else:
                self.events.append(event)

    def all(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Pair:
    """A client and a device on one leg. `step` carries what both want to send; `change(sender, bytes)` may rewrite it."""

    def __init__(self, client=BOARD, device=BOARD, streams=8, up=True):
        self.client = End(wire.ROLE_CLIENT, client, device, streams)
        self.device = End(wire.ROLE_DEVICE, device, client, streams)
        self.now = 0
        self.client.session.start_leg(0)
        self.device.session.start_leg(0)
        if up:
            while self.step():
                pass

    def step(self, change=None, size=None):
        """Carries one round, in pieces of `size` bytes where told; whether anything moved."""
        moved = False
        for sender, receiver in ((self.client, self.device), (self.device, self.client)):
            data = b"".join(sender.session.data_to_send())
            if change is not None:
                data = change(sender, data)
            moved = moved or bool(data)
            step = size or len(data) or 1
            for at in range(0, len(data), step):
                receiver.session.receive_data(data[at : at + step])
                receiver.take(self.now)
        return moved

    def settle(self):
        while self.step():
            pass

    def carry(self, sender, stream, data):
        """Sends all of `data` on a stream, the other end consuming at once."""
        receiver = self.device if sender is self.client else self.client
        view = memoryview(data)
        had = len(receiver.data.get(stream, b""))
        while len(view):
            view = view[sender.session.send(stream, view) :]
            self.settle()
            got = len(receiver.data.get(stream, b""))
            receiver.session.consume(stream, got - had)
            had = got
            self.settle()
