"""Ctrl-C that is not lost: what a handler of signals raises is swallowed within callbacks, of JAX's garbage collection say."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

_usual = sys.unraisablehook
_noted = threading.Event()


def heed() -> None:
    """Until `forget`, an interrupt that a callback swallowed comes again."""
    sys.unraisablehook = _again


def forget() -> None:
    sys.unraisablehook = _usual


def _again(lost: Any) -> None:
    if lost.exc_type is KeyboardInterrupt:
        _thread.start_new_thread(_once_more, ())  # from elsewhere: here it would be lost again
    else:
        _usual(lost)


def _once_more() -> None:
    time.sleep(0.02)
    _thread.interrupt_main()


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Keep in mind that there was an interrupt in the block, for `check`; a request to end is an exit with 143."""
    if threading.current_thread() is not threading.main_thread():  # others hear no signals
        yield
        return

    def interrupt(*_: Any) -> None:
        _noted.set()
        raise KeyboardInterrupt

    _noted.clear()
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    heed()
    try:
        yield
    finally:
        forget()
        _noted.clear()  # what comes after the block did not hear it
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raise the interrupt that there was, if it is lost."""
    if _noted.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A block that no signal cuts short; it is not interrupted later either, as it is what was left to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


heed()  # while the package is imported, which takes seconds; its end forgets
