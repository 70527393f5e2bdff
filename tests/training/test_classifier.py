"""What is learned may be something other than text: a classifier goes the whole way too."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TRAIN, Write

from archlab import ArchlabError, ConfigError, api
from archlab.config import experiment
from archlab.modeling.build import validate

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

MODEL = {
    "type": "stack",
    "dim": 16,
    "embedding": {"type": "patches", "patch_size": 4, "num_channels": 1},
    "position": {"type": "learned", "max_length": 5},
    "layers": [
        {
            "mixer": {"type": "attention", "num_heads": 2, "attention": "bidirectional", "position": "none"},
            "ffn": {"type": "mlp", "hidden_dim": 16},
        }
    ],
    "head": {"type": "classifier", "num_outputs": 10},
}
PIXELS = {
    "type": "stack",
    "vocab_size": 256,
    "dim": 16,
    "layers": [{"mixer": {"type": "mega", "ema": {"type": "ema", "num_dims": 2}}, "ffn": {"type": "mlp"}}],
    "head": {"type": "classifier", "num_outputs": 10, "pool": "mean"},
}
SETTINGS = TRAIN | {"context": 64, "steps": 30, "batch_size": 16, "eval_every": 10, "eval_tokens": 6400}


@pytest.fixture
def digits(write: Write) -> Path:
    """A classifier of images that trains in a second."""
    return write({"model": MODEL, "task": "digits", "train": SETTINGS}, "digits.yaml")


@pytest.mark.slow
def test_a_classifier_is_trained_measured_reported_and_exported(digits: Path, tmp_path: Path) -> None:
    result = api.train(str(digits), out=tmp_path / "run")
    assert {"val_loss", "val_accuracy"} <= set(result.metrics)
    assert "val_bpb" not in result.metrics
    found = api.evaluate(tmp_path / "run")
    assert 0 <= found.metrics["accuracy"] <= 1
    assert found.tokens == 300
    assert "accuracy" in api.report(tmp_path / "run").read_text()
    module = (api.export(tmp_path / "run", tmp_path / "out", to=["standalone"]) / "modeling_digits.py").read_text()
    assert "def generate" not in module
    with pytest.raises(ArchlabError, match="no text to continue"):
        list(api.generate(tmp_path / "run", "abc"))


@pytest.mark.slow
def test_a_search_may_maximize_what_the_task_measures(digits: Path, tmp_path: Path) -> None:
    space = {
        "base": str(digits),
        "vary": {"train.lr": [1e-4, 1e-2]},
        "objectives": {"val_accuracy": "maximize"},
        "study": {"trials": 2, "sampler": "random"},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    outcome = api.search(str(tmp_path / "space.yaml"), out=tmp_path / "search")
    summary = json.loads((tmp_path / "search" / "summary.json").read_text())
    assert summary["best_trial"]["validation"]["accuracy"] >= 0
    page = api.report(outcome.folder).read_text()
    assert "val accuracy" in page
    assert "bits per byte" not in page
    space["objectives"] = {"val_bpb": "minimize"}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    with pytest.raises(ConfigError, match=r"no metric 'val_bpb'; did you mean 'val_loss'\?"):
        api.search(str(tmp_path / "space.yaml"), out=tmp_path / "other")


@pytest.mark.slow
def test_pixels_in_a_row_are_words_to_a_sequence_model(write: Write, tmp_path: Path) -> None:
    file = write({"model": PIXELS, "task": {"type": "digits", "inputs": "pixels"}, "train": SETTINGS})
    assert 0 <= api.train(str(file), out=tmp_path / "run").metrics["val_accuracy"] <= 1


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["model.head=language_model", "model.vocab_size=10"],
            "'digits', which asks for one answer a sample: use a head",
        ),
        (["model.head.num_outputs=9"], "model.head: 9 outputs are less than the 10 of the task"),
        (["train.context=60"], "60"),
        (["task=stdlib"], "model.head: does not fit the task 'stdlib', which asks for an answer at every step"),
        (["model.embedding=tokens"], "tokens need a vocab_size"),
    ],
)
def test_a_model_that_does_not_fit_its_task_is_refused(
    digits: Path, tmp_path: Path, overrides: list[str], problem: str
) -> None:
    with pytest.raises(ArchlabError, match=problem):
        api.train(str(digits), overrides, out=tmp_path / "run")


def test_a_model_that_looks_ahead_may_not_predict_the_next_word(write: Write) -> None:
    layer = {"mixer": {"type": "attention", "attention": "bidirectional"}, "ffn": "mlp"}
    model = {"type": "stack", "vocab_size": 256, "dim": 16, "layers": [layer]}
    with pytest.raises(ConfigError, match="model: sees later tokens, which the task 'stdlib' has it predict"):
        validate(experiment.load(write({"model": model, "task": "stdlib"})))


@pytest.mark.slow
def test_losses_that_layers_add_are_learned_from(write: Write, tmp_path: Path, text: Path) -> None:
    (tmp_path / "adds.py").write_text(ADDS)
    layer = {"mixer": {"type": "adds"}, "ffn": {"type": "mlp", "hidden_dim": 16}}
    tree = {
        "plugins": ["adds.py"],
        "model": {"type": "stack", "vocab_size": 256, "dim": 8, "layers": [layer]},
        "task": {"type": "text", "path": str(text), "eval_bytes": 256},
        "train": TRAIN,
    }
    api.train(str(write(tree)), out=tmp_path / "run")
    from archlab.storage.trained_model import load_trained

    _, model = load_trained(tmp_path / "run")
    assert (model.blocks[0].mixer.weight.abs() < 0.96).all()
    assert model.blocks[0].mixer.weight.dtype == torch.float32


ADDS = '''
import torch
from torch import Tensor, nn

from archlab import register
from archlab import Recurrent, State


@register("mixer", "adds")
class Adds(Recurrent):
    """Adds the size of a weight that nothing else pulls on."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def init_state(self, batch_size: int) -> State:
        return {"auxiliary_loss": self.weight.new_zeros(batch_size)}

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        before = (state or self.init_state(len(x)))["auxiliary_loss"]
        return x, {"auxiliary_loss": before + x.shape[1] * self.weight.square()}
'''
