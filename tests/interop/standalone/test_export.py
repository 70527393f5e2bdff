"""An exported model gives the same scores in a process that cannot import archlab."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import THOROUGH
from safetensors.torch import load_file, save_file

from archlab import ArchlabError
from archlab.config import experiment as config
from archlab.config.yaml_files import shipped_files
from archlab.data.tokenizers import UNKNOWN_TOKENS, ModelTokens
from archlab.interop.exporting import exported_model
from archlab.interop.exporting.export import export as export_to
from archlab.interop.standalone.render import _describe_tokens, render_model
from archlab.modeling.build import build
from archlab.ops import dispatch
from archlab.storage.checkpoint import save_model

PARTS = '''
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archlab.config import registry
from archlab.components.attention._blocks import split_blocks as cut
from archlab.components.mixer.attention import MultiHeadAttention
from archlab import Positive
from archlab import Factory, register, slot
from archlab import Recurrent, State, StateScope

if TYPE_CHECKING:
    from collections.abc import Iterator

# Kept: why the factor is this one.
SCALE = math.sqrt(0.25)  # kept as well
scan, unused = 0.5, 0


def _blocks(x: Tensor) -> Tensor:
    return x * SCALE * scan


def halves(x: Tensor) -> Iterator[Tensor]:
    for scan in x.chunk(2, -1):  # a local name that hides the module's
        yield scan


def never() -> None:
    raise AssertionError


@register("mixer", "both")
class Both(Recurrent):
    """Attention made by hand beside a norm of π's size."""

    def __init__(self, dim: int, *, gain: Positive = 1.0, norm: Factory = registry.slot("norm", "rms")) -> None:
        super().__init__()
        self.inner, self.norm, self.gain = MultiHeadAttention(dim, num_heads=2), norm(dim), gain

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        stream = StateScope(state)
        y = stream("inner", self.inner, self.norm(x))
        joined = torch.cat(list(halves(_blocks(y))), -1)
        return F.silu(joined) * self.gain, stream.state
