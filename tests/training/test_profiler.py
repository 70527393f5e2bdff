"""Where an update's time goes: kinds of work, their FLOPs, and what is left."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Tiny
from torch.autograd import DeviceType

from archlab import ConfigError
from archlab.cli.tables import profile_table
from archlab.training import profiler as module
from archlab.training.profiler import MEASURED_STEPS, OTHER, Part, Profile, kind_of, profile


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mm", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("sm90_xmma_gemm_f32f32", "matrix products"),
        ("## Call CompiledFxGraph fabc ##", "compiled loops"),
        ("triton_poi_fused_mul_0", "compiled loops"),
        ("aten::mul", "mul"),
        ("archlab::causal_attention_back", "causal_attention_back"),
        ("archlab::_rotary_cos_sin", "rotary_cos_sin"),
        ("GeneratedBackwardFor_archlab_diagonal_scan_default", "diagonal_scan"),
        ("GeneratedBackwardFor_archlab_diagonal_scan_defaultBackward", None),
        ("autograd::engine::evaluate_function: MmBackward0", None),
        ("Optimizer.step#AdamW.step", None),
    ],
)
def test_kinds(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARMUP_PROFILES", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_products_are_those_of_the_model(tiny: Tiny) -> None:
    found = profile(tiny("model.layers[0].mixer={type: attention, num_heads: 2}"))
    assert found.tokens == 2 * 32
    weights = 2 * (4 + 2) * 32 * 32 + 32 * 256  # in two layers queries, keys, values, out, FFN in and out; the head
    (products,) = (part for part in found.parts if part.name == "matrix products")
    assert products.flops == 3 * 2 * found.tokens * weights
    assert products.calls == 3 * (2 * 6 + 1)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_parts_make_up_the_update_and_nothing_is_left_behind(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = profile(tiny())
    *listed, rest = (part.seconds for part in found.parts)
    assert listed == sorted(listed, reverse=True)
    assert sum(listed) + rest >= found.seconds * (1 - 1e-9)
    assert not list(Path.cwd().iterdir())
    assert capfd.readouterr() == ("", ""), "the profiler keeps quiet"


def test_small_parts_are_aggregated() -> None:
    events = [_event("aten::mm", 600_000, 3, 6e9), _event("aten::mul", 30_000), _event("aten::neg", 3)]
    events.append(_event("Optimizer.step", 100_000))
    parts = module._aggregate(events, torch.device("cpu"), 0.3)
    assert parts[0] == Part("matrix products", 0.6 / MEASURED_STEPS, 3 / MEASURED_STEPS, 6e9 / MEASURED_STEPS)
    assert [part.name for part in parts] == ["matrix products", "mul", OTHER]
    assert parts[-1].seconds == pytest.approx(0.3 - 0.63 / MEASURED_STEPS)


def test_an_operation_that_autograd_wraps_is_one_call() -> None:
    events = [_event("archlab::scan", 1e5, 6), _event("GeneratedBackwardFor_archlab_scan_default", 2e5, 6)]
    scan, _ = module._aggregate(events, torch.device("cpu"), 0.2)
    assert scan == Part("scan", pytest.approx(0.3 / MEASURED_STEPS), 6 / MEASURED_STEPS)


def test_on_a_gpu_kernels_count_and_not_what_launches_them() -> None:
    events = [
        _event("aten::mm", 5_000),
        _event("sm90_gemm", 0, device_us=300_000),
        _event("my_kernel", 0, device_us=9e4),
    ]
    parts = module._aggregate(events, torch.device("cuda"), 0.2)
    assert [(part.name, round(part.seconds, 4)) for part in parts] == [
        ("matrix products", 0.1),
        ("my_kernel", 0.03),
        (OTHER, 0.07),
    ]


def _event(name: str, cpu_us: float, count: int = 1, flops: float = 0, device_us: float = 0) -> SimpleNamespace:
    device = DeviceType.CUDA if device_us else DeviceType.CPU
    times = {"self_cpu_time_total": cpu_us, "self_device_time_total": device_us}
    return SimpleNamespace(key=name, count=count, flops=flops, device_type=device, **times)


def test_the_table() -> None:
    shown = profile_table("some", Profile(4096, 0.5, (Part("matrix products", 0.4, 6, 8e9), Part(OTHER, 0.1))))
    assert shown.title == "some: 500 ms per step of 4,096 tokens, 8,192 tokens/s"
    columns = [list(column.cells) for column in shown.columns]
    assert columns == [["matrix products", OTHER], ["400.0", "100.0"], ["80%", "20%"], ["6", ""], ["20", ""]]


def test_a_device_that_is_not_here(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        profile(tiny("train.device=cuda"))
