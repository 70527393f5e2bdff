"""Launchers in YAML."""

from __future__ import annotations

from typing import Any

import pytest

from archlab import ConfigError
from archlab.runtime.launchers.local import LocalLauncher
from archlab.searching.space.launcher_config import LauncherConfig, parse_launcher


@pytest.mark.parametrize("data", ["local", {"type": "local"}, {}])
def test_a_launcher_is_its_name_or_a_mapping(data: Any) -> None:
    assert parse_launcher(data, "study.launcher") == LauncherConfig("local")
    assert isinstance(parse_launcher(data, "study.launcher").create(), LocalLauncher)


def test_options_are_those_of_the_constructor() -> None:
    data = {"type": "slurm", "partition": "gpu", "setup": ["module load cuda"], "sbatch": {"hold": True, "nice": 5}}
    assert parse_launcher(data, "study.launcher").to_plain() == data


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("slrum", "study.launcher: no launcher 'slrum'; did you mean 'slurm'?"),
        (3, "study.launcher: 3 is not the name of a launcher"),
        ({"type": "slurm", "partitoin": "x"}, "unknown knob 'partitoin' of 'slurm'; did you mean 'partition'?"),
        ({"type": "slurm", "signal_s": "soon"}, "study.launcher.signal_s: 'soon' is not a whole number"),
        ({"type": "slurm", "sbatch": {"nice": []}}, "study.launcher.sbatch.nice"),
        ({"type": "ray", "resources": {"tpu": "x"}}, "study.launcher.resources.tpu: 'x' is not a number"),
    ],
)
def test_what_does_not_fit_is_refused(data: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_launcher(data, "study.launcher")
    assert problem in str(caught.value)
