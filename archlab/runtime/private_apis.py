"""Private APIs of torch, Optuna and Python, each behind a public function."""

# No other module uses them: when a release moves one, one test fails and one function changes. The comments name the
# reason for each and the version that it was checked with; the tests of all pass with torch 2.12.0 too. A model that
# is exported takes the functions that it calls along.

from __future__ import annotations

import copy
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage, RDBStorage
    from optuna.trial import FrozenTrial, Trial, TrialState

# torch.compile wraps a module in another, which holds it under this name (torch 2.13).
COMPILED_PREFIX = "_orig_mod."
# Imports of the first traced operation, which take seconds: a fork server imports them once (torch 2.13).
TRACER = "torch._dynamo"


class AOTRunner(Protocol):
    """A compiled library loaded into this process."""

    def run(self, inputs: list[Tensor], /) -> list[Tensor]:
        """Return the outputs."""

    def get_constant_names_to_original_fqns(self) -> dict[str, str]:
        """Map the library's names of constants to those of the traced graph."""

    def update_constant_buffer(
        self, constants: dict[str, Tensor], use_inactive: bool, check_full_update: bool, user_managed: bool, /
    ) -> None:
        """Set the constants; with `user_managed` they are borrowed and not copied."""


def has_fork_server() -> bool:
    """Return whether multiprocessing has started its fork server."""
    # The public ensure_running only starts one (Python 3.11 to 3.13).
    server: Any = forkserver._forkserver
    return server._forkserver_pid is not None


def use_fork_server(address: str, alive_fd: int, pid: int) -> None:
    """Have multiprocessing use a fork server that it has not started."""
    # It starts its own as a new interpreter, which imports everything again (Python 3.11 to 3.13).
    server: Any = forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, alive_fd, pid


def assert_async(condition: Tensor, message: str) -> None:
    """Raise RuntimeError if a scalar tensor is false, on a GPU at its next synchronization."""
    # The public torch._check and `assert` read the value, which waits for the GPU and breaks a graph (torch 2.13).
    torch._assert_async(condition, message)


class DispatchMode(TorchDispatchMode):
    """Base class of context managers that see every operation below autograd, in `__torch_dispatch__`."""

    # The class that all of torch's own counters derive from; its module is private (torch 2.13).

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # A mode is else hidden from the compiler at each operation, which takes longer than most of them do here, where
        # nothing is compiled (torch 2.13).
        return False


def is_device_query(operation: object) -> bool:
    """Return whether an operation asks a tensor without memory for its device, which is an attribute of it."""
    # Autograd does so several times an operation, and modes are asked as for any other (torch 2.13).
    return operation is torch.ops.prim.device.default


class _FakeTensors(FakeTensorMode):
    """Torch's mode of tensors without memory, which spends less on each operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as above

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].device if is_device_query(func) else self.dispatch(func, types, args, kwargs or {})


def fake_tensors() -> AbstractContextManager[Any]:
    """Make tensors without memory that are otherwise those of their device: kernels, autocast and autograd are its."""
    # Of meta tensors autocast and the choice of kernels know nothing (torch 2.13).
    return _FakeTensors(allow_non_fake_inputs=True)


@contextmanager
def fake_process_group(rank: int, count: int) -> Iterator[None]:
    """Have this process act as one of several ranks, which need not exist: collectives return at once."""
    # The backend is public, and the store that it needs is in a module for tests (torch 2.13). Below, collectives are
    # given a rule for tensors without memory.
    import torch.distributed as dist
    import torch.distributed._tools.fake_collectives  # noqa: F401
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


class MemoryTracker(Protocol):
    """A context in which the memory of tensors is followed from operation to operation."""

    def __enter__(self) -> MemoryTracker:
        """Begin."""
        ...

    def __exit__(self, *error: object) -> None:
        """End."""
        ...

    def track_external(self, *objects: object) -> None:
        """Count models, optimizers and tensors that were made before."""

    def get_tracker_snapshot(self, kind: str) -> dict[torch.device, dict[Any, int]]:
        """Return the bytes by device, and by kind of tensor or as "Total", now ("current") or at the "peak"."""
        ...


def memory_tracker() -> MemoryTracker:
    """Return torch's tracker of memory."""
    # All of its module is private (torch 2.13). Its figures of each module are left out: they allow no module to be
    # called twice in an update, and the peak of all does not need them.
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker: Any = MemTracker()
    for hook in ("_pre_fw_hook", "_post_fw_hook", "_pre_bw_hook", "_post_bw_hook"):
        setattr(tracker, hook, lambda *_: None)
    followed: MemoryTracker = tracker
    return followed


