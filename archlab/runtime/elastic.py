"""torch's elastic launcher, with an exit status that says how the processes of a job have ended.

python -m archlab.runtime.elastic NUM_PROCESSES COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as run

from archlab.runtime.outcome import Outcome


def run_processes(num_processes: int, argv: Sequence[str]) -> int:
    """Run a command in so many processes of this machine; return the exit status of the first one that failed, or 0."""
    try:
        run(["--standalone", f"--nproc-per-node={num_processes}", "--no-python", *argv])
    except ChildFailedError as error:
        # torchrun itself ends with 1, whatever it was: a full disk would look like a mistake in the model.
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    except SignalException as error:
        is_users = error.sigval == signal.SIGINT
        return (Outcome.USER if is_users else Outcome.PREEMPTED).exit_status
    return 0


if __name__ == "__main__":
    sys.exit(run_processes(int(sys.argv[1]), sys.argv[2:]))
