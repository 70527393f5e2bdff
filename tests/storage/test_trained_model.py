from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Tiny
from safetensors.torch import load_file
from torch import nn

from archlab import ArchlabError
from archlab.config import experiment as config
from archlab.modeling.build import build
from archlab.storage import checkpoint
from archlab.storage.tensors import copy_into
from archlab.storage.trained_model import find_checkpoint, load_trained, load_trained_or_export


@pytest.fixture
def published(tiny: Tiny, tmp_path: Path) -> Path:
    """A run's directory with a model that was never trained."""
    experiment = tiny("model.head.tied=true")
    checkpoint.save_model(tmp_path / "run/final", build(experiment.model, seed=3), experiment.resolved, {})
    (tmp_path / "run/experiment.yaml").write_text(experiment.to_yaml())
    return tmp_path / "run"


def test_a_model_comes_back(published: Path, tiny: Tiny) -> None:
    experiment, model = load_trained(published)
    assert experiment.resolved == tiny("model.head.tied=true").resolved
    assert not model.training
    original, tokens = build(experiment.model, seed=3).eval(), torch.arange(40).view(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], original(tokens)[0], rtol=0, atol=0)
    assert set(load_file(published / "final/model.safetensors")) == set(dict(model.named_parameters()))
    assert load_trained_or_export(published)[1].state_dict().keys() == model.state_dict().keys()


def test_tensors_that_do_not_fit_are_named_with_their_source(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(ArchlabError, match=f"^{tmp_path}: does not fit the model: missing 'bias'; different 'weight'"):
        copy_into(model, {"weight": torch.ones(2, 2)}, tmp_path)
    assert torch.equal(model.weight, before)
    copy_into(model, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path)
    assert (model.weight == 1).all()


@pytest.mark.parametrize("name", ["megalodon_tiny", "mega_tiny", "llama2_tiny"])
def test_buffers_that_are_not_saved_are_computed(name: str, tmp_path: Path) -> None:
    experiment = config.load(name)
    original, tokens = build(experiment.model, seed=3).eval(), torch.arange(40).view(2, 20)
    checkpoint.save_model(tmp_path / "model", original, experiment.resolved, {})
    _, model = load_trained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], original(tokens)[0], rtol=0, atol=0)


PLUGIN = """
import torch
from torch import nn
from archlab import register

@register("norm", "fixed")
class Fixed(nn.Module):
    \"\"\"Scales by numbers that no checkpoint holds.\"\"\"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, dim), persistent=False)

    def forward(self, x):
        return x * self.scale
"""


def test_buffers_that_are_not_saved_have_their_values(tiny: Tiny, tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "fixed.py").write_text(PLUGIN)
    (tmp_path / "mine.yaml").write_text("base: tiny.yaml\nplugins: [fixed.py]\nmodel: {norm: fixed}\n")
    experiment = config.load(tmp_path / "mine.yaml")
    checkpoint.save_model(tmp_path / "model", build(experiment.model), experiment.resolved, {})
    _, model = load_trained(tmp_path / "model")
    torch.testing.assert_close(model.norm.scale, torch.linspace(0.5, 1.5, 32), rtol=0, atol=0)


def test_a_search_holds_its_best(published: Path) -> None:
    assert find_checkpoint(published) == published / "final"
    assert find_checkpoint(published / "final") == published / "final"
    (published / "final").rename(published / "best")
    assert find_checkpoint(published) == published / "best"


def test_where_there_is_no_model(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match="nowhere: is not a directory"):
        find_checkpoint(tmp_path / "nowhere")
    (published / "final/model.safetensors").unlink()
    with pytest.raises(ArchlabError, match="run: holds no trained model"):
        find_checkpoint(published)


def test_a_model_of_another_run_is_refused_unless_it_is_named_itself(published: Path, tiny: Tiny) -> None:
    model, experiment = build(tiny().model), tiny()
    checkpoint.save_model(published / "final", model, experiment.resolved, {"identity": {"run": "1"}})
    (published / "run.json").write_text('{"identity": {"run": "2"}}')
    with pytest.raises(ArchlabError, match=r"final: its run is not that of .*run\.json \(1 and not 2\)"):
        load_trained(published)
    load_trained(published / "final")


def test_a_damaged_model_is_refused(published: Path) -> None:
    file = published / "final/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(ArchlabError, match=r"final: model\.safetensors has changed"):
        load_trained(published)
