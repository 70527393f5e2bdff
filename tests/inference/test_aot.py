"""Compiled ahead of time, a module gives what it gives, and what follows from its weights is computed once."""

from pathlib import Path

import pytest
import torch
from conftest import needs_compiler
from torch import Tensor, nn

from archlab import ArchlabError
from archlab.inference.aot import AOTModule
from archlab.inference.tracing import fold_constants, trace


class Turned(nn.Module):
    """What is known, what depends on the input, what is drawn again, a constant written into, and a state in place."""

    def __init__(self, *, noise: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.angle, self.scale = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(1))
        self.weight, self.noise = nn.Parameter(torch.zeros(2, 7, 5, dtype=dtype)), noise
        self.bias = nn.Parameter(torch.zeros(7))

    def forward(self, x_D: Tensor, seen_1: Tensor) -> tuple[Tensor, Tensor]:
        """Turn, weigh, and count."""
        seen_1.copy_(seen_1 + 1)
        placed_D = torch.zeros(5) * self.scale
        placed_D[:2].add_(x_D[:2])
        turned_D = (x_D + placed_D) * (self.angle * torch.arange(1, 6)).cos() * self.scale
        first, second = self.weight.unbind(0)
        y_O = (turned_D * (first.float() + second.float().view(7, 5))).sum(-1) + self.bias
        return y_O, torch.rand(3) * self.scale if self.noise else y_O + seen_1


def program_of(module: nn.Module) -> torch.fx.GraphModule:
    program = trace(module, (torch.randn(5), torch.zeros(1)))
    fold_constants(program)
    return program


def targets(program: torch.fx.GraphModule) -> str:
    return " ".join(str(node.target) for node in program.graph.nodes)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_known_is_computed_and_weights_are_not_copied(dtype: torch.dtype) -> None:
    module = randomised(Turned(dtype=dtype))
    program = program_of(module)
    assert "aten.cos" not in targets(program)
    assert "aten.arange" not in targets(program)
    buffers = {name: tensor for name, tensor in program.named_buffers() if name.startswith("known_")}
    # The constant written into and its part, the cosines, the sum of two weights: none of these by itself.
    assert sorted(list(tensor.shape) for tensor in buffers.values()) == [[2], [5], [5], [7, 5]]
    for x_D in torch.randn(2, 5):
        for one, other in zip(program(x_D, torch.zeros(1)), module(x_D, torch.zeros(1)), strict=True):
            torch.testing.assert_close(one, other)


def test_a_weight_in_another_type_is_read_as_it_is() -> None:
    class Half(nn.Linear):
        def forward(self, x_D: Tensor) -> Tensor:
            return (x_D * self.weight.float()).sum(-1)

    module = Half(5, 7, dtype=torch.bfloat16)
    program = trace(module, (torch.randn(5),))
    fold_constants(program)
    assert [tensor.data_ptr() for tensor in program.buffers()] == [module.weight.data_ptr()]


def test_random_numbers_are_drawn_anew() -> None:
    program = program_of(Turned(noise=True))
    drawn = [program(torch.randn(5), torch.zeros(1))[1] for _ in range(2)]
    assert not torch.equal(*drawn)


@pytest.mark.services
@needs_compiler
def test_a_library_serves_other_weights_of_the_same_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for module in (Turned(), randomised(Turned())):  # first zeros and ones, which a compiler might take for always so
        seen_1, expected_1 = torch.zeros(1), torch.zeros(1)
        ahead = AOTModule(module, (torch.randn(5), seen_1))
        for _ in range(3):
            x_D = torch.randn(5)
            for one, other in zip(ahead(x_D, seen_1), module(x_D, expected_1), strict=True):
                torch.testing.assert_close(one, other)
            assert torch.equal(seen_1, expected_1)
        with torch.no_grad():
            module.bias.add_(1)  # a weight is not copied
            torch.testing.assert_close(ahead(x_D, seen_1)[0], module(x_D, expected_1)[0])
    built = list((tmp_path / "archlab" / "ahead").iterdir())
    assert [file.suffix for file in built] == [".so"]


def test_a_module_that_was_compiled_is_traced_as_it_is() -> None:
    module, x_BD = nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3)
    module[0].compile(fullgraph=True)
    (y_BD,) = trace(module, (x_BD,))(x_BD)
    torch.testing.assert_close(y_BD, x_BD @ module[0].weight.T + module[0].bias)


class Chooses(nn.Module):
    def forward(self, x_D: Tensor) -> Tensor:
        return x_D + 1 if x_D.sum() > 0 else x_D - 1


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count_1", torch.zeros(1))

    def forward(self, x_D: Tensor) -> Tensor:
        return x_D + self.count_1.add_(1)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Chooses(), "its control flow depends on values of tensors"),
        (Counts(), "writes to its own parameters or buffers"),
    ],
)
def test_what_cannot_be_compiled_ahead_says_why(module: nn.Module, reason: str) -> None:
    with pytest.raises(ArchlabError, match=f"only run eagerly: .*{reason}"):
        trace(module, (torch.ones(3),))


def test_what_torch_writes_in_place_by_itself_is_functional() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x_D: Tensor) -> Tensor:
            return x_D * nn.functional.rms_norm(self.weight, (3,))

    module = Normed()
    program = trace(module, (torch.ones(3),))
    fold_constants(program)
    for x_D in torch.randn(2, 3):
        torch.testing.assert_close(program(x_D), (module(x_D),))
    assert "mean" not in targets(program)
