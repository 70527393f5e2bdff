"""torch's elastic launcher, with an exit status that says how the processes of a job have ended.

python -m archlab.runtime.elastic NUM_PROCESSES COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main as run

from archlab.runtime.cpu_info import num_cores
from archlab.runtime.outcome import Outcome, outcome_of_exit
from archlab.runtime.process import THREADS
from archlab.runtime.rank_status import STORE, explain_loss, read_statuses

# Seconds that processes which were asked to stop have for the update that they are in, and a last checkpoint.
_GRACE_S = 600
_ENDED_BY_LAUNCHER = (signal.SIGTERM,)  # sent to the others once one has failed


def run_processes(
    num_processes: int,
    argv: Sequence[str],
    *,
    max_restarts: int = 0,
    again: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
) -> int:
    """Run a command in the given number of processes; return the exit status of the first one that failed, or 0.

    Processes that were killed or ended by a failure of the machine are restarted with the arguments `again` added,
    `max_restarts` times at most. `tell` is called with a line about a process that could not report its end itself.
    """
    if os.environ.get(THREADS) in (None, str(num_cores())):  # by itself a process would use all cores
        os.environ[THREADS] = str(max(1, num_cores() // num_processes))
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "FATAL"
    )  # of the processes; their errors are reported in one line each
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they report each process three times
    for attempt in range(max_restarts + 1):
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
        os.environ[STORE] = f"127.0.0.1:{store.port}"
        failures = _run(num_processes, [*argv, *(again if attempt else ())])
        if isinstance(failures, int):
            return failures
        status, line = _explain(failures, store, num_processes)
        is_last = attempt == max_restarts or outcome_of_exit(status) not in (Outcome.KILLED, Outcome.MACHINE)
        if tell is not None and line:
            more = (
                "" if is_last else f"; starting again from the last checkpoint, {attempt + 1} of {max_restarts} times"
            )
            tell(line + more)
        if is_last:
            break
    return status


def _run(num_processes: int, argv: Sequence[str]) -> int | Mapping[int, ProcessFailure]:
    """Return an exit status, or the processes that failed by their ranks."""
    options = [f"--nproc-per-node={num_processes}", f"--shutdown-timeout={_GRACE_S}"]
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGUSR1"
    try:
        run(["--standalone", *options, signals, "--no-python", *argv])
    except ChildFailedError as error:
        return error.failures
    except SignalException as error:
        is_users = error.sigval == signal.SIGINT
        return (Outcome.USER if is_users else Outcome.PREEMPTED).exit_status
    return 0


def _explain(failures: Mapping[int, ProcessFailure], store: dist.Store, count: int) -> tuple[int, str]:
    """Return the exit status of the process that failed first, and a line about it unless it has reported itself."""
    killed = {r: f for r, f in failures.items() if f.exitcode < 0 and -f.exitcode not in _ENDED_BY_LAUNCHER}
    statuses = read_statuses(store, count)
    if killed and not any(status.waited for status in statuses):  # hanging processes were killed by the launcher itself
        rank, failure = next(iter(killed.items()))
        at = next((f" in update {s.update} ({s.phase})" for s in statuses if s.rank == rank), "")
        name = signal.Signals(-failure.exitcode).name
        return 128 - failure.exitcode, f"rank {rank} of {count} was killed{at}: {name}"
    lost = {status.rank for status in statuses if status.lost}
    explained = [failure for rank, failure in failures.items() if failure.exitcode >= 0 and rank not in lost]
    if lost and not explained:
        return Outcome.MACHINE.exit_status, explain_loss(statuses)
    failure = min(explained or failures.values(), key=lambda failure: failure.timestamp)
    # torchrun itself ends with 1, whatever it was: a full disk would look like a mistake in the model.
    return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode, ""


if __name__ == "__main__":
    sys.exit(run_processes(int(sys.argv[1]), sys.argv[2:]))