'''
CHECK = """
import sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("archlab", "components"):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Block())
import torch
from safetensors.torch import load_file, save_file

for folder in map(Path, sys.argv[1:]):
    sys.path.insert(0, str(folder / "out"))
    from modeling_it import generate, load

    tokens = load_file(folder / "tokens")["tokens"]
    with torch.inference_mode():
        model = load()
        whole, _ = model(tokens)
        state, parts = None, []
        for chunk in tokens.split([1, 5, tokens.shape[1] - 6], 1):
            logits, state = model(chunk, state)
            parts.append(logits)
    new = torch.tensor(generate(model, tokens[0].tolist(), 3, temperature=0.0))
    save_file({"whole": whole, "parts": torch.cat(parts, 1), "new": new}, folder / "result")
    del sys.modules["modeling_it"], sys.path[0]
"""
EXPERIMENTS = {
    "megalodon": "base: megalodon_tiny",
    "tied": "base: llama2_tiny\nmodel: {head: {type: language_model, tied: true}}",
    "mixed": "base: mega_tiny\nmodel: {layers: [{mixer: attention}, {repeat: 2, mixer: mega}]}",
    "plugin": "base: llama2_tiny\nplugins: [parts.py]\n"
    "model: {layers: [{mixer: {type: both, gain: 2}}, {repeat: 2, mixer: {type: megalodon, shared_dim: 64}}]}",
}


def export(folder: Path, out: Path, *, force: bool = False) -> Path:
    return export_to(folder, out, ["standalone"], force=force)


def save_checkpoint(folder: Path, yaml: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "parts.py").write_text(PARTS)
    (folder / "it.yaml").write_text(f"name: it\n{yaml}\n")
    experiment = config.load(folder / "it.yaml")
    model = build(experiment.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros would hide a wrong parameter
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    save_model(folder / "final", model, experiment.resolved, {})
    return folder


def run(*arguments: object) -> str:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the number of threads changes the rounding of sums
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=threads)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_logits_without_archlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(256, (2, 40), generator=torch.Generator().manual_seed(0))
    for name, yaml in EXPERIMENTS.items():
        (tmp_path / name).mkdir()
        export(save_checkpoint(tmp_path / name / "run", yaml), tmp_path / name / "out")
        save_file({"tokens": tokens}, tmp_path / name / "tokens")
    (tmp_path / "check.py").write_text(CHECK)
    run("-W", "error", tmp_path / "check.py", *(tmp_path / name for name in EXPERIMENTS))
    # An export has the reference implementations only, which round differently.
    monkeypatch.setattr(dispatch, "_BACKENDS", {})
    for name in EXPERIMENTS:
        assert_same_logits(tmp_path / name, tokens)


def assert_same_logits(folder: Path, tokens: torch.Tensor) -> None:
    """Compare what an export gave in a process without archlab with the model."""
    from archlab.storage.trained_model import load_trained

    result, model = load_file(folder / "result"), load_trained(folder / "run")[1]
    with torch.inference_mode():
        expected, _ = model(tokens)
    torch.testing.assert_close(result["whole"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(result["parts"], expected, rtol=1e-4, atol=1e-4)
    assert result["new"][0] == expected[0, -1].argmax()


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_the_file_is_tidy_and_runs_by_itself(tmp_path: Path) -> None:
    out = export(save_checkpoint(tmp_path / "run", EXPERIMENTS["plugin"]), tmp_path / "out")
    texts = ["README.md", "config.yaml", "manifest.json"]
    names = [*texts, "model.safetensors", "modeling_it.py", "provenance.json", "tokens.json"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert config.load(out / "config.yaml").model.to_plain()["layers"][1]["repeat"] == 2
    ruff = ["-m", "ruff", "--isolated"]
    run(*ruff, "check", "--select", "F,E1,E7,W", out / "modeling_it.py")
    run(*ruff, "format", "--check", "--line-length", "120", out / "modeling_it.py")
    assert run(out / "modeling_it.py", "Once").startswith("Once")


@pytest.mark.slow
def test_only_what_is_used_is_taken_over_as_it_was_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", EXPERIMENTS["plugin"])
    text = render_model(config.load(tmp_path / "run" / "it.yaml"))
    assert "# Kept: why the factor is this one.\nSCALE = math.sqrt(0.25)  # kept as well\n" in text
    assert all(
        word not in text for word in ("never()", "@register", "import archlab", "from archlab", "slot(", " cut(")
    )
    assert "gain: float = 1.0, norm: Callable)" in text
    assert "layers=[\n            partial(" in text


def test_the_module_says_what_the_tokens_are() -> None:
    known = ModelTokens("tokenizer", "a" * 64, True, ("<s>",), (), {"tokenizer.json": b"{}"})
    for tokens, words in (
        (None, ""),
        (ModelTokens("tokens of the task recall"), ""),
        (UNKNOWN_TOKENS, "The meaning of tokens is unknown: the model was imported without a tokenizer.\n\n"),
        (known, "The tokens are those of tokenizer.json; its special tokens are '<s>' before a text.\n\n"),
        (ModelTokens("bytes"), "The tokens are bytes of UTF-8.\n\n"),
    ):
        assert _describe_tokens(tokens) == words


@pytest.mark.slow
def test_every_shipped_experiment_can_be_written(tmp_path: Path) -> None:
    seen: set[str] = set()
    for name in shipped_files():
        experiment = config.load(name)
        parts = set(re.findall(r"\btype: (\w+)", experiment.to_yaml()))
        if parts <= seen and not THOROUGH:  # the same definitions with other numbers
            continue
        seen |= parts
        text = render_model(experiment)
        compile(text, name, "exec")
        (tmp_path / f"{name}.py").write_text(text)
    run("-m", "ruff", "check", "--isolated", "--select", "F", tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_an_earlier_export_is_replaced_only_by_force(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "run", EXPERIMENTS["tied"])
    out = export(folder, tmp_path / "out")
    newer = save_checkpoint(tmp_path / "newer", EXPERIMENTS["plugin"])
    with pytest.raises(ArchlabError, match="not empty"):
        export(newer, out)
    assert "silu" in (export(newer, out, force=True) / "modeling_it.py").read_text()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(ArchlabError, match=r"thesis\.tex"):
        export(folder, out, force=True)


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_a_checkpoint_that_is_replaced_while_it_is_exported_is_exported_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path / "run", EXPERIMENTS["tied"])
    load_late, newer = load_file, [EXPERIMENTS["plugin"]]

    def read_late(file: Path) -> dict[str, torch.Tensor]:
        tensors = load_late(file)
        if newer:
            save_checkpoint(tmp_path / "run", newer.pop())
        return tensors

    monkeypatch.setattr(exported_model, "load_file", read_late)
    out = export(folder, tmp_path / "out")
    written, expected = (load_file(place / "model.safetensors") for place in (out, folder / "final"))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in written)
    assert (out / "config.yaml").read_text() == config.load(folder / "it.yaml").to_yaml()


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "base: llama2_tiny")
    inside = "        from archlab import StateScope\n        stream"
    inner = PARTS.replace("        stream", inside, 1).replace('"both"', '"inner"')
    (tmp_path / "inner.py").write_text(inner)
    (tmp_path / "it.yaml").write_text("base: llama2_tiny\nplugins: [inner.py]\nmodel: {layers: [{mixer: inner}]}")
    with pytest.raises(ArchlabError, match=r"inner\.py:\d+: an import inside a definition"):
        render_model(config.load(tmp_path / "it.yaml"))


def test_damaged_weights_are_not_exported(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "run", EXPERIMENTS["tied"])
    weights = folder / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArchlabError, match=r"model\.safetensors"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
