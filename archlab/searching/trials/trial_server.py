"""The process that trials are forked from: it has everything imported that they need, so that each starts at once.

`multiprocessing` starts such a server as a new interpreter, which imports everything a second time: seven seconds of a
core, and 400 MB. A process that has done nothing but import it all can be forked instead.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

from archlab.runtime.private_apis import TRACER, has_fork_server, use_fork_server

_MODULES = ("archlab.searching.trials.trial_child", TRACER)
# For versions whose `forkserver.main` has `_serve`'s arguments: Python 3.14's has a key, too.
_CAN_FORK = sys.platform == "linux" and sys.version_info < (3, 14)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def trial_context() -> ForkServerContext:
    """Return the way in which trials' processes are started, by a server that starts with the first, if none has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_MODULES])
    return context


def fork_trial_server() -> None:
    """Fork the server from this process, which may have imported, and done nothing else: a command's first line."""
    if not _CAN_FORK:
        return
    for name in _MODULES:
        importlib.import_module(name)
    if threading.active_count() > 1 or has_fork_server():
        return  # a thread may hold a lock that nobody would release in the server
    resource_tracker.ensure_running()
    with socket.socket(socket.AF_UNIX) as listener:
        address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        listener.bind(address)
        listener.listen()
        alive_r, alive_w = os.pipe()
        with warnings.catch_warnings():
            # Of threads that Python did not start: those of numpy's BLAS, which ends its own before a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os.close(alive_w)  # the server ends when no process has it
            _serve(listener.detach(), alive_r)
    os.close(alive_r)
    use_fork_server(address, alive_w, pid)


def _serve(listener_fd: int, alive_r: int) -> None:
    """Run the server and exit: the rest of the program is the parent's."""
    try:
        for number in _SIGNALS:  # as a new program has them: ignored signals stay ignored, as SIGHUP under nohup
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        forkserver.main(listener_fd, alive_r, [])
    finally:
        os._exit(0)