def flop_formula(operation: object) -> Callable[..., int] | None:
    """Return the formula registered for an operation's FLOPs, of its inputs and `out_val`, or None."""
    # `register_flop_formula` is public, but its registry is not (torch 2.13).
    from torch.utils.flop_counter import flop_registry

    return flop_registry.get(operation)


def has_triton() -> bool:
    """Return whether torch can compile Triton kernels for this machine's accelerator."""
    # torch's own condition (package, driver, compute capability), which no public function states (torch 2.13).
    from torch.utils import _triton

    return _triton.has_triton()


def inductor_cache_dir() -> str:
    """Return the directory in which torch.compile keeps its results, and create it."""
    # The variable TORCHINDUCTOR_CACHE_DIR is public; its default is not (torch 2.13).
    from torch._inductor.runtime import cache_dir_utils

    return cache_dir_utils.cache_dir()


def cache_graphs_with_autocast() -> None:
    """Have torch.compile cache graphs that enter or leave autocast."""
    # Its cache refuses functions that it does not know to be pure. Both functions depend on their arguments alone,
    # and the autocast state around a graph is part of the cache's key (torch 2.13).
    names = ("torch.amp.autocast_mode._enter_autocast", "torch.amp.autocast_mode._exit_autocast")
    torch._inductor.config.unsafe_marked_cacheable_functions |= dict.fromkeys(names, torch.__version__)


def quote_library_dirs() -> None:
    """Have torch's C++ compiler link where torch or Python is in a directory with a space, as uv's are on macOS."""
    # It quotes the directories of headers, and those of libraries only after torch 2.13.
    from torch._inductor.cpp_builder import BuildOptionsBase, CppBuilder

    command = CppBuilder("x", "x.cpp", BuildOptionsBase(libraries_dirs=["a b"])).get_command_line()
    if "-La b" in shlex.split(command):
        return
    unquoted = BuildOptionsBase.get_libraries_dirs

    def get_libraries_dirs(self: BuildOptionsBase) -> list[str]:
        return [shlex.quote(each) for each in unquoted(self)]

    BuildOptionsBase.get_libraries_dirs = get_libraries_dirs  # type: ignore[method-assign]


def compile_error() -> type[Exception]:
    """Return the base class of the errors that torch.compile raises while it traces."""
    # torch.compiler exports no exception (torch 2.13).
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


@contextmanager
def trace_compiled_modules_eagerly() -> Iterator[None]:
    """Let make_fx trace through the eager forward of modules that are compiled."""
    # make_fx raises RuntimeError at them otherwise, also under torch.compiler.set_stance("force_eager") (torch 2.13).
    with torch._dynamo.config.patch(error_on_nested_fx_trace=False):
        yield


def is_data_dependent_error(error: RuntimeError) -> bool:
    """Return whether make_fx failed because Python code reads a tensor's value."""
    # In its mode `real` make_fx raises a bare RuntimeError; only the symbolic modes have a type for it (torch 2.13).
    return "data-dependent control flow" in str(error)


def is_mutating_op(target: object) -> bool:
    """Return whether the target of a graph's node is an operator that writes to one of its arguments."""
    # Node.is_impure is true of random operators too; the schema says precisely this (torch 2.13).
    from torch._ops import OpOverload

    return isinstance(target, OpOverload) and target._schema.is_mutable


def cpu_flash_attention() -> tuple[Any, Any]:
    """Return the operators behind `scaled_dot_product_attention` on a CPU, forward and backward."""
    # The public function chooses among kernels whose names all begin with an underscore (torch 2.13).
    aten = torch.ops.aten
    return (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )


class AttentionKernels(NamedTuple):
    """Operators of FlashAttention and of the memory-efficient kernel."""

    forward: tuple[Any, Any]
    backward: tuple[Any, Any]


def gpu_attention_kernels() -> AttentionKernels:
    """Return the operators behind `scaled_dot_product_attention` on a GPU."""
    # The public function has no option for how its backward pass sums (torch 2.13).
    aten = torch.ops.aten
    return AttentionKernels(
        (aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_efficient_attention),
        (aten._scaled_dot_product_flash_attention_backward, aten._scaled_dot_product_efficient_attention_backward),
    )


def argument_names(operation: Any) -> list[str]:
    """Return the names of an operator's arguments, in order."""
    # An operator documents its signature in its schema alone (torch 2.13).
    return [argument.name for argument in operation._schema.arguments]


def is_dtype_conversion(target: object) -> bool:
    """Return whether the target of a graph's node is an operator that only changes dtype or device."""
    # make_fx decomposes the public aten.to.dtype to _to_copy (torch 2.13).
    return target in (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default)


