"""Runs of several processes against runs of one: curves, checkpoints, and how they end."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from rank_runs import buffers_after, load_and_save, run_updates, save_state, split_loss, train_in_ranks, two_updates
from run_helpers import curve, write_documents
from torch import nn

from archlab.config.experiment import load
from archlab.config.registry import names
from archlab.config.start_from import StartFrom
from archlab.config.yaml_files import shipped_files
from archlab.errors import ArchlabError
from archlab.interop.exporting.exported_model import read_model
from archlab.interop.exporting.weights import write_weights
from archlab.modeling.backbone import is_causal, is_per_sample
from archlab.modeling.build import validate
from archlab.modeling.optimizer import update_rule
from archlab.ops.linear_cross_entropy import linear_cross_entropy_reference
from archlab.parallel.division import DoesNotDivide, plan_division
from archlab.storage.checkpoint import load_checkpoint, save_checkpoint, verify
from archlab.storage.migrate import migrate
from archlab.storage.start_point import find_start
from archlab.storage.stored_tensors import MODEL, OPTIMIZER, StoredTensors
from archlab.storage.tensors import read_tensors
from archlab.storage.trained_model import load_trained
from archlab.testing.rank_pool import rank_pool
from archlab.training.step import TrainStep
from archlab.training.trainer import train

pytestmark = pytest.mark.services
# Six sequences an update, in three micro-batches; without dropout, which ranks draw on their own.
SAME = [
    "model.layers[0].dropout=0",
    "model.layers[0].mixer.num_heads=2",
    "train.accumulate=3",
    "train.clip=0.5",
    "train.steps=6",
    "train.eval_tokens=160",
]
CLOSE = 2e-6


def layout(**axes: int) -> list[str]:
    return [f"parallel.{axis}={size}" for axis, size in axes.items()]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.fixture
def alone(tiny: Tiny, one: Path) -> list[dict[str, Any]]:
    """The records of one process."""
    if not (one / "run").exists():
        train(tiny(*SAME), one / "run")
    return curve(one / "run")


def assert_same_curve(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [list(record) for record in actual] == [list(record) for record in expected]
    for record, other in zip(actual, expected, strict=True):
        assert record == pytest.approx(other, rel=CLOSE)


LAYOUTS = [
    {"replicate": 2},
    {"shard": 2},
    {"chunk": 2},
    {"tensor": 2},
    {"shard": 2, "chunk": 2},
    {"shard": 2, "tensor": 2},
    {"chunk": 2, "tensor": 2},
]


@pytest.mark.parametrize("axes", LAYOUTS, ids="-".join)
def test_any_layout_gives_the_curve_of_one_process(
    axes: dict[str, int], tiny_file: Path, tmp_path: Path, alone: list[dict[str, Any]]
) -> None:
    count = 4 if len(axes) > 1 else 2
    ended = rank_pool().run(count, train_in_ranks, tiny_file, SAME + layout(**axes), tmp_path / "run", {})
    assert ended == ["done"] * count
    assert_same_curve(curve(tmp_path / "run"), alone)


SHARED = {
    "loops": ["model.loops=2"],
    "keys": ["model.layers[0].repeat=2", "model.layers[0].mixer={type: attention, num_heads: 2, share_kv: true}"],
}


@pytest.mark.parametrize("axes", [{"shard": 2, "chunk": 2}, {"shard": 2, "tensor": 2}], ids="-".join)
@pytest.mark.parametrize("shared", SHARED)
def test_what_layers_share_is_divided_among_ranks(
    shared: str, axes: dict[str, int], tiny: Tiny, tiny_file: Path, tmp_path: Path
) -> None:
    overrides = [*SAME, *SHARED[shared], "train.checkpoint_activations=true"]
    train(tiny(*overrides), tmp_path / "one")
    ended = rank_pool().run(4, train_in_ranks, tiny_file, overrides + layout(**axes), tmp_path / "run", {})
    assert ended == ["done"] * 4
    assert_same_curve(curve(tmp_path / "run"), curve(tmp_path / "one"))


def test_separate_documents_are_divided_among_ranks(tiny: Tiny, tiny_file: Path, tmp_path: Path) -> None:
    overrides = [write_documents(tmp_path / "texts"), *SAME, "train.documents=separate"]
    train(tiny(*overrides), tmp_path / "one")
    ended = rank_pool().run(2, train_in_ranks, tiny_file, overrides + layout(shard=2), tmp_path / "run", {})
    assert ended == ["done"] * 2
    assert_same_curve(curve(tmp_path / "run"), curve(tmp_path / "one"))


def test_a_run_continues_in_other_layouts(
    tiny: Tiny, tiny_file: Path, tmp_path: Path, alone: list[dict[str, Any]]
) -> None:
    run, pool = tmp_path / "run", rank_pool()
    stop = {"fail": "interrupt"}
    assert "saved at step 4" in pool.run(2, train_in_ranks, tiny_file, [*SAME, *layout(shard=2)], run, stop)[0]
    resumed = pool.run(4, train_in_ranks, tiny_file, [*SAME, *layout(chunk=2, tensor=2)], run, {"resume": True})
    assert resumed == ["done"] * 4
    assert_same_curve(curve(run), alone)
    train(tiny(*SAME), run, resume=True)
    assert_same_curve(curve(run), alone)


@pytest.mark.parametrize("name", names("optimizer"))
def test_a_divided_run_continues_with_any_optimizer(name: str, tiny: Tiny, tiny_file: Path, tmp_path: Path) -> None:
    run, pool, overrides = tmp_path / "run", rank_pool(), [*SAME, f"train.optimizer={name}"]
    if "shard" not in update_rule(tiny(*overrides).train).divided_by:
        message = f"train.optimizer: '{name}' updates whole tensors, which parallel.shard divides"
        ended = pool.run(2, train_in_ranks, tiny_file, [*overrides, *layout(shard=2)], run, {})
        assert message in ended[0]
        assert all(each != "done" for each in ended)
        return
    divided = [*overrides, *layout(shard=2)]
    assert pool.run(2, train_in_ranks, tiny_file, divided, tmp_path / "whole", {}) == ["done"] * 2
    assert "saved at step 4" in pool.run(2, train_in_ranks, tiny_file, divided, run, {"fail": "interrupt"})[0]
    shutil.copytree(run, tmp_path / "in_one")
    assert pool.run(2, train_in_ranks, tiny_file, divided, run, {"resume": True}) == ["done"] * 2
    assert curve(run) == curve(tmp_path / "whole")
    train(tiny(*overrides), tmp_path / "in_one", resume=True)
    # What rounds gradients to signs or to bfloat16 makes more of their last digits.
    for record, other in zip(curve(tmp_path / "in_one"), curve(run), strict=True):
        assert record == pytest.approx(other, rel=1e-3)


ENDS = {
    "nan": (1, "TrainingError: step 5: the loss is nan", "PeerError", 3),
    "disk": (0, "MachineError|OSError", "PeerError", 3),
    "signal": (1, "Stopped SIGUSR1", "Stopped SIGUSR1", 5),
    "interrupt": (0, "KeyboardInterrupt", "Stopped SIGINT", 4),
}


@pytest.mark.parametrize("fail", ENDS)
def test_what_happens_to_one_rank_ends_all(fail: str, tiny_file: Path, tmp_path: Path) -> None:
    at, first, other, saved = ENDS[fail]
    options, run = {"fail": fail, "at": at}, tmp_path / "run"
    ended = rank_pool().run(2, train_in_ranks, tiny_file, [*SAME, *layout(shard=2)], run, options)
    assert any(ended[0].startswith(text) for text in first.split("|")), ended
    assert ended[1].startswith(other), ended
    assert max(path.name for path in (run / "checkpoints").glob("step_*")) == f"step_{saved:08d}"
    if "Stopped" in first or fail == "interrupt":
        assert all(f"saved at step {saved}" in text for text in ended)


def test_a_full_disk_of_another_rank_ends_all_and_is_reported_by_it(tiny_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = rank_pool().run(2, train_in_ranks, tiny_file, [*SAME, *layout(shard=2)], run, {"fail": "disk", "at": 1})
    assert ended[0].startswith("PeerError")
    assert ended[1] == "OSError: [Errno 28] No space left on device"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000003"]


EIGHT = [*SAME, "train.accumulate=4"]  # sequences an update, for four shards
DIVIDED = [{"shard": 4}, {"shard": 2, "tensor": 2}, {"shard": 2, "chunk": 2}, {"tensor": 2}]


def test_a_checkpoint_of_any_layout_is_read_in_any_other(tiny: Tiny, tiny_file: Path, tmp_path: Path) -> None:
    names, pool = ["-".join(axes) + str(max(axes.values())) for axes in DIVIDED], rank_pool()
    alone = TrainStep(tiny(*EIGHT))
    for _ in range(2):
        alone()
    saved = {"one": save_checkpoint(tmp_path / "one", 2, alone.model, alone.optimizer, {"of": "test"}, keep=1)}
    for name, axes in zip(names, DIVIDED, strict=True):
        arguments = (tiny_file, EIGHT + layout(**axes), tmp_path / name)
        saved[name] = Path(pool.run(prod(axes.values()), save_state, *arguments)[0])
    assert len(list(saved["shard4"].glob("model-part-*-of-00004.safetensors"))) == 4
    for name, axes in zip(names, DIVIDED, strict=True):
        again = {source: tmp_path / f"{place}_in_{name}" for place, source in saved.items()}
        pool.run(prod(axes.values()), load_and_save, tiny_file, EIGHT + layout(**axes), again)
        for source, folder in again.items():
            assert_same_state(source, folder / source.name)
    for source in saved.values():
        verify(source)
        load_checkpoint(source, alone.model, alone.optimizer)
        assert_same_state(source, save_checkpoint(tmp_path / "last", 2, alone.model, alone.optimizer, {}, keep=1))


def assert_same_state(one: Path, other: Path) -> None:
    for kind in (MODEL, OPTIMIZER):
        first, second = StoredTensors(one, kind), StoredTensors(other, kind)
        assert set(first) == set(second)
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(*(read_tensors(place / "rng.safetensors")["cpu"] for place in (one, other)))


@pytest.mark.parametrize(("fail", "at"), [("killed_at_write", 2), ("killed_at_update", 0)])
def test_runs_that_are_killed_go_on_with_fewer_processes(
    fail: str, at: int, tiny: Tiny, tiny_file: Path, tmp_path: Path, alone: list[dict[str, Any]]
) -> None:
    run, often, pool = tmp_path / "run", [*SAME, "train.checkpoint_every=2"], rank_pool()
    # Of the process that was killed, or of one that lost it; the others are then killed too.
    with pytest.raises(RuntimeError, match=r"the process of rank . ended, with -9|onnection"):
        pool.run(4, train_in_ranks, tiny_file, [*often, *layout(shard=2, tensor=2)], run, {"fail": fail, "at": at})
    assert rank_pool() is not pool
    left = sorted(path.name for path in (run / "checkpoints").glob("step_*"))
    # The second one was being written, of which a rank that was killed in it has left nothing.
    assert left[0] == "step_00000002"
    assert left[1:] in ([[]] if fail == "killed_at_write" else [[], ["step_00000004"]])
    halfway = {"resume": True, "fail": "interrupt", "stop_at": 5}
    arguments = (tiny_file, [*often, *layout(shard=2)], run)
    assert rank_pool().run(2, train_in_ranks, *arguments, halfway)[0].endswith("saved at step 5")
    assert_usable(run)
    train(tiny(*often), run, resume=True)
    assert_same_curve(curve(run), alone)
    assert not list((run / "checkpoints").glob(".*"))


def assert_usable(run: Path) -> None:
    """A run that ranks have left in parts is exported, and loaded from its checkpoint, as any other."""
    last = run / "checkpoints/step_00000005"
    weights = StoredTensors(last)
    assert all(part.name.endswith("-of-00002.safetensors") for part in weights.files)
    _, model = load_trained(last)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    exported = read_model(run)
    assert "step 5, the last checkpoint" in exported.note
    write_weights(run.parent, exported.tensors)
    written = read_tensors(run.parent / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in written.items())
    assert find_start(StartFrom(str(run), load="everything")).origin()["step"] == 5
    assert migrate(run) == []
    broken = shutil.copytree(last, run.parent / "broken/step_00000005")
    (broken / weights.files[1].name).unlink()
    with pytest.raises(ArchlabError, match=r"step_00000005: model-part-00002-of-00002.safetensors is missing"):
        verify(broken)


SMALL = ["train.compile=off", "train.precision=float32", "train.device=cpu", "train.batch_size=2", "train.accumulate=1"]


@pytest.mark.parametrize("name", sorted(name for name in shipped_files() if name.endswith("_tiny")))
def test_every_small_experiment_divides(name: str) -> None:
    experiment = load(name, SMALL)
    model = validate(experiment)
    task = experiment.task.factory()()
    streams = is_causal(model) and not is_per_sample(model) and task.vocab_size is not None
    axes = [{"shard": 2, "tensor": 2} if divides(model, 2) else {"shard": 2}]
    axes += [{"chunk": 2}] if streams and experiment.train.context % 2 == 0 else []
    expected = run_updates(TrainStep(experiment))
    for sizes in axes:
        for record in rank_pool().run(2 * len(sizes), two_updates, name, SMALL + layout(**sizes)):
            assert record == pytest.approx(expected, rel=1e-4), json.dumps(sizes)


def divides(model: nn.Module, size: int) -> bool:
    try:
        return bool(plan_division(model, size).axes)
    except DoesNotDivide:
        return False


EXPERTS = "model.layers[0].ffn={type: moe, num_experts: 4, top_k: 2, hidden_dim: 24, bias_rate: 0.01}"


def test_what_layers_count_is_that_of_all_ranks(tiny: Tiny, tiny_file: Path) -> None:
    step = TrainStep(tiny(*SAME, EXPERTS))
    for _ in range(3):
        step()
    expected = dict(step.model.named_buffers())
    assert any(name.endswith("ffn.bias") and bias.any() for name, bias in expected.items())
    for sizes in LAYOUTS:
        for found in rank_pool().run(
            prod(sizes.values()), buffers_after, tiny_file, [*SAME, EXPERTS, *layout(**sizes)]
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=json.dumps(sizes))


@pytest.mark.parametrize("soft_cap", [0.0, 1.5])
def test_a_loss_over_a_divided_vocabulary_is_that_of_all_of_it(soft_cap: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (300, 11))
    targets = torch.randint(11, (300,), generator=generator)
    targets[::7] = -100
    x.requires_grad_()
    weight.requires_grad_()
    loss = linear_cross_entropy_reference(x, weight, targets, soft_cap)
    (0.3 * loss).backward()
    ranks = rank_pool().run(4, split_loss, x.detach(), weight.detach(), targets, 0.3, soft_cap)
    assert all(own == pytest.approx(loss.item(), rel=1e-12) for own, _, _ in ranks)
    torch.testing.assert_close(sum(dx for _, dx, _ in ranks), x.grad)
    torch.testing.assert_close(torch.cat([dweight for _, _, dweight in ranks]), weight.grad)


def test_a_pool_whose_process_has_ended_is_replaced() -> None:
    pool = rank_pool()
    pool._processes[1].kill()
    pool._processes[1].join()
    with pytest.raises((OSError, RuntimeError)):
        pool.run(2, abs, 1)
    assert rank_pool() is not pool
