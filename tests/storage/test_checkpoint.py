"""A restored run resumes bit for bit; a damaged checkpoint is detected."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from archlab import ArchlabError
from archlab.config.yaml_files import load_yaml
from archlab.storage.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_model,
    verify,
)
from archlab.storage.run_state import check_random_states, random_states
from archlab.storage.stored_tensors import StoredTensors
from archlab.storage.tensors import named_tensors


class Tied(nn.Module):
    """A model with a tied weight, dropout, a persistent and a temporary buffer."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, dim), nn.Linear(dim, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.inner, self.dropout = nn.Linear(dim, dim), nn.Dropout(0.3)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.ones(3), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        self.seen += tokens.numel()
        return self.head(self.dropout(self.inner(self.embedding(tokens))))


def build(seed: int = 0, fused: bool = True, **knobs: int) -> tuple[Tied, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Tied(**knobs)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=0.01, fused=fused)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        tokens = torch.arange(8).reshape(2, 4) + step % 4
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] *= 0.9
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("fused", [True, False])
def test_a_restored_run_resumes_bit_for_bit(tmp_path: Path, fused: bool) -> None:
    model, optimizer = build(fused=fused)
    train(model, optimizer, range(5))
    path = save_checkpoint(tmp_path, 5, model, optimizer, {"tokens": 30}, keep=1)
    after = train(model, optimizer, range(5, 10))

    again, its_optimizer = build(seed=99, fused=fused)
    assert load_checkpoint(path, again, its_optimizer) == {"tokens": 30, "step": 5}
    assert train(again, its_optimizer, range(5, 10)) == after
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert its_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for mine, other in zip(model.parameters(), again.parameters(), strict=True):
        assert optimizer.state[mine].keys() == its_optimizer.state[other].keys()
        assert all(torch.equal(optimizer.state[mine][k], its_optimizer.state[other][k]) for k in optimizer.state[mine])


def test_restored_tensors_do_not_depend_on_the_files(tmp_path: Path) -> None:
    model, optimizer = build()
    train(model, optimizer, range(2))
    path = save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=1)
    load_checkpoint(path, model, optimizer)
    expected = {k: v.clone() for k, v in optimizer.state[model.inner.weight].items()}
    (path / "optimizer.safetensors").write_bytes(b"\0" * (path / "optimizer.safetensors").stat().st_size)
    assert all(torch.equal(v, expected[k]) for k, v in optimizer.state[model.inner.weight].items())


def test_a_fused_optimizer_resumes_from_one_that_was_not(tmp_path: Path) -> None:
    model, optimizer = build(fused=False)
    train(model, optimizer, range(2))
    path = save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=1)
    model, optimizer = build(fused=True)
    load_checkpoint(path, model, optimizer)
    assert optimizer.param_groups[0]["fused"] is True
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_files_hold_tied_weights_once_and_names(tmp_path: Path) -> None:
    model, optimizer = build()
    train(model, optimizer, range(1))
    path = save_checkpoint(tmp_path, 100, model, optimizer, {}, keep=1)
    assert path.name == "step_00000100"
    assert set(load_file(path / "model.safetensors")) == {
        "embedding.weight",
        "inner.weight",
        "inner.bias",
        "unused",
        "seen",
    }
    moments = {f"{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in ("embedding.weight",)}
    assert moments <= set(load_file(path / "optimizer.safetensors"))
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert set(listed) == set(os.listdir(path)) - {"manifest.json"}


@pytest.mark.slow
def test_a_compiled_model_is_saved_under_its_own_names(tmp_path: Path) -> None:
    model, optimizer = build()
    path = save_checkpoint(tmp_path, 1, torch.compile(model, backend="eager"), optimizer, {}, keep=1)
    again = Tied()
    load_weights(path, again)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    model, optimizer = build()
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, model, optimizer, {}, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step_00000003", "step_00000004"]
    save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=2)
    assert os.listdir(tmp_path) == ["step_00000002"]


