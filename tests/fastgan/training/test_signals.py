import os
import signal
import time

import pytest

from fastgan.training import trainer as trainer_module
from fastgan.training.signals import StopSignals, exiting_on_sigterm


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_a_second_ctrl_c_leaves_at_once():
    with StopSignals() as stop:
        send(signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigterm_changes_nothing():
    with StopSignals() as stop:
        send(signal.SIGTERM, signal.SIGTERM)
        assert stop.received == signal.SIGTERM


def test_the_first_signal_is_the_one_that_counts():
    with StopSignals() as stop:
        send(signal.SIGINT, signal.SIGTERM)
        assert stop.received == signal.SIGINT


def test_what_may_be_cut_short_is_left_by_a_signal_and_not_begun_after_one():
    left = []

    def slow():
        send(signal.SIGTERM)
        time.sleep(60)
        left.append("not")

    with StopSignals() as stop:
        assert stop.cut_short(lambda: 7) == 7
        assert stop.cut_short(slow) is None
        assert stop.received == signal.SIGTERM
        assert stop.cut_short(lambda: left.append("not")) is None
    assert left == []


def test_before_there_is_anything_to_save_sigterm_exits_at_once(fastgan, tmp_path, monkeypatch):
    def load(*args, **kwargs):
        send(signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(trainer_module, "open_images", load)
    assert fastgan("train", "--out", tmp_path / "run") == (143, "", "")
    assert not (tmp_path / "run").exists()


def test_the_handler_of_somebody_else_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with exiting_on_sigterm():
            send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    with pytest.raises(SystemExit) as caught, exiting_on_sigterm():
        send(signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
