from dataclasses import replace

import pytest
import torch

from archlab.modeling.step_trace import OpCost
from archlab.planning.device_files import load_device
from archlab.planning.roofline import FUSED_BYTES, kind_of, step_time

GPU = load_device("h100")
CPU = replace(load_device("cpu"), call_seconds=1e-5, cache=0)


def op(name: str, flops: int = 0, bytes: int = 0, calls: int = 1, skipped: int = 0, bfloat16: bool = True) -> OpCost:
    return OpCost(name, "forward", torch.bfloat16 if bfloat16 else torch.float32, calls, flops, bytes, skipped)


def test_an_operation_takes_what_its_flops_or_its_bytes_take() -> None:
    matmul = GPU.flops.bfloat16 * GPU.efficiency.matmul
    bandwidth = GPU.memory_bandwidth * GPU.efficiency.memory
    time = step_time(
        [op("aten.mm", int(matmul), int(bandwidth / 2)), op("aten.mul", 0, int(bandwidth))], GPU, compiled=False
    )
    assert time.compute == pytest.approx(1)
    assert time.memory == pytest.approx(1)
    assert time.total == pytest.approx(2)


def test_the_masked_half_of_attention_takes_no_time() -> None:
    whole = step_time([op("archlab.causal_attention", 10**15)], GPU, compiled=False)
    half = step_time([op("archlab.causal_attention", 10**15, skipped=5 * 10**14)], GPU, compiled=False)
    assert half.compute == pytest.approx(whole.compute / 2)


def test_products_of_float32_have_another_peak() -> None:
    fast, slow = (step_time([op("aten.mm", 10**15, bfloat16=b)], GPU, compiled=False).total for b in (True, False))
    assert slow / fast == pytest.approx(GPU.flops.bfloat16 / GPU.flops.float32)


def test_a_scan_has_a_share_of_its_own_where_a_device_knows_one() -> None:
    scan, other = (
        step_time([op(f"archlab.{name}", 10**12)], GPU, compiled=False).total for name in ("diagonal_scan_back", "x")
    )
    assert scan == pytest.approx(1e12 / (GPU.flops.float32 * GPU.efficiency.scan))
    unknown = replace(GPU, efficiency=replace(GPU.efficiency, scan=None))
    assert step_time([op("archlab.diagonal_scan", 10**12)], unknown, compiled=False).total == pytest.approx(other)


def test_compiling_fuses_elementwise_operations_and_saves_their_launches() -> None:
    ops = [op("aten.mul", 0, 10**9, calls=100), op("archlab.diagonal_scan", 0, 10**9, calls=10)]
    eager, compiled = (step_time(ops, CPU, compiled=compiled) for compiled in (False, True))
    assert eager.launch == pytest.approx(110e-5)
    assert compiled.launch == pytest.approx(10e-5)
    assert compiled.memory / eager.memory == pytest.approx((1 + FUSED_BYTES) / 2)


def test_a_gpu_computes_while_the_host_launches() -> None:
    busy = step_time([op("aten.mul", 0, int(GPU.memory_bandwidth), calls=10)], GPU, compiled=False)
    idle = step_time([op("aten.mul", 0, 8, calls=1000)], GPU, compiled=False)
    assert busy.launch == 0
    assert idle.total == pytest.approx(1000 * GPU.call_seconds)


def test_small_tensors_stay_in_the_cache() -> None:
    device = replace(CPU, cache=1e6, cache_bandwidth=10 * CPU.memory_bandwidth, call_seconds=0)
    large, small = (step_time([op("aten.mul", 0, 10**8, calls=n)], device, compiled=False).memory for n in (1, 100))
    assert large / small == pytest.approx(10)


def test_operations_are_distinguished_by_their_names() -> None:
    names = (
        "aten.mm",
        "aten._scaled_dot_product_flash_attention_for_cpu",
        "archlab.grouped_linear",
        "aten.add",
        "archlab.wkv",
    )
    assert [kind_of(op(name)) for name in names] == ["matmul", "attention", "matmul", "other", "other"]
