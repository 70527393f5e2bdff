"""Each private API of torch and Optuna is where its wrapper expects it, and does what the wrapper's name says."""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from conftest import needs_compiler
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from archlab.runtime import private_apis
from archlab.storage.tensors import named_tensors


@contextmanager
def uses(api: str) -> Iterator[None]:
    """Fail with the name of the private API that a block uses."""
    versions = f"torch {torch.__version__}, Optuna {optuna.__version__}"
    try:
        yield
    except Exception as error:
        pytest.fail(f"{api} has moved or changed ({versions}): {type(error).__name__}: {error}")


def test_assert_async_raises_if_a_tensor_is_false() -> None:
    with uses("torch._assert_async"):
        private_apis.assert_async(torch.tensor(True), "true")
        with pytest.raises(RuntimeError, match="too long"):
            private_apis.assert_async(torch.tensor(False), "too long")


@pytest.mark.slow
def test_assert_async_compiles_as_one_graph() -> None:
    def run(x: Tensor) -> Tensor:
        private_apis.assert_async(x.sum() > 0, "not positive")
        return x + 1

    with uses("torch._assert_async"):
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))


def test_has_triton_answers() -> None:
    with uses("torch.utils._triton.has_triton"):
        assert private_apis.has_triton() in (True, False)


def test_inductor_cache_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with uses("torch._inductor.runtime.cache_dir_utils.cache_dir"):
        assert private_apis.inductor_cache_dir() == str(tmp_path / "cache")


def test_autocast_functions_are_marked_cacheable_under_names_that_exist() -> None:
    with uses("torch._inductor.config.unsafe_marked_cacheable_functions"):
        private_apis.cache_graphs_with_autocast()
        marked = torch._inductor.config.unsafe_marked_cacheable_functions
    with uses("torch.amp.autocast_mode._enter_autocast"):
        for name in ("_enter_autocast", "_exit_autocast"):
            assert callable(getattr(torch.amp.autocast_mode, name))
            assert marked[f"torch.amp.autocast_mode.{name}"]


def test_a_library_in_a_directory_with_a_space_is_linked() -> None:
    with uses("torch._inductor.cpp_builder.BuildOptionsBase.get_libraries_dirs"):
        from torch._inductor.cpp_builder import BuildOptionsBase, CppBuilder

        for _ in range(2):
            private_apis.quote_library_dirs()
            options = BuildOptionsBase(libraries_dirs=["/a b/lib", "/c/lib"])
            command = shlex.split(CppBuilder("x", "x.cpp", options).get_command_line())
            assert [word for word in command if word.startswith("-L")] == ["-L/a b/lib", "-L/c/lib"]


@pytest.mark.slow
def test_compile_error_is_raised_for_a_graph_break() -> None:
    def run(x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x

    with uses("torch._dynamo.exc.TorchDynamoException"), pytest.raises(private_apis.compile_error()):
        torch.compile(run, fullgraph=True, backend="eager")(torch.ones(2))


def test_make_fx_traces_through_a_compiled_module() -> None:
    inner = nn.Linear(2, 2)
    inner.compile()
    with uses("torch._dynamo.config.error_on_nested_fx_trace"), private_apis.trace_compiled_modules_eagerly():
        program = make_fx(nn.Sequential(inner))(torch.ones(1, 2))
    assert any("addmm" in str(node.target) for node in program.graph.nodes)


def test_a_data_dependent_branch_is_distinguished_from_other_errors() -> None:
    with uses("the message of make_fx at data-dependent control flow"):
        with pytest.raises(RuntimeError) as caught:
            make_fx(lambda x: x + 1 if x.sum() > 0 else x)(torch.ones(2))
        assert private_apis.is_data_dependent_error(caught.value)
    with pytest.raises(RuntimeError) as caught:
        make_fx(lambda x: x @ x)(torch.ones(2, 3))
    assert not private_apis.is_data_dependent_error(caught.value)


def test_an_operator_that_writes_in_place_is_distinguished() -> None:
    with uses("torch._ops.OpOverload._schema.is_mutable"):
        assert private_apis.is_mutating_op(torch.ops.aten.add_.Tensor)
        assert not private_apis.is_mutating_op(torch.ops.aten.add.Tensor)
        assert not private_apis.is_mutating_op(torch.ops.aten.bernoulli.default)
        assert not private_apis.is_mutating_op("add_")


def test_a_conversion_is_traced_as_an_operator_that_is_known_as_one() -> None:
    with uses("torch.ops.aten._to_copy"):
        graph = make_fx(lambda x: x.bfloat16())(torch.ones(2)).graph
        (conversion,) = (node for node in graph.nodes if node.op == "call_function")
        assert private_apis.is_dtype_conversion(conversion.target)
        assert not private_apis.is_dtype_conversion(torch.ops.aten.add.Tensor)


@pytest.mark.services
@needs_compiler
def test_a_graph_is_compiled_to_a_library_whose_constants_are_borrowed(tmp_path: Path) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor([2.0, 3.0]))

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x * self.scale,)

    module, x = Scale(), torch.ones(2)
    with uses("torch._inductor.aot_compile"), torch.no_grad():
        program = make_fx(module)(x)
        for node in program.graph.nodes:
            node.meta.clear()  # fake tensors of the trace, which the compiler does not take
        options = {"always_keep_tensor_constants": True, "aot_inductor.package_constants_in_so": False}
        library = private_apis.aot_compile(program, (x,), tmp_path / "scale.so", options)
        assert library.is_file()
    with uses("torch._C._aoti.AOTIModelContainerRunnerCpu"):
        runner = private_apis.load_aot_library(library)
        (name,) = runner.get_constant_names_to_original_fqns()
        runner.update_constant_buffer({name: module.scale}, False, True, True)
        assert runner.run([x])[0].tolist() == [2, 3]
        module.scale.fill_(5)
        assert runner.run([x])[0].tolist() == [5, 5]


