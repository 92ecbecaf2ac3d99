"""One stream's states, offsets and credit: the whole table, and what each state refuses."""

from check import raises
from zts import stream, wire
from zts.errors import LocalError, RemoteError

WINDOW = 100
CREDIT = 50


def fresh(state=stream.OPEN):
    """A stream in that state, come to by the ways of the table."""
    s = stream.Stream(1, "http", WINDOW, CREDIT)
    if state in (stream.FIN_WAIT, stream.FIN_ACKED, stream.CLOSING):
        s.send_fin()
    if state == stream.FIN_ACKED:
        s.receive_ack(1, CREDIT)
    if state in (stream.CLOSE_WAIT, stream.CLOSING):
        s.receive_fin(0)
    if state == stream.RESET:
        s.send_rst()
    if state == stream.CLOSED:
        s.receive_rst()
    assert s.state == state
    return s


STATES = (stream.OPEN, stream.FIN_WAIT, stream.FIN_ACKED, stream.CLOSE_WAIT, stream.CLOSING, stream.RESET, stream.CLOSED)


def test_what_each_state_does_and_refuses():
    # state: after send_fin, after send_rst, after DATA, after FIN, after RST; None: refused
    table = {
        stream.OPEN: (stream.FIN_WAIT, stream.RESET, stream.OPEN, stream.CLOSE_WAIT, stream.CLOSED),
        stream.FIN_WAIT: (None, stream.RESET, stream.FIN_WAIT, stream.CLOSING, stream.CLOSED),
        stream.FIN_ACKED: (None, stream.RESET, stream.FIN_ACKED, stream.CLOSED, stream.CLOSED),
        stream.CLOSE_WAIT: (stream.CLOSING, stream.RESET, None, None, stream.CLOSED),
        stream.CLOSING: (None, None, None, None, stream.CLOSED),
        stream.RESET: (None, None, stream.RESET, stream.RESET, stream.CLOSED),
        stream.CLOSED: (None, None, None, None, None),
    }
    for state in STATES:
        for i, (error, call) in enumerate(
            (
                (LocalError, lambda s: s.send_fin()),
                (LocalError, lambda s: s.send_rst()),
                (RemoteError, lambda s: s.receive_data(1)),
                (RemoteError, lambda s: s.receive_fin(0)),
                (RemoteError, lambda s: s.receive_rst()),
            )
        ):
            s = fresh(state)
            expected = table[state][i]
            if expected is None:
                raises(error, call, s)
                assert s.state == state
            else:
                call(s)
                assert s.state == expected, (state, i, s.state)


def test_only_two_states_send():
    for state in STATES:
        s = fresh(state)
        assert s.can_send() == (state in (stream.OPEN, stream.CLOSE_WAIT))
        assert (s.credit() == CREDIT) == s.can_send()
        if not s.can_send():
            raises(LocalError, s.send, 1)


def test_credit_is_kept_to_the_byte():
    s = fresh()
    s.send(CREDIT)
    raises(LocalError, s.send, 1)
    s.receive_ack(CREDIT, 10)
    s.send(10)
    raises(LocalError, s.send, 1)
    s = fresh()
    s.receive_data(WINDOW)
    raises(RemoteError, s.receive_data, 1)


def test_acks_that_must_not_pass():
    s = fresh()
    s.send(20)
    raises(RemoteError, s.receive_ack, 21, 100)
    s.receive_ack(20, 30)
    raises(RemoteError, s.receive_ack, 19, 100)
    raises(RemoteError, s.receive_ack, 20, 29)
    s.receive_ack(20, 30)


def test_fin_counts_one_and_names_all_bytes_before_it():
    s = fresh()
    s.receive_data(5)
    for wrong in (0, 4, 6, 1 << 63):
        error = raises(RemoteError, fresh_with(5).receive_fin, wrong)
        assert error.code == wire.TRUNCATED
    assert s.receive_fin(5)
    assert s.ack()[0] == 6 and s.offset() == 6


def fresh_with(received):
    s = fresh()
    s.receive_data(received)
    return s


def test_an_ack_is_due_when_half_a_window_is_free_again():
    s = fresh()
    s.receive_data(WINDOW)
    assert not s.consume(WINDOW // 2 - 1)
    assert s.consume(1)
    assert s.ack() == (WINDOW, WINDOW // 2)
    assert not s.consume(1)
    raises(LocalError, s.consume, WINDOW)


def test_no_ack_after_the_end_came():
    s = fresh()
    s.receive_data(WINDOW)
    s.receive_fin(WINDOW)
    assert not s.consume(WINDOW)


def test_after_our_reset_their_bytes_are_dropped_until_theirs_comes():
    s = fresh(stream.RESET)
    assert not s.receive_data(10) and not s.receive_fin(10)
    s.receive_ack(99, 0)
    assert not s.receive_rst()
    assert fresh().receive_rst()
