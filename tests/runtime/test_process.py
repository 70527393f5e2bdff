"""Performance settings of a process are applied, keep those of the user, and can be turned off."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from archlab import ConfigError
from archlab.runtime import matmul_precision, process
from archlab.runtime.matmul_precision import DEFAULT, MatmulMode, fastest_exact_mode, measure_modes, use_mode
from archlab.runtime.user_cache import cache_dir, machine_key

_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_KERNEL = _FILE.read_text() if _FILE.is_file() else ""


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(process.CACHE, "")
    monkeypatch.delenv(process.CACHE)
    return tmp_path / "cache"


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's: it cannot be configured")
def test_freed_blocks_stay_with_the_process() -> None:
    code = (
        "import ctypes, sys; from archlab.runtime.process import configure_process; configure_process();"
        "c = ctypes.CDLL(None);"
        "c.malloc.restype = ctypes.c_void_p; c.free.argtypes = [ctypes.c_void_p];"
        "a = c.malloc(50_000_000); ctypes.memset(a, 1, 50_000_000); c.free(a);"
        "print(int(open('/proc/self/statm').read().split()[1]) * 4096 > 50_000_000)"
    )
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    theirs = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    output = [_run(code, kept | more) for more in ({}, {"ARCHLAB_TUNE": "off"}, theirs)]
    assert output == ["True", "False", "False"]


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's: it cannot be configured")
def test_a_program_starts_anew_without_the_cache_of_small_blocks(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(
        "import os, sys; from archlab.runtime.process import restart_without_small_cache as restart; restart();"
        "print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:])"
    )
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    command = [sys.executable, str(program), "train", "a b"]
    output = [
        subprocess.run(command, env=kept | more, capture_output=True, text=True, check=True).stdout.strip()
        for more in ({}, {"ARCHLAB_TUNE": "off"}, theirs)
    ]
    ours = "glibc.malloc.tcache_count=0"
    assert output == [f"{ours} train a b", "None train a b", "glibc.malloc.arena_max=1 train a b"]


def test_a_process_that_runs_a_command_of_archlab_does_not_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started again"))
    monkeypatch.setattr(sys, "argv", ["archlab", "train"])
    process.restart_without_small_cache()


def _run(code: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_compiled_models_are_kept_for_the_user(cache_home: Path) -> None:
    process.configure_process()
    # Of this machine: torch's key of a library says -march=native, whatever a machine with the same home makes of it.
    assert os.environ[process.CACHE] == str(cache_home / "archlab" / "inductor" / machine_key())


def test_variables_of_the_user_are_kept(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.CACHE, "/mine")
    process.configure_process()
    assert os.environ[process.CACHE] == "/mine"


@pytest.mark.slow
@pytest.mark.skipif("[madvise]" not in _KERNEL, reason="this kernel does not give large pages to those who ask, alone")
def test_large_tensors_use_huge_pages_where_the_user_wants_them() -> None:
    code = (
        "from archlab.runtime.process import configure_process; configure_process();"
        "import torch; x = torch.ones(32 * 2**20);"
        "lines = open('/proc/self/smaps_rollup').read().splitlines();"
        "print(next(int(line.split()[1]) for line in lines if line.startswith('AnonHugePages')) > 100_000)"
    )
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    assert [_run(code, kept | more) for more in ({process.HUGE_PAGES: "1"}, {})] == ["True", "False"]


@pytest.mark.parametrize(
    ("theirs", "policy"),
    [
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "9"}, None),
        ({"KMP_BLOCKTIME": "1"}, None),
    ],
)
def test_threads_without_work_sleep_unless_the_user_says_how_they_wait(
    theirs: dict[str, str], policy: str | None, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in process.WAIT_VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is set as before in the end
        monkeypatch.delenv(name)
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    process.configure_process()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is that of Linux")
def test_the_command_line_decides_before_libgomp_is_loaded() -> None:
    code = "from archlab.runtime.process import configure_process; configure_process(); import torch"
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-c", code]
    # libgomp writes its settings to standard error as it is loaded.
    output = subprocess.run(
        command, env=kept | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, check=True
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in output.stderr
    assert "GOMP_SPINCOUNT = '0'" in output.stderr


def test_nothing_is_set_if_tuning_is_off(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_TUNE", "off")
    monkeypatch.setattr(process, "configure_malloc", lambda: pytest.fail("configured the allocator"))
    process.configure_process()
    assert process.CACHE not in os.environ


def test_a_cache_that_cannot_be_created_is_one_of_the_process(cache_home: Path) -> None:
    cache_home.write_text("")
    process.configure_process()
    assert cache_dir("inductor") is None
    # Not torch's own default, whose name in /tmp anyone can guess and take first.
    folder = Path(os.environ[process.CACHE]).parent
    assert (folder.is_dir(), folder.stat().st_mode & 0o777) == (True, 0o700)


def test_a_switch_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_TUNE", "of")
    with pytest.raises(ConfigError, match="'of' is neither on nor off"):
        process.tuning_enabled()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (MatmulMode("bf16", 1e-7, 2e11), "bf16"),
        (MatmulMode("bf16", 2e-3, 9e11), DEFAULT),  # it rounds
        (MatmulMode("bf16", 1e-7, 1.05e11), DEFAULT),  # it gains nothing
    ],
)
def test_the_fastest_exact_mode_is_selected(other: MatmulMode, expected: str) -> None:
    assert fastest_exact_mode((MatmulMode(DEFAULT, 1e-7, 1e11), other)) == expected


def test_measuring_leaves_the_setting_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    measure_modes.cache_clear()
    assert [way.name for way in measure_modes()] == [DEFAULT, *matmul_precision.CANDIDATES]
    assert measure_modes()[0].error < matmul_precision.LARGEST_ERROR
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_mode_may_be_set_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_precision, "measure_modes", lambda: pytest.fail("measured"))
    monkeypatch.setenv("ARCHLAB_MATMUL_MODE", "tf32")
    with use_mode(DEFAULT):
        assert matmul_precision.select_matmul_precision.__wrapped__() == "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "tf32"
    monkeypatch.setenv("ARCHLAB_MATMUL_MODE", "fp16")
    with pytest.raises(ConfigError, match="ARCHLAB_MATMUL_MODE: 'fp16' is not one of none, bf16, tf32; did you mean"):
        matmul_precision.select_matmul_precision.__wrapped__()


def test_the_matmul_mode_is_kept_if_tuning_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_TUNE", "off")
    monkeypatch.setattr(matmul_precision, "measure_modes", lambda: pytest.fail("measured"))
    assert matmul_precision.select_matmul_precision.__wrapped__() == DEFAULT
