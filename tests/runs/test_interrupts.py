import os
import signal
import threading

import pytest

from wnrl.runs.session import Interrupts, Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered(number):
    with Interrupts() as interrupts:
        assert interrupts.received is None
        os.kill(os.getpid(), number)
        assert interrupts.received == number


def test_the_second_ctrl_c_acts_at_once_and_the_first_says_so(capfd):
    with Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        assert "once more stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("later", [signal.SIGTERM, signal.SIGHUP])
def test_the_signals_with_which_a_session_ends_are_one(later):
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), later)
        assert interrupts.received == signal.SIGTERM


def test_a_second_signal_does_not_disturb_what_the_first_one_ends():
    def measure():
        with Interrupts() as interrupts, interrupts.at_once("measuring"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(Stopped) as stopped:
        measure()
    assert stopped.value.code == 128 + signal.SIGTERM


def test_handlers_are_handed_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def enter():
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_stopped_program_leaves_with_the_code_that_shells_expect():
    stopped = Stopped(signal.SIGINT, "stopped at step 3 of 4")
    assert (stopped.code, stopped.message) == (130, "stopped at step 3 of 4")
