from __future__ import annotations

import builtins
import subprocess
import sys
from typing import Any

import pytest
import torch

from archlab import ArchlabError
from archlab.runtime import memory
from archlab.runtime.memory import available_memory, format_bytes, most_used_memory, require_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1536, "1.54 kB"),
        (4.29e6, "4.29 MB"),
        (78e9, "78 GB"),
        (2e18, "2000 PB"),
    ],
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert format_bytes(size) == words


def test_there_is_some() -> None:
    assert 10**6 < available_memory(CPU) < 10**15


def test_total_memory_if_the_system_does_not_report_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Any, *_: Any) -> None:
        raise FileNotFoundError(file)

    monkeypatch.setattr(builtins, "open", refuse)
    assert available_memory(CPU) > 10**6


@pytest.mark.slow
def test_what_started_a_process_is_not_counted_as_its_own() -> None:
    """A notebook of many gigabytes that starts a run would be logged as the run's."""
    code = "import torch; from archlab.runtime.memory import most_used_memory as m; print(m(torch.device('cpu')))"
    large = torch.ones(300_000_000, dtype=torch.float32)
    own = most_used_memory(CPU)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert own > large.nbytes
    assert 50e6 < int(done.stdout) < large.nbytes


def test_too_much_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 10**9)
    require_memory(10**9, CPU)
    with pytest.raises(ArchlabError, match=r"needs about 2 GB, and cpu has 1 GB free; try a smaller train\.batch_size"):
        require_memory(2 * 10**9, CPU)
