import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import archlab
from archlab.cli.main import cli
from archlab.cli.plan_table import format_count, format_days, layout_yaml
from archlab.config.parallel import Layout
from archlab.errors import ArchlabError
from archlab.planning.device import SHIPPED

TINY = ["llama2_tiny", "train.context=32", "train.precision=float32"]
GPU = ["--device", "h100", "--devices", "8"]


def invoke(*words: str) -> str:
    result = CliRunner().invoke(cli, ["plan", *words], catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.output


@pytest.mark.slow
def test_json_has_what_scripts_need_and_python_has_the_same() -> None:
    printed = json.loads(invoke(*TINY, *GPU, "--json"))
    made = archlab.plan(TINY[0], TINY[1:], device="h100", devices=8)
    assert printed == json.loads(json.dumps(made.to_dict()))
    keys = "params flops_per_token flops_per_token_forward memory_per_device tokens_per_s days device_hours layout"
    assert set(keys.split()) <= printed.keys()
    assert Layout(**printed["layout"]).devices == 8
    assert printed["tokens"] == 600 * 8 * 32
    assert printed["memory_per_device"] == sum(printed["memory"].values())
    assert sum(printed["params_by_part"].values()) == printed["params"]
    assert printed["device_hours"] == pytest.approx(printed["days"] * 24 * 8)


@pytest.mark.slow
def test_the_table_has_every_group_in_80_columns() -> None:
    text = invoke(*TINY, *GPU, "--tokens", "2e12")
    assert max(map(len, text.splitlines())) <= 80
    for word in ("parameters", "memory of a device", "time of an update", "tokens/s", "MFU", "2 T", "h100"):
        assert word in text
    pasted = next(line for line in text.splitlines() if "parallel:" in line)
    layout = Layout(**yaml.safe_load(pasted)["parallel"])
    assert layout.devices == 8
    again = invoke(*TINY, *GPU, *(f"parallel.{axis}={size}" for axis, size in layout.to_dict().items()))
    assert "layout, of the experiment" in again


@pytest.mark.slow
def test_a_plan_that_does_not_fit_says_what_would(tmp_path: Path) -> None:
    device = dict(yaml.safe_load((SHIPPED / "h100.yaml").read_text()))
    device["reserved"] = {"context": 0, "communication": 0, "allocator": 0}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**device, "memory": 12e6}))
    words = [*TINY, "model.vocab_size=256", "--device", str(tmp_path / "small.yaml")]
    text = invoke(*words)
    assert "does not fit: the layout of least memory takes" in text
    assert "devices would do" in text


@pytest.mark.slow
def test_devices_are_those_of_the_layout_unless_given() -> None:
    assert archlab.plan(TINY[0], [*TINY[1:], "parallel.shard=4"], device="h100").devices == 4
    assert archlab.plan(TINY[0], TINY[1:], device="h100").devices == 1
    with pytest.raises(ArchlabError, match="shard 4 is 4 devices, not 2"):
        archlab.plan(TINY[0], [*TINY[1:], "parallel.shard=4"], device="h100", devices=2)


def test_missing_or_unknown_names_are_reported() -> None:
    result = CliRunner().invoke(cli, ["plan"])
    assert result.exit_code == 2
    assert "Missing argument 'NAME'" in result.output
    with pytest.raises(ArchlabError, match="did you mean 'h100'"):
        archlab.plan(TINY[0], device="h10")


@pytest.mark.slow
def test_numbers_have_units() -> None:
    plan = archlab.plan(TINY[0], TINY[1:], device="h100", devices=2)
    assert layout_yaml(plan).startswith("parallel: {replicate: ")
    assert [format_count(x) for x in (0, 999, 7.39e9, 2e12, 3e15)] == ["0", "999", "7.39 G", "2 T", "3 P"]
    assert [format_days(x) for x in (30, 0.5, 0.01)] == ["30 days", "12 hours", "14.4 minutes"]
