from __future__ import annotations

import pytest

from archlab import ConfigError
from archlab.runtime.distributed_env import Place, find_place, first_host, is_slurm_step, rendezvous, was_restarted

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
}


def test_a_process_by_itself() -> None:
    assert find_place({}) == Place(0, 1, 0, 1)
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Place(), "a batch script is no step of srun's"
    assert find_place({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == Place()


def test_torchrun_and_srun_tell_the_place() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert find_place(torchrun) == Place(3, 4, 1, 2)
    assert find_place(STEP) == Place(5, 8, 1, 4)
    assert is_slurm_step(STEP)
    assert not find_place(STEP).is_first


def test_a_place_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="RANK: 'a' is not a number"):
        find_place({"RANK": "a", "WORLD_SIZE": "4"})


def test_where_the_processes_meet() -> None:
    assert rendezvous({"MASTER_ADDR": "here", "MASTER_PORT": "29500"}) == ("here", 29500)
    assert rendezvous(STEP) == ("gpu07", 61000 + 713)
    assert rendezvous({**STEP, "MASTER_PORT": "1234"}) == ("gpu07", 1234)
    with pytest.raises(ConfigError, match="MASTER_ADDR: is not set"):
        rendezvous({})


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("node1", "node1"), ("a,b", "a"), ("n[01-04,07]-ib", "n01-ib"), ("n[3,5],m", "n3"), ("", "")],
)
def test_the_first_host_of_a_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_a_launcher_that_starts_processes_again() -> None:
    assert was_restarted({"TORCHELASTIC_RESTART_COUNT": "1"})
    assert not was_restarted({"TORCHELASTIC_RESTART_COUNT": "0"})
