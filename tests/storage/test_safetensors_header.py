"""A safetensors file is read right, or refused by the name of the file and the tensor, whatever its bytes are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from archlab import ArchlabError
from archlab.storage.safetensors_header import DTYPES, read_header
from archlab.storage.tensors import read_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16), "n": torch.arange(3)}
MANY = settings(
    max_examples=400 if THOROUGH else 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def write(file: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"x": entry("F8_E4M3", (8,))}, r"tensor 'x' has dtype 'F8_E4M3', which is not one of F64, "),
        ({"x": entry("F4", (16,))}, "tensor 'x' has dtype 'F4'"),
        ({"x": entry("U16", (4,))}, "tensor 'x' has dtype 'U16'"),
        ({"x": entry(shape=(3,))}, r"tensor 'x' has 8 bytes and needs 12 for \[3\]"),
        ({"x": entry(shape=(-2,))}, r"tensor 'x' has shape \[-2\]"),
        ({"x": entry(shape=(True, 2))}, r"tensor 'x' has shape \[True, 2\]"),
        ({"x": entry(shape=(0, 2**62), offsets=(0, 0))}, "tensor 'x' has shape"),
        ({"x": entry(offsets=(0, 8, 9))}, "tensor 'x' has data_offsets"),
        ({"x": entry(offsets=(8, 0))}, "tensor 'x' has -8 bytes"),
        ({"x": entry(offsets=(8, 16))}, "tensor 'x' begins at byte 8, not 0: it leaves a gap"),
        ({"x": entry(), "y": entry()}, "tensor 'y' begins at byte 0, not 8: it overlaps 'x'"),
        ({"x": entry(shape=(1,), offsets=(0, 4))}, "8 bytes of tensors, where the header describes 4"),
        ({"x": {"dtype": "F32"}}, "tensor 'x' has no dtype, shape and data_offsets"),
        ({"__metadata__": {"format": 1}, "x": entry()}, "its __metadata__ is not a mapping of texts"),
        ([], "it is no JSON object"),
        (b'{"x": 1, "x": 2}', "the key 'x' appears twice"),
        (b"\xff\xfe{}", "codec can't decode"),
        (b"[" * 100_000, "nested too deeply|no JSON object"),
    ],
)
def test_a_header_that_is_wrong_names_the_tensor(header: Any, problem: str, tmp_path: Path) -> None:
    file = write(tmp_path / "m.safetensors", header)
    with pytest.raises(ArchlabError, match=rf"m\.safetensors: truncated, or not a safetensors file: .*({problem})"):
        read_tensors(file)


@pytest.mark.parametrize("length", [11, 10**6, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file(length: int, tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"a header of .* bytes in a file of 18"):
        read_tensors(write(tmp_path / "m", {}, length=length))


def test_what_was_written_is_described(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "m", {"format": "pt"})
    header = read_header(tmp_path / "m")
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()
    }
    assert header.metadata == {"format": "pt"}


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_changed_bytes_are_refused_or_leave_a_tensor_of_its_header(data: st.DataObject, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "whole")
    raw = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m").write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    read_or_refuse(tmp_path / "m")


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_any_header_is_refused_or_read(data: st.DataObject, tmp_path: Path) -> None:
    count, kinds = st.integers(0, 9), st.sampled_from([*DTYPES, "F8_E4M3", "F4", "C64", "", "f32"])
    odd = st.none() | st.integers(-1, 2**65) | st.text(max_size=3) | st.lists(st.integers(-1, 9), max_size=3)
    entries = st.fixed_dictionaries(
        {
            "dtype": kinds | odd,
            "shape": st.lists(count, max_size=3) | odd,
            "data_offsets": st.lists(count, max_size=3) | odd,
        }
    )
    header = data.draw(st.dictionaries(st.text(max_size=4), entries | odd, max_size=3))
    read_or_refuse(write(tmp_path / "m", header, data.draw(st.binary(max_size=40))))


def read_or_refuse(file: Path) -> None:
    try:
        tensors = read_tensors(file)
    except ArchlabError as error:
        problem = str(error)
    else:
        expected = {name: info.shape for name, info in read_header(file).tensors.items()}
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
        return
    assert problem.startswith(str(file))
    assert "\n" not in problem
