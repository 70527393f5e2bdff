"""Rows of a padded batch give what each gives alone, whatever the architecture, in the code that an export carries."""

import sys
from importlib.resources import files
from types import ModuleType

import pytest
import torch
from test_conformance import INPUTS, PARTS, subject
from torch import Tensor

from archlab.testing.component_case import is_stream

pytest.importorskip("transformers")
SOURCE = files("archlab.interop.exporting").joinpath("auto_template.py").read_text()
LENGTHS = (3, 7, 3, 0)  # two rows of one length, and one whose first chunk is padding alone
WIDTH, MORE = 7, 9


def functions() -> ModuleType:
    module = sys.modules["auto_checked"] = ModuleType("auto_checked")  # where its dataclasses look for their types
    exec(SOURCE.replace("from .MODELING import build, weight_files", ""), vars(module))
    return module


AUTO = functions()
CASES = [part for part in PARTS if part[0] not in ("head", "embedding") and part not in INPUTS]


def alone(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    return model(tokens[None])[0][0]


@pytest.mark.parametrize("part", CASES, ids="-".join)
@torch.no_grad()
def test_rows_of_different_lengths(part: tuple[str, str]) -> None:
    case = subject(*part)
    model = case.build()
    if not is_stream(case, model):
        pytest.skip("no stream")
    tokens_BT = torch.randint(17, (len(LENGTHS), WIDTH + MORE), generator=torch.Generator().manual_seed(1))
    kept_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        kept_BT[row, : WIDTH - length] = False
    chunks, state = [], None
    for first, last in ((0, WIDTH), (WIDTH, WIDTH + 2), *((t, t + 1) for t in range(WIDTH + 2, WIDTH + MORE))):
        y, state = AUTO._run_rows(model, model, tokens_BT[:, first:last], kept_BT[:, first:last], state)
        chunks.append(y)
    whole_BTV = torch.cat(chunks, 1)
    for row in range(len(LENGTHS)):
        expected = alone(model, tokens_BT[row][kept_BT[row]])
        torch.testing.assert_close(whole_BTV[row][kept_BT[row]], expected, rtol=1e-9, atol=1e-9)


def test_padding_has_no_gradient_and_may_be_on_either_side() -> None:
    model = subject("mixer", "mamba").build()
    tokens_BT = torch.arange(12).view(2, 6)
    kept_BT = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()
    y, _ = AUTO._run_rows(model, model, tokens_BT, kept_BT, None)
    torch.testing.assert_close(y[0, 2:], alone(model, tokens_BT[0, 2:]))
    torch.testing.assert_close(y[1, :4], alone(model, tokens_BT[1, :4]))
    y.sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient[:2].abs().sum() == gradient[10:12].abs().sum() == 0 < gradient[2:10].abs().sum()
