"""Log-likelihoods of tokens after others, many rows at a time, each as it would be alone.

B rows, S scored tokens, T tokens read at once, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from archlab.inference.token_stream import CHUNK
from archlab.modeling.backbone import apply_head, get_features
from archlab.modeling.build import device_of, eval_mode
from archlab.modeling.state import State, init_state
from archlab.ops.dtypes import at_least_float32, without_autocast
from archlab.ops.linear_cross_entropy import MAX_CHUNK_LOGITS

# The tokens before, and those whose likelihood is asked for.
Continuation: TypeAlias = tuple[Sequence[int], Sequence[int]]
# The sum of the logarithms of the probabilities, in nats, and whether each token was the most likely one.
Score: TypeAlias = tuple[float, bool]


@dataclass
class _Row:
    """Tokens that are read once, and the requests that differ in the token after them alone, or in where they begin."""

    inputs: tuple[int, ...]
    asked: list[tuple[int, int, int]] = field(default_factory=list)  # index, tokens scored, the last of them
    logprobs: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)

    @property
    def start(self) -> int:
        """The first position whose next token is scored."""
        return len(self.inputs) - max(count for _, count, _ in self.asked)

    def add(self, position: int, logits_SV: Tensor) -> None:
        """Score the tokens after some positions; of the last one the logits are kept, since requests differ there."""
        logits_SV = at_least_float32(logits_SV).log_softmax(-1)
        targets = torch.tensor(self.inputs[position + 1 : position + 1 + len(logits_SV)], device=logits_SV.device)
        known_SV = logits_SV[: len(targets)]
        self.logprobs += known_SV.gather(1, targets[:, None])[:, 0].double().tolist()
        self.hits += (known_SV.argmax(-1) == targets).tolist()
        self.last_V = logits_SV[-1]

    def scores(self) -> Iterator[tuple[int, Score]]:
        """Yield the score of each request by its index."""
        best = int(self.last_V.argmax())
        for index, count, last in self.asked:
            before = len(self.logprobs) - (count - 1)
            is_greedy = all(self.hits[before:]) and last == best
            yield index, (sum(self.logprobs[before:]) + float(self.last_V[last]), is_greedy)


def score_continuations(
    model: nn.Module, requests: Sequence[Continuation], *, batch_size: int, progress: Callable[[int, int], None]
) -> list[Score]:
    """Return the score of each continuation of at least one token after at least one.

    Rows of different lengths are read together as far as the shortest goes, and the longer ones continue from their
    states: no layer sees padding, whatever it does with it, and memory does not grow with a row's length unless the
    state does. Requests with the same tokens but the last one, as answers of one token have, are read once. `progress`
    is called with the number of requests done and their total.
    """
    scores = dict[int, Score]()
    size = batch_size if all(len(tensor) == 2 for tensor in init_state(model, 2).values()) else 1
    waiting = _rows(requests)
    for first in range(0, len(waiting), size):
        rows = waiting[first : first + size]
        with eval_mode(model), torch.no_grad():
            _read(model, rows)
        scores.update(score for row in rows for score in row.scores())
        progress(len(scores), len(requests))
    return [scores[index] for index in range(len(requests))]


def _rows(requests: Sequence[Continuation]) -> list[_Row]:
    """Return the sequences to read, the longest first."""
    rows = dict[tuple[int, ...], _Row]()
    for index, (context, continuation) in enumerate(requests):
        assert context, "a model needs at least one token to continue"
        inputs = (*context, *continuation[:-1])
        row = rows.setdefault(inputs, _Row(inputs))
        row.asked.append((index, len(continuation), continuation[-1]))
    return sorted(rows.values(), key=lambda row: len(row.inputs), reverse=True)


def _read(model: nn.Module, rows: Sequence[_Row]) -> None:
    """Read rows, the longest first, from one end of a row or of a chunk to the next."""
    ends = {len(row.inputs) for row in rows}
    state: State | None = None
    for first, stop in pairwise(sorted({0, *ends, *range(CHUNK, max(ends), CHUNK)})):
        alive = [row for row in rows if len(row.inputs) >= stop]
        tokens_BT = torch.tensor([row.inputs[first:stop] for row in alive], device=device_of(model))
        if state is not None:
            state = {name: tensor[: len(alive)] for name, tensor in state.items()}
        outputs, state, head = _call(model, tokens_BT, state)
        for index, row in enumerate(alive):
            start = max(row.start, first)
            if start < stop:
                _score(row, start, outputs[index : index + 1, start - first :], head)


def _call(
    model: nn.Module, tokens_BT: Tensor, state: State | None
) -> tuple[Tensor, State, Callable[[Tensor], Tensor] | None]:
    """Return the head's inputs at each position, the state and the head; logits if the model has no such method."""
    features = get_features(model)
    if features is None:
        logits_BTV, state = model(tokens_BT, state)
        return logits_BTV, state, None
    x_BTD, state = features(tokens_BT, state)
    return x_BTD, state, partial(apply_head, model)


def _score(row: _Row, start: int, x_1SD: Tensor, head: Callable[[Tensor], Tensor] | None) -> None:
    """Score a row's tokens from a position on, some at a time where the logits of all would be many."""
    width = x_1SD.shape[-1] if head is None else head(x_1SD[:, :1]).shape[-1]
    for part in x_1SD.split(max(1, MAX_CHUNK_LOGITS // width), 1):
        logits_1SV = part if head is None else head(part)
        with without_autocast(logits_1SV):
            row.add(start, logits_1SV[0])
        start += part.shape[1]
