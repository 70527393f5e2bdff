"""Jobs, and launchers by name."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from archlab import ArchlabError, ConfigError
from archlab.runtime.extensions import LAUNCHERS
from archlab.runtime.launch import Job, Resources, command_of, find_launcher, launcher_names, require_package


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"cpus": 0}, {"gpus": -1}, {"time_limit": 0.0}])
def test_resources_are_numbers_of_something(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Resources(**wrong)


def test_cores_and_gpus_are_those_of_each_process() -> None:
    resources = Resources(processes=3, cpus=2, gpus=1)
    assert (resources.total_cpus, resources.total_gpus) == (6, 3)


def test_launchers_are_found_by_name() -> None:
    assert "local" in launcher_names()
    assert find_launcher("local").__name__ == "LocalLauncher"


def test_an_unknown_launcher_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"study\.launcher: no launcher 'locl'; did you mean 'local'\?"):
        find_launcher("locl", "study.launcher")


def test_an_installed_package_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("condor", f"{__name__}:CondorLauncher", LAUNCHERS.group)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == LAUNCHERS.group else [])
    assert "condor" in launcher_names()
    assert find_launcher("condor") is sys.modules[__name__].CondorLauncher


class CondorLauncher:
    pass


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(ArchlabError, match=r'needs the package no_such: pip install "archlab\[slurm\]"'):
        require_package("no_such", "slurm")


def test_several_processes_go_through_the_elastic_launcher(tmp_path: Path) -> None:
    assert command_of(Job(("archlab", "train"), tmp_path)) == ("archlab", "train")
    several = command_of(Job(("archlab", "train"), tmp_path, Resources(processes=2)))
    assert several == (sys.executable, "-m", "archlab.runtime.elastic", "2", "archlab", "train")