def test_steps_that_are_asked_for_stay(tmp_path: Path) -> None:
    model, optimizer = build()
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, model, optimizer, {}, keep=1, keep_steps=[2, 4])
    assert sorted(os.listdir(tmp_path)) == ["step_00000002", "step_00000004"]


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    model, optimizer = build()
    save_checkpoint(tmp_path, 1, model, optimizer, {"note": "old"}, keep=1)
    path = save_checkpoint(tmp_path, 1, model, optimizer, {"note": "new"}, keep=1)
    assert load_checkpoint(path, model, optimizer)["note"] == "new"


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE = [(_truncate, "has .* bytes and not"), (_flip, "has changed"), (Path.unlink, "is missing")]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None], words: str
) -> None:
    model, optimizer = build()
    save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=3)
    damage(save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=3) / name)
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == tmp_path / "step_00000001"
    (message,) = caplog.messages
    assert "\n" not in message
    assert f"resuming from step_00000001: step_00000002: {name}" in message


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"files": {"a": 1}}', '{"files": []}', '{"files": {"../a": {"size": 1, "sha256": ""}}}', None],
)
def test_a_checkpoint_without_a_good_manifest_is_damaged(tmp_path: Path, manifest: str | None) -> None:
    model, optimizer = build()
    file = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1) / "manifest.json"
    file.unlink() if manifest is None else file.write_text(manifest)
    with pytest.raises(ArchlabError, match=r"no checkpoint is intact: step_00000001: .*manifest.json"):
        latest_checkpoint(tmp_path)


def test_latest_of_nothing_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "step_notes").mkdir()
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None
    model, optimizer = build()
    path = save_checkpoint(tmp_path, 123456789, model, optimizer, {}, keep=1)
    assert latest_checkpoint(tmp_path) == path
    assert not caplog.messages


def test_weights_that_do_not_fit_are_named_and_nothing_changes(tmp_path: Path) -> None:
    model, optimizer = build()
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    other = Tied(dim=5)
    other.more, other.unused = nn.Linear(2, 2), None  # type: ignore[assignment]
    before = other.inner.bias.clone()
    with pytest.raises(ArchlabError) as caught:
        load_weights(path, other)
    assert torch.equal(other.inner.bias, before)
    message = str(caught.value)
    assert message.startswith(
        f"{path / 'model.safetensors'}: does not fit the model: missing 'more.weight', 'more.bias'"
    )
    assert "unexpected 'unused'" in message
    assert "'embedding.weight' is float [11, 6] and not float [11, 5]" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_an_unreadable_weights_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ArchlabError, match=r"model\.safetensors: (truncated|no such file)") as caught:
        load_weights(tmp_path, Tied())
    assert "\n" not in str(caught.value)


def test_a_truncated_weights_file_is_named(tmp_path: Path) -> None:
    model, optimizer = build()
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    _truncate(path / "model.safetensors")
    with pytest.raises(ArchlabError, match=r"model\.safetensors: truncated, or not a safetensors file"):
        load_weights(path, model)


def test_an_optimizer_with_other_groups_is_refused(tmp_path: Path) -> None:
    model, optimizer = build()
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    with pytest.raises(ArchlabError, match="other parameter groups"):
        load_checkpoint(path, model, torch.optim.AdamW(model.parameters()))


def test_a_published_model_is_self_contained(tmp_path: Path) -> None:
    model, _ = build()
    resolved = {"name": "tiny", "train": {"lr": 1e-5, "note": "1e-5", "on": None}, "model": {"layers": [{"a": 1}]}}
    for seed in (1, 2):
        save_model(tmp_path / "best", model, resolved, {"seed": seed})
    verify(tmp_path / "best")
    assert sorted(os.listdir(tmp_path / "best")) == [
        "experiment.yaml",
        "manifest.json",
        "model.safetensors",
        "provenance.json",
    ]
    assert load_yaml(tmp_path / "best" / "experiment.yaml") == resolved
    assert json.loads((tmp_path / "best" / "provenance.json").read_text()) == {"seed": 2}
    other = Tied()
    load_weights(tmp_path / "best", other)
    assert torch.equal(other.inner.weight, model.inner.weight)


