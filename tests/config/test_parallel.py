import pytest

from archlab import ConfigError
from archlab.config.experiment import load, read
from archlab.config.parallel import (
    Layout,
    ParallelConfig,
    divide_sequences,
    layout_of,
    parse_parallel,
    require_chunks,
)


def test_replicate_takes_the_devices_that_are_left() -> None:
    assert ParallelConfig(shard=8, chunk=2).layout(256) == Layout(replicate=16, shard=8, tensor=1, chunk=2)
    assert ParallelConfig(replicate=2, shard=4).layout(8).data == 8


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        (ParallelConfig(replicate=2, shard=4), 16, "parallel: replicate 2 * shard 4 is 8 devices, not 16"),
        (ParallelConfig(shard=3), 8, "parallel: replicate 2 * shard 3 is 6 devices, not 8"),
        (ParallelConfig(tensor=8), 4, "parallel: tensor 8 is 8 devices, not 4"),
    ],
)
def test_a_layout_of_another_number_of_devices_is_refused(config: ParallelConfig, devices: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        config.layout(devices)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"shards": 2}, "parallel: unknown key 'shards'; did you mean 'shard'?"),
        ({"tensor": 0}, "parallel.tensor: 0 is not at least 1"),
        (8, "parallel: 8 is not a mapping of axes to numbers of devices"),
    ],
)
def test_an_invalid_section_is_refused_by_its_path(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_parallel(value)
    assert str(error.value) == message


def test_an_experiment_keeps_its_layout_and_one_without_has_no_section() -> None:
    assert "parallel" not in load("megalodon_tiny").resolved
    experiment = load("megalodon_tiny", ["parallel.shard=8"])
    assert experiment.resolved["parallel"] == {"replicate": None, "shard": 8, "tensor": 1, "chunk": 1}
    assert load(experiment.resolved).parallel == experiment.parallel
    assert read("megalodon_tiny").knob("parallel.chunk") is not None


def test_a_layout_needs_its_number_of_processes() -> None:
    assert layout_of(None) == layout_of(ParallelConfig(shard=1)) == Layout()
    assert layout_of(None, 4) == Layout(replicate=4)
    with pytest.raises(
        ConfigError, match="a layout of 8 devices, and this is one process: start 8 of them with --proc"
    ):
        layout_of(ParallelConfig(shard=8))
    with pytest.raises(ConfigError, match="parallel: shard 8 is 8 devices, not 2"):
        layout_of(ParallelConfig(shard=8), 2)


@pytest.mark.parametrize(
    ("layout", "batch_size", "accumulate", "work"),
    [
        (Layout(), 8, 2, (8, 2)),
        (Layout(replicate=4), 8, 2, (4, 1)),
        (Layout(shard=2, chunk=4), 8, 2, (8, 1)),
        (Layout(replicate=2), 2, 5, (1, 5)),
        (Layout(replicate=4), 6, 4, (6, 1)),
    ],
)
def test_ranks_have_a_micro_batch_at_most(
    layout: Layout, batch_size: int, accumulate: int, work: tuple[int, int]
) -> None:
    assert divide_sequences(layout, batch_size, accumulate) == work
    assert work[0] * work[1] * layout.data == batch_size * accumulate


def test_what_a_layout_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"replicate 2 \* shard 2 does not divide the 6 sequences of an update"):
        divide_sequences(Layout(replicate=2, shard=2), 3, 2)
    with pytest.raises(ConfigError, match=r"parallel\.chunk: 3 does not divide train\.context, 32"):
        require_chunks(Layout(chunk=3), 32)
