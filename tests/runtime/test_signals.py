"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from archlab.runtime.signals import Stopped, defer_keyboard_interrupt, stop_on_signals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_each_raises_and_the_handlers_are_restored(number: signal.Signals) -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt) as caught, stop_on_signals():
        signal.raise_signal(number)
    assert isinstance(caught.value, Stopped)
    assert (caught.value.number, caught.value.at_once) == (number, False)
    assert handlers() == before


@pytest.mark.parametrize("number", SIGNALS)
def test_deferred_to_the_end_of_a_block(number: signal.Signals) -> None:
    reached = []

    def work() -> None:
        with stop_on_signals():
            with defer_keyboard_interrupt():
                signal.raise_signal(number)
                reached.append("end of block")
            reached.append("after it")

    with pytest.raises(Stopped):
        work()
    assert reached == ["end of block"]


def deferred_twice() -> None:
    with stop_on_signals(), defer_keyboard_interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("continued")


def while_the_first_is_handled() -> None:
    with stop_on_signals():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("work", [deferred_twice, while_the_first_is_handled])
def test_a_second_one_ends_at_once(work: Callable[[], None]) -> None:
    with pytest.raises(Stopped) as caught:
        work()
    assert caught.value.at_once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_s_second_one_changes_nothing(number: signal.Signals) -> None:
    reached = []

    def work() -> None:
        with stop_on_signals(), defer_keyboard_interrupt():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(number)
            reached.append("end of block")

    with pytest.raises(Stopped) as caught:
        work()
    assert reached
    assert not caught.value.at_once


def test_a_signal_is_not_lost_if_the_block_fails() -> None:
    def work() -> None:
        with defer_keyboard_interrupt():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with pytest.raises(Stopped):
        work()


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_on_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


CAUGHT = """
import signal
from archlab.runtime.signals import stop_on_signals
with stop_on_signals():
    for _ in range(3):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            print("caught", flush=True)
"""


def test_a_third_one_ends_what_catches_the_others() -> None:
    ended = subprocess.run([sys.executable, "-c", CAUGHT], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "caught\ncaught\n")


def test_nothing_happens_in_another_thread() -> None:
    seen = []

    def work() -> None:
        with stop_on_signals() as handler, defer_keyboard_interrupt():
            seen.append(handler)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
