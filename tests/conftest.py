"""A text, a model and an experiment small enough that a run takes a second, and commands run in a test's folder."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
import triton_interpreter  # noqa: F401  # interprets kernels where there is no GPU
import yaml

from archlab.cli import main as cli
from archlab.config import experiment as config
from archlab.config import registry
from archlab.config.experiment import Experiment
from archlab.ops import dispatch
from archlab.ops.native import OPERATIONS
from archlab.ops.native.library import unavailable_reason
from archlab.runtime.toolchain import has_cpp_compiler

if not torch.cuda.is_available():
    # torch's own keeps a stack trace of each call for every kind of accelerator that is not there: half a millisecond.
    torch.manual_seed = torch.default_generator.manual_seed

# The fastest mode of float32 products is measured, on a machine that others disturb, and decides the last digits.
os.environ["ARCHLAB_MATMUL_MODE"] = "none"
# Waiting for the disk, five milliseconds a file: what a test writes need not outlive a loss of power.
os.fsync = lambda descriptor: None

Write: TypeAlias = Callable[..., Path]
Tiny: TypeAlias = Callable[..., Experiment]

THOROUGH = bool(os.environ.get("ARCHLAB_TEST_THOROUGH"))  # set by `make test-thorough`


def seeds(count: int) -> range:
    """Return the seeds of `count` random draws, or of ARCHLAB_TEST_DRAWS, from ARCHLAB_TEST_SEED on."""
    first = int(os.environ.get("ARCHLAB_TEST_SEED", "0"))
    return range(first, first + int(os.environ.get("ARCHLAB_TEST_DRAWS", count)))


needs_compiler = pytest.mark.skipif(not has_cpp_compiler(), reason="no C++ compiler: torch cannot compile for the CPU")

LAYER = {
    "repeat": 2,
    "mixer": {"type": "mega", "shared_dim": 8, "value_dim": 32, "ema": {"type": "ema", "num_dims": 2}},
    "ffn": {"type": "mlp", "hidden_dim": 32},
    "dropout": 0.1,
}
TRAIN = {
    "steps": 12,
    "batch_size": 2,
    "context": 32,
    "lr": 1e-2,
    "warmup": 2,
    "eval_every": 4,
    "eval_tokens": 128,
    "checkpoint_every": 3,
    "log_every": 1,
    "device": "cpu",
    "precision": "float32",
    "compile": "off",
    "tensorboard": False,
}


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the tests: torch's modules, and the tests.

    It walks through all of them again and again while the compiler allocates, a sixth of whose time that is.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(300_000, 20, 100)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of a few kB."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(300)))
    return file


def _writer(folder: Path) -> Write:
    def to_file(tree: Any, name: str = "experiment.yaml") -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree, sort_keys=False))
        return folder / name

    return to_file


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write YAML data as a file of the test's own folder."""
    return _writer(tmp_path)


def _write_tiny(write: Write, text: Path) -> Path:
    model = {"type": "stack", "vocab_size": 256, "dim": 32, "layers": [LAYER]}
    task = {"type": "text", "path": str(text), "eval_bytes": 256}
    return write({"model": model, "task": task, "train": TRAIN}, "tiny.yaml")


@pytest.fixture
def tiny_file(write: Write, text: Path) -> Path:
    """The YAML file of a training run of 12 updates."""
    return _write_tiny(write, text)


@pytest.fixture
def tiny(tiny_file: Path) -> Tiny:
    """Load the tiny experiment with overrides."""
    return lambda *overrides: config.load(tiny_file, overrides)


@pytest.fixture(autouse=True, scope="session")
def state_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remember the plugins of tests, which are trusted as a user's own, somewhere else than in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True, scope="session")
def tokens_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tokens of the tests' texts somewhere else than in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHLAB_TOKENS", str(tmp_path_factory.mktemp("tokens")))
        yield


@pytest.fixture(autouse=True)
def plugins_of_one_test() -> Iterator[None]:
    """Forget the components that a test registered."""
    last = next(reversed(sys.modules))
    known = set(registry._registered)
    yield
    for key in set(registry._registered) - known:
        if not registry._registered[key].cls.__module__.startswith("archlab.components."):
            del registry._registered[key]
    for name in list(takewhile(lambda name: name != last, reversed(sys.modules))):  # the new ones, few of thousands
        if name.startswith("archlab_plugin_"):
            del sys.modules[name]


@pytest.fixture(params=["pytorch", "native"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test without backends, and with the C++ backend of the operation that its module names."""
    monkeypatch.setattr(dispatch, "_BACKENDS", {})
    if request.param == "native":
        operation = request.module.OPERATION
        if not OPERATIONS[operation].is_available():
            pytest.skip(f"no C++ backends: {unavailable_reason()}")
        dispatch.register_backend(operation, "cpu", getattr(OPERATIONS[operation], operation))


class Finished:
    """What a command left on the screen."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run archlab in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def archlab(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["archlab", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Finished(status, *capsys.readouterr())

    return archlab


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A run of two updates of a tiny model."""
    from archlab.training.trainer import train  # not above, where no kernel may be defined yet

    folder = tmp_path_factory.mktemp("trained")
    small = ["train.steps=2", "train.batch_size=2", "train.context=32", "train.compile=off", "train.precision=float32"]
    task = f"task={{type: text, path: {text}, eval_bytes: 256}}"
    layers = "model.layers=[{mixer: {type: attention, num_heads: 2}, ffn: {type: swiglu, hidden_dim: 32}}]"
    experiment = config.load("llama2_tiny", [layers, "model.dim=32", *small, task, "train.tensorboard=false"])
    train(experiment, folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def trained_whole(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A run of the tiny experiment that nothing disturbed, not to be written to."""
    from archlab.training.trainer import train

    folder = tmp_path_factory.mktemp("whole")
    train(config.load(_write_tiny(_writer(folder), text)), folder / "run")
    return folder / "run"


@pytest.fixture
def whole(trained_whole: Path, tmp_path: Path) -> Path:
    """A run that nothing disturbed, of the test's own."""
    shutil.copytree(trained_whole, tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export without the process that proves each, for tests of something else."""
    monkeypatch.setattr("archlab.interop.exporting.export.prove", lambda *arguments: "")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a search pretend to train, with losses at once; called, the fixture gives it other losses."""
    from search_helpers import pretend, replace_training

    def install(**loss: Callable[..., float]) -> None:
        replace_training(monkeypatch, pretend(**loss))

    install()
    return install
