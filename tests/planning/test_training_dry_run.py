"""An update without memory and without the other ranks, and whether the plan has known what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist
import yaml
from click.testing import CliRunner
from conftest import Tiny

import archlab
from archlab.cli.main import cli
from archlab.config.experiment import load
from archlab.config.parallel import Layout
from archlab.errors import ArchlabError, ConfigError
from archlab.ops.linear_cross_entropy import IGNORED
from archlab.planning.device import SHIPPED
from archlab.planning.dry_run import dry_run
from archlab.planning.evaluations import evaluated_tokens
from archlab.planning.fake_step import track_ranks, track_update
from archlab.planning.plan import plan

# Small enough to trace in a moment: every term of the plan weighs something.
SIZES = ["train.batch_size=4", "train.precision=float32"]


def invoke(*words: str) -> str:
    result = CliRunner().invoke(cli, ["train", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# Layers and heads in place of those of the files, whose tracing would take long: three layers, one with the neighbors
# that all but the first and the last have, and of unlike ones one of each.
FEW = {
    "llama2_tiny": ["model.layers[0].repeat=3"],
    "mixtral_tiny": ["model.layers[0].repeat=3"],
    "hybrid_tiny": ["model.layers[0].repeat=1"],
    "megalodon_tiny": ["model.layers[0].repeat=3", "model.layers[0].mixer.num_heads=2"],
    "mamba2_tiny": ["model.layers[0].repeat=3"],
}
# By architecture, layout, context and whether activations are computed again: each axis, pairs, and all three.
CASES = (
    ("megalodon_tiny", "shard: 4", 256, True),
    ("megalodon_tiny", "shard: 2, tensor: 2, chunk: 2", 32, False),
    ("llama2_tiny", "shard: 4", 32, False),
    ("llama2_tiny", "tensor: 2", 256, True),
    ("llama2_tiny", "shard: 2, tensor: 2", 32, False),
    ("llama2_tiny", "shard: 2, chunk: 2", 32, True),
    ("llama2_tiny", "replicate: 2", 256, True),
    ("hybrid_tiny", "shard: 4", 16, True),  # unlike blocks, little beside weights
    ("mamba2_tiny", "shard: 2, tensor: 2, chunk: 2", 64, True),
    ("mixtral_tiny", "shard: 4", 64, True),
    ("megalodon_tiny", "shard: 4", 64, "selective"),
    ("llama2_tiny", "tensor: 2, chunk: 2", 256, "selective"),
)


@pytest.mark.slow
# torch warns that a block returned a view, which mamba2's last operation is here; nothing writes to it in place.
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
@pytest.mark.parametrize(("name", "layout", "context", "recompute"), CASES)
def test_the_plan_is_near_what_torch_tracks(name: str, layout: str, context: int, recompute: bool | str) -> None:
    words = [*SIZES, *FEW[name], f"train.context={context}", f"train.checkpoint_activations={recompute}"]
    made = dry_run(load(name, [*words, f"parallel={{{layout}}}"]))
    assert made.plan.devices == made.plan.layout.devices
    assert abs(made.difference) <= 0.1, f"planned {made.planned_bytes:,}, tracked {made.tracked_bytes:,}"


@pytest.mark.slow
def test_the_plan_is_as_near_in_bfloat16() -> None:
    words = ["train.precision=bfloat16", "train.context=64", "model.layers[0].repeat=3", "parallel={shard: 4}"]
    made = dry_run(load("llama2_tiny", words))
    assert abs(made.difference) <= 0.05, f"planned {made.planned_bytes:,}, tracked {made.tracked_bytes:,}"


@pytest.mark.slow
def test_a_deep_model_is_counted_from_a_few_of_its_layers() -> None:
    deep = load("llama2_tiny", ["model.layers[0].repeat=7", "train.context=32", "train.precision=float32"])
    layout = Layout(shard=2)
    assert track_update(deep, layout) == pytest.approx(max(track_ranks(deep, layout)), rel=0.02)


@pytest.mark.slow
def test_nothing_is_left_of_the_processes_that_are_not_there(tiny: Tiny) -> None:
    whole = track_update(tiny("train.precision=float32"), Layout())
    assert track_update(tiny(), Layout(replicate=2)) < whole  # which has half of the sequences
    assert not dist.is_initialized()


@pytest.mark.slow
def test_the_commands_that_start_it_are_printed(tiny_file) -> None:
    text = invoke(str(tiny_file), "--dry-run", "parallel.shard=16", "train.batch_size=16", "--out", "a run")
    assert "layout        shard 16" in text
    assert "16 x a100-80g" in text
    assert "torchrun --nnodes 2" in text
    assert "srun --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 --kill-on-bad-exit=1" in text
    assert "train.batch_size=16 --out 'a run'" in text
    assert "of 80 GB" in text or "fits 80 GB" in text


def test_what_does_not_fit_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"parallel: replicate 3 \* shard 1 does not divide the 2 sequences"):
        dry_run(tiny("parallel.replicate=3"))
    with pytest.raises(ConfigError, match="parallel: shard 2 is 2 devices, not 4"):
        dry_run(tiny("parallel={replicate: 1, shard: 2}"), processes=4)


def test_one_of_several_processes_plans_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ArchlabError, match="--dry-run is of a command that no launcher has started in several"):
        dry_run(tiny())


@pytest.mark.slow
def test_data_that_are_not_there_are_told_and_a_precision_is_chosen(tiny: Tiny, tmp_path: Path) -> None:
    task = f"task={{type: prepared, corpus: {tmp_path}/mine, vocab_size: 256}}"
    made = dry_run(tiny(task, "train.precision=auto"), device="h100")
    assert made.missing_data.startswith(f"{tmp_path}/mine: no prepared corpus there; archlab prepare EXPERIMENT")
    assert made.plan.precision == "bfloat16"


@pytest.mark.slow
def test_another_number_of_devices_than_the_experiment_s_is_noted(tiny: Tiny, tmp_path: Path) -> None:
    file = yaml.safe_load((SHIPPED / "h100.yaml").read_text())
    file["flops"]["bfloat16"] = file["flops"]["float32"]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(file))
    made = plan(tiny("parallel={replicate: 1, shard: 2}", "train.precision=auto"), device=str(tmp_path / "old.yaml"))
    assert (made.devices, made.proposed, made.precision) == (2, False, "float32")
    assert not any("layout" in note for note in made.notes)
    other = plan(tiny("parallel={replicate: 1, shard: 2}"), device="h100", devices=1)
    assert (other.devices, other.proposed) == (1, True)
    assert other.notes[-1] == "the experiment's own layout is of 2 devices"


def test_the_tokens_of_all_evaluations(tiny: Tiny) -> None:
    whole = tiny("train.eval_tokens=null")
    task = whole.task.factory()()
    batches = task.eval_batches("validation", 2, whole.train.context)
    targets = sum(int((targets != IGNORED).sum()) for _, targets in batches)
    assert evaluated_tokens(whole) == 3 * targets
    assert evaluated_tokens(tiny("train.eval_tokens=null", "train.eval_every=0")) == targets
    assert evaluated_tokens(tiny("train.eval_every=5")) == 3 * 128
    assert evaluated_tokens(tiny("train.eval_tokens=null", "task.path=/nowhere")) == 0


def test_the_recipes_are_of_the_devices_that_they_name() -> None:
    for name, devices in (("megalodon_7b", 256), ("megalodon_7b_64h100", 64)):
        parallel = load(name).parallel
        assert parallel is not None
        assert parallel.min_devices == devices
    assert archlab.load("megalodon_7b", ["parallel=null"]).parallel is None
