"""A training step on one device of a layout: its memory by term and its time by term."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from archlab.config.experiment import Experiment
from archlab.config.parallel import Layout, divide_sequences
from archlab.modeling.step_trace import StepTrace
from archlab.parallel.gradients import BUCKET
from archlab.parallel.relay import num_pieces
from archlab.planning.communication import Links
from archlab.planning.device import Device
from archlab.planning.memory import process_bytes, staged_bytes
from archlab.planning.roofline import step_time
from archlab.planning.sharded_memory import peak_moment
from archlab.planning.workload import Workload

FLOAT32 = 4
RANK_REDUCE = "archlab.rank_reduce"  # the operation of sums over the axis tensor


@dataclass(frozen=True)
class MemoryTerms:
    """Bytes of one device at the peak of a step.

    `gathered` are the weights of the blocks that FSDP has whole at a time, and its buffers for weights and gradients;
    `activations` include gradients that it has not divided by then, `gradients` those that are there. `context` is the
    process (on a CPU the interpreter with its libraries, and its allocator's cache), `communication` buffers of
    collectives, `allocator` the loss to fragmentation, `staged` the copies that a checkpoint is written from while
    training continues: of a GPU's process they are in the host's memory.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int = 0
    context: int = 0
    communication: int = 0
    allocator: int = 0
    staged: int = 0

    @property
    def tensors(self) -> int:
        """The bytes of tensors, which a tracker of tensors sees."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.gathered

    @property
    def total(self) -> int:
        """The bytes in all."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class TimeTerms:
    """Seconds of an update: bound by arithmetic, by memory, by launches in eager mode, by the links, the optimizer."""

    compute: float
    memory: float
    launch: float
    communication: float
    optimizer: float

    @property
    def total(self) -> float:
        """The seconds in all."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class ShardedStep:
    """The demands of a layout on each device in an update."""

    layout: Layout
    micro_batch: int
    accumulate: int
    memory: MemoryTerms
    time: TimeTerms


@dataclass(frozen=True)
class Setting:
    """The parts common to all layouts of a plan: experiment (its precision resolved), work and device.

    `compiled` says whether blocks are, and `can_chunk` whether a sequence may be cut.
    """

    experiment: Experiment
    workload: Workload
    device: Device
    compiled: bool
    can_chunk: bool

    @property
    def sequences(self) -> int:
        """The sequences of an update, which every layout divides."""
        return self.experiment.train.batch_size * self.experiment.train.accumulate

    @property
    def context(self) -> int:
        """The tokens of a sequence."""
        return self.experiment.train.context

    @property
    def compute_share(self) -> float:
        """The size of the dtype that matrix products read, as a share of float32's."""
        return 0.5 if self.experiment.train.precision == "bfloat16" else 1.0


def shard_step(setting: Setting, layout: Layout) -> ShardedStep:
    """Return memory and time of an update on each device of a layout, which must divide the sequences."""
    # The experiment's micro-batch is the batch of one device at a time, under any layout.
    train = setting.experiment.train
    micro, accumulate = divide_sequences(layout, train.batch_size, train.accumulate)
    trace = setting.workload.at(micro, layout.tensor)
    memory = _memory(setting, layout, trace, micro, accumulate)
    return ShardedStep(layout, micro, accumulate, memory, _time(setting, layout, trace, micro, accumulate))


def _memory(setting: Setting, layout: Layout, trace: StepTrace, micro: int, accumulate: int) -> MemoryTerms:
    weights, optimizer = trace.weight_bytes // layout.shard, trace.optimizer_bytes // layout.shard
    if layout.shard > 1:
        gradients, activations, gathered = _sharded_peak(setting, layout, micro, accumulate)
    else:
        gradients, activations, gathered = trace.gradient_bytes, _activations(setting, layout, micro), 0
    whole = trace.gradient_bytes // layout.shard
    if (summed := whole + _summed_bytes(layout, trace, whole)) > gradients + activations + gathered:
        gradients, activations, gathered = whole, summed - whole, 0
    tensors = weights + gradients + optimizer + activations + gathered
    reserved, is_gpu = setting.device.reserved, setting.device.kind == "gpu"
    tokens = micro * setting.context // layout.chunk
    return MemoryTerms(
        weights,
        gradients,
        optimizer,
        activations,
        gathered,
        round(reserved.context) if is_gpu else process_bytes(tensors, tokens, accumulate),
        round(reserved.communication) if layout.devices > 1 else 0,
        round(reserved.allocator * tensors),
        0 if is_gpu else staged_bytes(weights + optimizer, layout),
    )


def _sharded_peak(setting: Setting, layout: Layout, micro: int, accumulate: int) -> tuple[int, int, int]:
    """Return gradients, activations and unsharded bytes at the peak of a device that has the blocks one at a time."""
    pieces = _pieces(layout, micro)
    memory = setting.workload.memory_at(micro / pieces / layout.chunk, layout.tensor)
    moment = peak_moment(memory, layout.shard, pieces=pieces, again=accumulate > 1)
    carried = micro * _carried_bytes(setting, layout) // layout.tensor if layout.chunk > 1 else 0
    return moment.reduced // layout.shard, moment.alive + carried, moment.gathered


def _pieces(layout: Layout, micro: int) -> int:
    return num_pieces(micro, layout.chunk) if layout.chunk > 1 else 1


def _activations(setting: Setting, layout: Layout, micro: int) -> int:
    """Return the bytes at the peak beyond weights, gradients and optimizer, of a device that has all weights."""
    if layout.chunk == 1:
        return _at_peak(setting.workload.at(micro, layout.tensor))
    # All pieces go forward before the first one goes backward, so that their activations add up.
    pieces = _pieces(layout, micro)
    piece = setting.workload.at(micro / pieces / layout.chunk, layout.tensor)
    carried = micro * _carried_bytes(setting, layout) // layout.tensor
    return (pieces - 1) * piece.activation_bytes + _at_peak(piece) + carried


def _at_peak(trace: StepTrace) -> int:
    return trace.peak_bytes - trace.weight_bytes - trace.optimizer_bytes - trace.gradient_bytes


def _summed_bytes(layout: Layout, trace: StepTrace, gradients: int) -> int:
    """Return the bytes of gradients that are sent at a time to be summed, once activations are gone."""
    if layout.replicate * layout.chunk == 1:
        return 0
    matrix = FLOAT32 * (trace.params - trace.params_non_embedding) // 2 // layout.shard
    return min(gradients, BUCKET + matrix)


def _carried_bytes(setting: Setting, layout: Layout) -> int:
    """Return the bytes of one sequence's states at the edges of a rank's piece, the rank that has most of them."""
    # The last but one: the state that it ends in, the message that has it, and its gradient. A rank between others
    # also has the state that it starts from, and its gradient.
    begin, end = (setting.workload.state_bytes((layout.chunk - after) / layout.chunk) for after in (2, 1))
    return 3 * end + (2 * begin if layout.chunk > 2 else 0)


def _time(setting: Setting, layout: Layout, trace: StepTrace, micro: int, accumulate: int) -> TimeTerms:
    step = [op for op in trace.ops if op.phase != "optimizer" and op.name != RANK_REDUCE]
    update = [op for op in trace.ops if op.phase == "optimizer"]
    once = step_time(step, setting.device, compiled=setting.compiled, share=1 / layout.chunk)
    products = [op for op in update if op.flops]  # of whole matrices, which each rank computes
    own = [op for op in update if not op.flops]
    optimizer = step_time(own, setting.device, compiled=False, share=1 / layout.shard).total
    optimizer += step_time(products, setting.device, compiled=False).total
    each, last = _communication(setting, layout, trace, micro, once.total)
    last += _common_seconds(setting, layout, trace)
    return TimeTerms(
        accumulate * once.compute,
        accumulate * once.memory,
        accumulate * once.launch,
        accumulate * each + last,
        optimizer,
    )


def _communication(
    setting: Setting, layout: Layout, trace: StepTrace, micro: int, computing: float
) -> tuple[float, float]:
    """Return the seconds of each micro-batch, and of the update, in which a device waits for its links."""
    links, share = Links(layout, setting.device), setting.compute_share
    weights = trace.weight_bytes
    # Passes over the activations: forward, backward (which is two of them), and forward again.
    passes = 4 if setting.experiment.train.checkpoint_activations else 3
    # Weights are gathered forward and backward, while the block before computes; gradients are summed in float32. A
    # block that is called several times is divided again after each call.
    sharding = links.gather_seconds("shard", (2 * share + 1) * trace.called_bytes)
    first = links.gather_seconds("shard", share * trace.largest_block_bytes)
    # Sums over the axis tensor, in every pass over them: nothing else can be done meanwhile. One reads and writes.
    summed = sum(op.bytes for op in trace.ops if op.name == RANK_REDUCE) / 2
    products = links.reduce_seconds("tensor", summed / layout.chunk)
    # The state of a stream at a cut: keys and values of attention, or the state of a recurrence.
    carried = links.gather_seconds("chunk", passes * micro * trace.state_bytes * share)
    each = max(0.0, sharding - computing) + first + products + carried
    copies = links.reduce_seconds("replicate", weights / layout.shard)
    # The last backward pass, two thirds of the work, hides the sum over the copies; chunks share all their weights.
    chunks = links.reduce_seconds("chunk", weights / layout.shard)
    return each, max(0.0, copies + chunks - 2 / 3 * computing)


def _common_seconds(setting: Setting, layout: Layout, trace: StepTrace) -> float:
    """Return the seconds in which the ranks of the axis tensor sum the gradients of replicated parameters."""
    if layout.tensor == 1:
        return 0.0
    # Of W bytes D are divided among n, and C are not: W = C + D, and each device has C + D / n.
    whole, n = setting.workload.at(setting.experiment.train.batch_size).weight_bytes, layout.tensor
    common = max(0.0, (n * trace.weight_bytes - whole) / (n - 1))
    return Links(layout, setting.device).reduce_seconds("tensor", common / layout.shard)
