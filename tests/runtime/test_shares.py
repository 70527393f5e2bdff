"""Cores and GPUs are shared out disjointly."""

from __future__ import annotations

import pytest

from archlab import ArchlabError
from archlab.runtime import shares
from archlab.runtime.launch import Resources
from archlab.runtime.shares import Share, Shares, machine_shares, visible_gpus


def test_shares_are_disjoint_and_come_back() -> None:
    machine = Shares(4, (0, 1, 4, 5), ("0", "1"))
    first, second = machine.take(Resources(cpus=3, gpus=1)), machine.take(Resources(gpus=1))
    assert first == Share(3, (0, 1, 4), ("0",))
    assert second == Share(1, (5,), ("1",))
    assert not machine.fits(Resources())
    machine.give_back(first)
    assert machine.fits(Resources(cpus=3))
    assert not machine.fits(Resources(cpus=3, gpus=2))
    machine.give_back(second)
    assert machine.take(Resources(cpus=4, gpus=2)) == Share(4, (0, 1, 4, 5), ("0", "1"))


def test_a_quota_lends_fewer_cores_than_there_are() -> None:
    machine = Shares(2, (0, 1, 2, 3), ())
    machine.take(Resources(cpus=2))
    assert not machine.fits(Resources())


def test_more_than_there_is_is_refused_with_the_figures() -> None:
    with pytest.raises(ArchlabError, match=r"asks for 6 cores \(3 processes of 2\), and this machine provides 4"):
        Shares(4, (0, 1, 2, 3), ()).require(Resources(processes=3, cpus=2))
    with pytest.raises(ArchlabError, match="asks for 1 GPUs, and this machine provides 0"):
        Shares(4, (0, 1, 2, 3), ()).require(Resources(gpus=1))


def test_more_cannot_be_shared_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shares.DEVICES, "0,1")
    with pytest.raises(ArchlabError, match="3 GPUs are to be shared, and this machine has 2"):
        machine_shares(gpus=3)
    assert machine_shares(gpus=1).take(Resources(gpus=1)).gpus == ("0",)


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        ("", []),
        ("-1", []),
        ("3", ["3"]),
        ("2, 0,-1,1", ["2", "0"]),
        ("GPU-8932f937,MIG-c7384736/1/0", ["GPU-8932f937", "MIG-c7384736/1/0"]),
    ],
)
def test_visible_gpus_are_those_that_are_named(named: str, gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shares.DEVICES, named)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(("own", "threads"), [("", "3"), ("2", "2"), ("8", "3"), ("2,1", "2"), ("all", "3")])
def test_threads_fit_into_the_share(own: str, threads: str) -> None:
    share = Share(3, (0, 1, 2), ("MIG-1",))
    environment = share.environment(3, {"OMP_NUM_THREADS": own, "TORCHINDUCTOR_CACHE_DIR": "/mine"})
    assert environment == {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": "MIG-1"}


def test_all_share_one_compile_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Share(1, (), ()).environment(1, {})["TORCHINDUCTOR_CACHE_DIR"] == str(shares.inductor_dir())
    monkeypatch.setenv("ARCHLAB_TUNE", "off")
    assert "TORCHINDUCTOR_CACHE_DIR" not in Share(1, (), ()).environment(1, {})