def test_the_allocator_of_the_cpu_says_that_memory_is_short() -> None:
    with uses("the message of torch's allocator for the CPU"):
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**60, dtype=torch.uint8)
        assert private_apis.is_out_of_memory(caught.value)
    assert private_apis.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert private_apis.is_out_of_memory(MemoryError())
    assert not private_apis.is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.slow
def test_a_compiled_module_keeps_its_names() -> None:
    compiled = torch.compile(nn.Linear(2, 2))
    with uses("the prefix _orig_mod of torch.compile"):
        assert all(name.startswith(private_apis.COMPILED_PREFIX) for name in compiled.state_dict())
        assert list(named_tensors(compiled)) == ["weight", "bias"]  # type: ignore[arg-type]


def test_tensors_of_one_storage_share_one_python_object() -> None:
    """`archlab.modeling.cost` distinguishes storages by it."""
    for device in ("cpu", "meta"):
        x = torch.zeros(3, device=device)
        assert x.untyped_storage() is x[1:].untyped_storage(), "torch no longer keeps a storage's Python object"
        assert x.untyped_storage() is not torch.zeros(3, device=device).untyped_storage()


def test_an_attribute_is_set_on_a_trial_of_another_worker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(storage=url, study_name="s").ask()
    study = optuna.load_study(storage=url, study_name="s")
    with uses("optuna.Study._storage, FrozenTrial._trial_id"):
        private_apis.set_trial_attr(study, study.get_trials()[0], "reason", "interrupted")
        assert study.get_trials()[0].user_attrs == {"reason": "interrupted"}


def test_fake_tensors_act_like_the_cpus() -> None:
    with uses("torch._subclasses.FakeTensorMode"), private_apis.fake_tensors():
        x = torch.empty(2, 3)
        with torch.autocast("cpu", torch.bfloat16):
            y = x @ x.mT
    assert (x.device.type, y.dtype) == ("cpu", torch.bfloat16)


class _Queries(private_apis.DispatchMode):
    """Collects what tensors without memory are asked for their device, by torch's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[torch.device, torch.device]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **kwargs or {})
        if private_apis.is_device_query(func):
            self.answers.append((args[0].device, answer))
        return answer


def test_a_query_of_a_device_is_distinguished_from_operations() -> None:
    with uses("torch.ops.prim.device, asked of modes"), FakeTensorMode(), _Queries() as queries:
        x = torch.empty(2, 3, requires_grad=True)
        (2 * x).sum().backward()
    assert queries.answers
    assert set(queries.answers) == {(torch.device("cpu"), torch.device("cpu"))}


def test_operators_are_described() -> None:
    with uses("torch.utils.flop_counter.flop_registry and schemas of operators"):
        assert private_apis.flop_formula(torch.ops.aten.mm) is not None
        assert all(private_apis.flop_formula(operator) is not None for operator in private_apis.cpu_flash_attention())
        assert private_apis.argument_names(torch.ops.aten.mm.default) == ["self", "mat2"]


@pytest.mark.slow
def test_the_tracer_is_what_the_first_traced_operation_imports() -> None:
    code = "import sys, torch; torch.randn(3, device='meta').add(torch.randperm(3, device='meta')); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert private_apis.TRACER in loaded


def test_a_fork_server_of_ones_own_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "_forkserver", forkserver.ForkServer())
    with uses("multiprocessing.forkserver._forkserver"):
        assert not private_apis.has_fork_server()
        private_apis.use_fork_server("address", 3, 4)
        assert private_apis.has_fork_server()
    monkeypatch.undo()
