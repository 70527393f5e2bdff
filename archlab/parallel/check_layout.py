"""Whether a layout fits an experiment, and which part of an update's sequences is whose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.config.parallel import PATH, Layout, divide_sequences, require_chunks
from archlab.config.train_config import OPTIMIZER_PATH, TrainConfig
from archlab.data.documents import NUM_GROUPS, Document, group_by_length
from archlab.data.task import Task
from archlab.errors import ConfigError
from archlab.modeling.backbone import get_further_targets, is_causal, is_per_sample
from archlab.modeling.cost import Cost, estimate_cost
from archlab.modeling.optimizer import update_rule
from archlab.modeling.trace_cache import find_trace, step_of
from archlab.ops.linear_cross_entropy import IGNORED
from archlab.parallel.division import plan_division
from archlab.parallel.ranks import Ranks
from archlab.parallel.tensor import build_part


def require_fit(experiment: Experiment, model: nn.Module, layout: Layout) -> None:
    """Raise ConfigError unless a layout divides an experiment; the model may be on meta."""
    if layout.devices == 1:
        return
    train = experiment.train
    _require_rule(train, layout)
    divide_sequences(layout, train.batch_size, train.accumulate)
    require_chunks(layout, train.context)
    if layout.tensor > 1:
        plan_division(model, layout.tensor)
        if train.start_from is not None and train.start_from.match == "grow":
            raise ConfigError("train.start_from.match", f"'grow' reads whole weights, which {PATH}.tensor divides")
    if layout.chunk > 1:
        _require_stream(experiment, model, layout)
    if layout.shard > 1 and train.compile == "model":
        raise ConfigError("train.compile", f"'model' does not go with {PATH}.shard, which gathers blocks: use block")
    if layout.tensor > 1 and train.compile == "model":
        # Parts of a vocabulary differ in size, and so may the order of sums in graphs of all of a model.
        raise ConfigError(
            "train.compile", f"'model' does not go with {PATH}.tensor, whose sums have an order: use block"
        )
    if train.budget is not None and train.budget.kind == "seconds":
        problem = "seconds are measured in one process; with several give tokens, flops or train.steps"
        raise ConfigError("train.budget", problem)


def _require_rule(train: TrainConfig, layout: Layout) -> None:
    rule = update_rule(train)
    for axis in ("shard", "tensor"):
        if layout.to_dict()[axis] > 1 and axis not in rule.divided_by:
            problem = f"{train.optimizer_name!r} updates whole tensors, which {PATH}.{axis} divides"
            raise ConfigError(OPTIMIZER_PATH, problem)


def _require_stream(experiment: Experiment, model: nn.Module, layout: Layout) -> None:
    task: Task = experiment.task.factory()()
    if not is_causal(model):
        problem = "the model sees later tokens, which another rank has"
    elif is_per_sample(model) or task.per_sample:
        problem = "the model answers once a sample, and not at every step"
    elif task.vocab_size is None:
        problem = f"the inputs of the task {experiment.task.name!r} are no tokens"
    elif get_further_targets(model) is not None:
        problem = "its head predicts further tokens, of which another rank has some"
    elif experiment.train.documents == "separate":
        problem = "train.documents has rows of many lengths: divide by shard"
    else:
        return
    raise ConfigError(f"{PATH}.chunk", f"{layout.chunk} cuts the context of a stream, but {problem}")


def memory_of_rank(experiment: Experiment, cost: Cost, layout: Layout) -> tuple[int, int]:
    """Return the bytes that an update takes in each rank, and those of them that are weights, gradients and moments.

    `cost` is that of the experiment.
    """
    fixed = 2 * cost.weight_bytes + cost.optimizer_bytes
    if layout.devices == 1:
        return cost.memory_per_device, fixed
    rows, _ = divide_sequences(layout, experiment.train.batch_size, experiment.train.accumulate)
    train = replace(experiment.train, batch_size=rows, context=experiment.train.context // layout.chunk)
    local = replace(experiment, train=train)
    if layout.tensor > 1:
        trace = find_trace(step_of(local, build_part(experiment.model, layout.tensor), layout.tensor))
        peak, fixed = trace.peak_bytes, 2 * trace.weight_bytes + trace.optimizer_bytes
    else:
        peak = estimate_cost(local).memory_per_device
    own = fixed // layout.shard
    return peak - fixed + own, own


@dataclass(frozen=True)
class Work:
    """The part of each update that is one rank's: `accumulate` micro-batches of `rows` sequences, cut to `context`."""

    train: TrainConfig
    rows: int
    accumulate: int
    context: int
    data_index: int
    chunk_index: int
    is_alone: bool

    def batches(self, task: Task, step: int, micro_batch: int) -> list[tuple[Tensor, Tensor]]:
        """Return inputs and targets of a micro-batch of an update, counted from 0; documents apart come in several."""
        begin = (self.data_index * self.accumulate + micro_batch) * self.rows
        if self.train.documents == "separate":
            return self._of_documents(read_documents(task, self.train, step, begin, begin + self.rows))
        inputs, targets = read_rows(task, self.train, step, begin, begin + self.rows)
        if self.context == self.train.context:
            return [(inputs, targets)]
        piece = slice(self.chunk_index * self.context, (self.chunk_index + 1) * self.context)
        return [(inputs[:, piece], targets[:, piece])]

    def _of_documents(self, documents: list[Document]) -> list[Document]:
        """Return batches of documents, as many in each rank: ranks gather weights together."""
        batches = group_by_length(documents)
        nothing = torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORED)
        return batches if self.is_alone else batches + [nothing] * (NUM_GROUPS - len(batches))


def divide_work(train: TrainConfig, ranks: Ranks) -> Work:
    """Return the part of an update that is a rank's."""
    rows, accumulate = divide_sequences(ranks.layout, train.batch_size, train.accumulate)
    context = train.context // ranks.layout.chunk
    is_alone = ranks.count == 1
    return Work(train, rows, accumulate, context, ranks.data_index, ranks.chunk_index, is_alone)


def read_rows(task: Task, train: TrainConfig, step: int, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Return the sequences `begin` to `end` of an update, whichever ranks there are: the order is one process's."""
    size = train.batch_size
    number, offset = divmod(begin, size)
    if not offset and end - begin == size:
        # Batches are a function of this number alone, so that a resumed run reads the same ones.
        return task.batch("train", step * train.accumulate + number, size, train.context, train.seed)
    first = step * train.accumulate * size
    return task.rows("train", first + begin, first + end, **_sizes(train))


def read_documents(task: Task, train: TrainConfig, step: int, begin: int, end: int) -> list[Document]:
    """Return the documents in the sequences `begin` to `end` of an update."""
    first = step * train.accumulate * train.batch_size
    return task.documents("train", first + begin, first + end, **_sizes(train))


def _sizes(train: TrainConfig) -> dict[str, int]:
    return {"batch_size": train.batch_size, "context": train.context, "seed": train.seed}
