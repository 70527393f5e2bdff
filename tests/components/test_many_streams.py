"""Whatever the architecture, a batch of prompts gives what each gives alone, and an endless stream does not grow."""

import gc
import sys
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import pytest
import torch
from conftest import THOROUGH
from test_conformance import INPUTS, PARTS, subject
from torch import Tensor, nn

from archlab.inference.batch import decode_rows
from archlab.inference.token_stream import TokenStream
from archlab.modeling.state import State, max_context, state_bytes
from archlab.testing.component_case import is_stream

CASES = [part for part in PARTS if part[0] not in ("head", "embedding") and part not in INPUTS]
CONTAINERS = (list, dict, set, tuple, deque)
LENGTHS, NEW = (7, 3, 11, 3, 1), (5, 9, 2, 4, 6)


class Greedy:
    """A row that takes the likeliest token, and keeps the logits."""

    def __init__(self, tokens: Sequence[int], num_new: int) -> None:
        self.tokens, self.num_new, self.max_length = tokens, num_new, len(tokens) + num_new
        self.new: list[int] = []
        self.logits: list[Tensor] = []

    @property
    def is_done(self) -> bool:
        return len(self.new) == self.num_new

    def add(self, logits_V: Tensor) -> int:
        self.logits.append(logits_V.clone())
        self.new.append(int(logits_V.argmax()))
        return self.new[-1]


def rows() -> list[Greedy]:
    generator = torch.Generator().manual_seed(3)
    return [
        Greedy(torch.randint(17, (length,), generator=generator).tolist(), new)
        for length, new in zip(LENGTHS, NEW, strict=True)
    ]


def alone(model: nn.Module, row: Greedy) -> Greedy:
    stream = TokenStream(model)
    token = row.add(stream.read(row.tokens))
    while not row.is_done:
        token = row.add(stream.read([token]))
    return row


@pytest.mark.parametrize("part", CASES, ids="-".join)
def test_a_batch_gives_what_each_prompt_gives_alone(part: tuple[str, str]) -> None:
    case = subject(*part)
    model = case.build(torch.float32)
    if not is_stream(case, model):
        pytest.skip("no stream")
    batch = rows()
    assert set(decode_rows(model, batch, 3)) == set(batch)
    for row, expected in zip(batch, rows(), strict=True):
        assert row.new == alone(model, expected).new
        torch.testing.assert_close(torch.stack(row.logits), torch.stack(expected.logits), rtol=1e-5, atol=1e-5)


def read(model: nn.Module, state: State | None, sizes: Sequence[int]) -> State:
    tokens_T = torch.arange(sum(sizes)) * 5 % 17
    for chunk_T in tokens_T.split(list(sizes)):
        _, state = model(chunk_T[None], state)
    assert state is not None
    return state


def leave_out_others() -> None:
    """Spare the garbage collector what other tests have left, which it would search at each call, for seconds.

    For good: to give it back would give back what tests/conftest.py leaves out, which costs all later tests.
    """
    gc.collect()
    gc.freeze()


def sizes_of(model: nn.Module, state: State) -> dict[str, int]:
    """Return the sizes of the state, of the containers that the modules hold, and of what Python has allocated."""
    while gc.collect():  # until finalizers leave nothing more
        pass
    held = sum(len(x) for module in model.modules() for x in vars(module).values() if isinstance(x, CONTAINERS))
    return {"state": state_bytes(state), "held": held, "allocated": sys.getallocatedblocks()}


@pytest.mark.slow
@pytest.mark.parametrize("part", CASES, ids="-".join)
@torch.no_grad()
def test_nothing_grows_with_the_length_of_a_stream(part: tuple[str, str]) -> None:
    case = subject(*part)
    model = case.build(torch.float32)
    if not is_stream(case, model) or max_context(model) is not None:
        pytest.skip("no endless stream")
    calls = [1] * 950 if THOROUGH else [450] * 2 + [1] * 50
    state, sizes = read(model, None, [90, *[1] * 10]), []
    read(model, state, calls[:1])  # what is made once for calls of this size
    leave_out_others()
    sizes.append(sizes_of(model, state))
    for _ in range(2):
        state = read(model, state, calls)
        sizes.append(sizes_of(model, state))
    assert len({(size["state"], size["held"]) for size in sizes}) == 1
    # Something is made once in either half, by Python or by torch; one object for each call would be as many in both.
    assert min(after["allocated"] - before["allocated"] for before, after in pairwise(sizes)) < 40
    assert all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point())
    assert state.get("position", torch.tensor([2000])).tolist() == [2000]


@pytest.mark.parametrize("kept", [list, dict])
def test_what_grows_is_noticed(kept: Callable[[], Collection[object]]) -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = kept()

        def forward(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
            if isinstance(self.kept, dict):
                self.kept[len(self.kept)] = tokens
            else:
                self.kept.append(tokens)  # type: ignore[attr-defined]
            return tokens, {}

    model = Keeps()
    leave_out_others()
    before = sizes_of(model, read(model, None, [1] * 100))
    after = sizes_of(model, read(model, {}, [1] * 600))
    assert after["held"] == before["held"] + 600
    assert after["allocated"] - before["allocated"] >= 500