def aot_compile(program: GraphModule, inputs: tuple[Tensor, ...], library: Path, options: dict[str, Any]) -> Path:
    """Compile a graph ahead of time to a shared library for the CPU and return its path."""
    quote_library_dirs()
    # The documented aoti_compile_and_package takes an ExportedProgram; this is a graph of make_fx (torch 2.13).
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # copies a tree through an API that torch 2.13 deprecates
        options = options | {"aot_inductor.output_path": str(library)}
        return Path(str(torch._inductor.aot_compile(program, inputs, options=options)))


def load_aot_library(library: Path) -> AOTRunner:
    """Load a library that `aot_compile` built."""
    # The documented aoti_load_package reads a package, not a bare library (torch 2.13). 1 is the number of models:
    # calls are never concurrent.
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)


def compile_package(program: Any, package: Path, options: dict[str, Any]) -> None:
    """Compile a program of torch.export to a package of AOTInductor."""
    quote_library_dirs()
    # Documented under this name, in a module whose own begins with an underscore (torch 2.13).
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # copies a tree through an API that torch 2.13 deprecates
        torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)


def load_package(package: str) -> Callable[..., Any]:
    """Load a package of AOTInductor."""
    # As above; compiled exports take this function along (torch 2.13).
    return torch._inductor.aoti_load_package(package)


def op_namespace(target: object) -> str | None:
    """Return the namespace of an operator, such as aten, or None for a function that is not an operator."""
    # The public torch.ops makes them, and has no type for them (torch 2.13).
    from torch._ops import OperatorBase, OpOverload

    if isinstance(target, OpOverload):
        return target.namespace
    return "higher_order" if isinstance(target, OperatorBase) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on a GPU or on the CPU."""
    # torch's allocator for the CPU raises a bare RuntimeError (torch 2.13).
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def is_compiler_failure(error: BaseException) -> bool:
    """Return whether torch.compile failed because a compiler is missing or could not do its work."""
    # torch.compiler exports no exception (torch 2.13). Importing these takes two seconds, and before the compiler is
    # imported there are none.
    exc = sys.modules.get("torch._inductor.exc")
    if exc is not None and isinstance(error, exc.CppCompileError):
        # An error in the generated code is the model's: the same code would fail again. A missing header, a full disk
        # and a compiler that crashed are reported without a place in the code, or as fatal.
        return re.search(r"^[^\s:]+:\d+:\d+: error: ", error.output, re.MULTILINE) is None
    return exc is not None and isinstance(error, exc.InvalidCxxCompiler | exc.TritonMissing)


# cudaError_t: a wrong argument, too little memory, an illegal address and a failed assertion are a model's own doing.
_CUDA_ERRORS_OF_A_MODEL = (1, 2, 9, 98, 700, 701, 710, 716, 717, 718)


def is_lost_accelerator(error: BaseException) -> bool:
    """Return whether a GPU failed by itself: its driver, its memory (ECC), its connection."""
    # The type is public; its attribute is set by torch's C++ and documented nowhere (torch 2.13).
    return (
        isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) not in _CUDA_ERRORS_OF_A_MODEL
    )


def breaks_process(error: BaseException) -> bool:
    """Return whether no CUDA call of this process can succeed after an error, such as a kernel's failed assertion."""
    # torch documents neither the attribute nor which errors these are: CUDA calls them sticky (torch 2.13).
    return isinstance(error, torch.AcceleratorError) and 700 <= (getattr(error, "error_code", None) or 0) < 800


def cached_storage(storage: RDBStorage) -> BaseStorage:
    """Return a storage that reads finished trials once, as Optuna itself wraps the storages that it opens."""
    # Optuna wraps an RDBStorage alone, and not a class around one; its function is not documented (Optuna 5.0).
    from optuna.storages import get_storage

    return get_storage(storage)


def study_of_trials(study: Study, is_own: Callable[[FrozenTrial], bool]) -> Study:
    """Return a view of a study that has only some of its trials, for samplers and pruners."""
    # They call `_get_trials`, and Optuna's own views, of Hyperband's brackets, override it too (Optuna 5.0).
    from optuna import Study

    class StudyView(Study):
        def _get_trials(
            self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
        ) -> list[FrozenTrial]:
            return [trial for trial in study._get_trials(deepcopy, states, use_cache) if is_own(trial)]

    view = copy.copy(study)
    view.__class__ = StudyView
    return view


def set_trial_attr(study: Study, trial: FrozenTrial, name: str, value: object) -> None:
    """Set a user attribute of a trial that another worker started."""
    # FrozenTrial.set_user_attr changes its copy alone, and only the worker that asked for a trial has a live Trial,
    # whose set_user_attr writes to the storage (Optuna 5.0).
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


def open_trial(study: Study, trial: FrozenTrial) -> Trial:
    """Return an open trial that this process, or another one, has asked for and left."""
    # Trial's constructor is public, and the number of a trial in its storage is not (Optuna 5.0).
    from optuna.trial import Trial

    return Trial(study, trial._trial_id)
