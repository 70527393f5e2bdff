from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Tiny, needs_compiler
from torch import Tensor, nn
from torch._dynamo.utils import counters

from archlab.modeling import compile as execution
from archlab.modeling.build import build
from archlab.modeling.compile import AUTO_COMPILE_FLOPS, compile_model, resolve_compile_mode
from archlab.ops.dtypes import without_autocast
from archlab.runtime import toolchain

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("policy", ["off", "block", "model"])
def test_a_policy_that_is_asked_for_is_taken(policy: str) -> None:
    assert resolve_compile_mode(policy, CPU, 0) == policy


def test_auto_compiles_what_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "has_cpp_compiler", lambda: True)
    assert resolve_compile_mode("auto", CPU, AUTO_COMPILE_FLOPS / 2) == "off"
    assert resolve_compile_mode("auto", CPU, AUTO_COMPILE_FLOPS) == "block"
    assert resolve_compile_mode("auto", CUDA, 0) == "block"
    monkeypatch.setattr(execution, "has_cpp_compiler", lambda: False)
    assert resolve_compile_mode("auto", CPU, AUTO_COMPILE_FLOPS) == "off"


def test_a_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/clang++" if name == "clang++" else None)
    assert toolchain.has_cpp_compiler()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not toolchain.has_cpp_compiler()


@pytest.mark.parametrize(("policy", "calls"), [("off", 0), ("block", 5), ("model", 1)])
def test_what_is_compiled(policy: str, calls: int, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, fullgraph, backend: compiled.append(module))
    model = build(tiny().model)
    compile_model(model, policy)
    assert len(compiled) == calls
    ends = [model.embedding, model.norm, model.head]
    assert all(part is model or part in [*model.blocks, *ends] for part in compiled)


OWN = """
from archlab.runtime.process import configure_process
configure_process()
import torch
from archlab.modeling.compile import compile_model
assert " " in torch.__file__
class Own(torch.nn.Module):
    def forward(self, x): return x.sin() + 1
model = Own()
compile_model(model, "model")
torch.testing.assert_close(model(torch.ones(5)), torch.ones(5).sin() + 1)
"""


@pytest.mark.services  # a process of its own, which compiles C++
@needs_compiler
def test_torch_and_a_home_may_be_in_a_directory_with_a_space(tmp_path: Path) -> None:
    (tmp_path / "of mine").mkdir()
    (tmp_path / "of mine" / "torch").symlink_to(Path(torch.__file__).parent)
    (tmp_path / "run.py").write_text(OWN)
    place = {"PYTHONPATH": str(tmp_path / "of mine"), "HOME": str(tmp_path / "of mine"), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, tmp_path / "run.py"], env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "has a space in its name, at which torch's compiler splits it" in done.stderr


class Precise(nn.Module):
    """A layer that leaves autocast for a moment."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            return x.float() * 3


@pytest.mark.services  # the first use of Inductor compiles headers of C++
@needs_compiler
def test_compiled_layers_are_kept_between_processes_in_bfloat16_too() -> None:
    counted = counters["aot_autograd"]
    counted.clear()
    model = Precise()
    compile_model(model, "model")
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.ones(3, requires_grad=True)).sum().backward()
    assert counted["autograd_cache_hit"] + counted["autograd_cache_saved"] == 1
    assert counted["autograd_cache_bypass"] == 0