def test_a_changed_published_model_is_detected(tmp_path: Path) -> None:
    save_model(tmp_path / "best", Tied(), {}, {})
    _flip(tmp_path / "best" / "provenance.json")
    with pytest.raises(ArchlabError, match=r"best: provenance\.json has changed$"):
        verify(tmp_path / "best")


def test_a_checkpoint_with_files_of_the_user_is_neither_deleted_nor_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = build()
    first = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    (first / "notes.txt").write_text("mine")
    save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=1)
    assert caplog.messages == [f"{first} is kept: archlab did not write {first / 'notes.txt'}"]
    with pytest.raises(ArchlabError, match=r"notes\.txt: was not written by archlab; move it away, or name another"):
        save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    assert (first / "notes.txt").read_text() == "mine"
    verify(first)


def test_a_checkpoint_in_a_directory_of_another_step_is_named(tmp_path: Path) -> None:
    model, optimizer = build()
    path = save_checkpoint(tmp_path, 3, model, optimizer, {}, keep=1).rename(tmp_path / "step_00000004")
    problem = "its step is 3, but its directory is named step_00000004 and not step_00000003"
    with pytest.raises(ArchlabError, match=rf"step_00000004/state\.json: {problem}$"):
        load_checkpoint(path, model, optimizer)


def _negative(file: Path, name: str) -> None:
    tensors = load_file(file)
    save_file({**tensors, name: -tensors[name] - 1}, file)


@pytest.mark.parametrize("name", ["step.inner.bias", "exp_avg_sq.inner.weight"])
def test_a_count_or_a_square_below_0_is_named_and_nothing_changes(tmp_path: Path, name: str) -> None:
    model, optimizer = build()
    train(model, optimizer, range(1))
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    _negative(path / "optimizer.safetensors", "exp_avg.inner.bias")
    load_checkpoint(path, model, optimizer)
    _negative(path / "optimizer.safetensors", name)
    train(model, optimizer, range(1, 2))
    before = model.inner.weight.clone()
    with pytest.raises(ArchlabError, match=f"step_00000001: '{name}' holds a number below 0$"):
        load_checkpoint(path, model, optimizer)
    assert torch.equal(model.inner.weight, before)


def test_a_learning_rate_that_is_a_tensor_stays_one(tmp_path: Path) -> None:
    model, _ = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.25), fused=True)
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    other = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.5), fused=True)
    load_checkpoint(path, model, other)
    rate = other.param_groups[0]["lr"]
    assert isinstance(rate, Tensor)
    assert rate == 0.25


@pytest.mark.parametrize("name", ["cuda", "cuda.x", "cuda.-1", "max.0", "meta"])
def test_a_random_state_of_no_device_is_named(tmp_path: Path, name: str) -> None:
    states = random_states()
    check_random_states(states | {"cuda.99": states["cpu"]}, tmp_path)  # of a machine with more GPUs
    with pytest.raises(ArchlabError, match=f"{tmp_path}: '{name}' is not a state of a generator: no device has this"):
        check_random_states(states | {name: states["cpu"]}, tmp_path)
    with pytest.raises(ArchlabError, match="holds no state of the CPU's random number generator"):
        check_random_states({}, tmp_path)


def test_a_published_model_may_take_its_weights_from_a_checkpoint(tmp_path: Path) -> None:
    model, optimizer = build()
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    save_model(tmp_path / "best", build(seed=9)[0], {}, {}, weights=StoredTensors(path))
    verify(tmp_path / "best")
    published = load_file(tmp_path / "best/model.safetensors")
    assert all(torch.equal(tensor, published.pop(name)) for name, tensor in named_tensors(model).items())
    assert not published
