"""Tensors in the parts that ranks have written are those of one file; inconsistent parts are an error."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from archlab import ArchlabError
from archlab.parallel.parts import Part
from archlab.storage.safetensors_header import read_header
from archlab.storage.stored_tensors import StoredTensors, part_file, part_metadata, rename_metadata
from archlab.storage.tensor_parts import _part_to_load
from archlab.storage.tensor_stream import stream_tensors

WHOLE = {"a": torch.arange(35.0).reshape(5, 7), "count": torch.tensor(3), "b": torch.arange(6).to(torch.bfloat16)}
# Rows in parts of 2, 2 and 1, columns of 4 and 3, as two axes of a layout divide them.
BOXES = [((row, column), (min(2, 5 - row), min(4, 7 - column))) for row in (0, 2, 4) for column in (0, 4)]


def write(folder: Path, boxes: list[tuple[tuple[int, ...], tuple[int, ...]]] = BOXES) -> Path:
    for rank, (begin, size) in enumerate(boxes):
        parts = {"a": Part((5, 7), begin, size)}
        if rank == 0:
            parts |= {"count": Part((), (), ()), "b": Part((6,), (0,), (6,))}
        own = {name: WHOLE[name][tuple(slice(*span) for span in part.spans)] for name, part in parts.items()}
        stream_tensors(folder / part_file("model", rank, len(boxes)), own, own.__getitem__, part_metadata(parts))
    return folder


def test_parts_make_up_the_whole(tmp_path: Path) -> None:
    stored = StoredTensors(write(tmp_path))
    assert set(stored) == set(WHOLE)
    assert all(torch.equal(stored[name], tensor) for name, tensor in WHOLE.items())
    for begin, size in [((0, 0), (5, 7)), ((1, 3), (3, 2)), ((3, 0), (2, 7)), ((4, 6), (1, 1)), ((5, 0), (0, 7))]:
        part = Part((5, 7), begin, size)
        assert torch.equal(stored.read("a", part), WHOLE["a"][tuple(slice(*span) for span in part.spans)])


def test_a_file_that_is_streamed_is_one_of_the_library(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    StoredTensors(write(tmp_path)).write_whole(file)
    read = load_file(file)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in WHOLE.items())
    size, sha256 = stream_tensors(tmp_path / "again", WHOLE, WHOLE.__getitem__)
    assert (size, sha256) == (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
    assert all(torch.equal(StoredTensors(tmp_path)[name], tensor) for name, tensor in WHOLE.items())


WRONG: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "a part is missing": BOXES[:-1],
    "a part is there twice": [*BOXES, BOXES[2]],
    "parts overlap": [*BOXES[:-1], ((4, 3), (1, 4))],
    "a row is missing": [box for box in BOXES if box[0][0] != 2],
}


@pytest.mark.parametrize("boxes", WRONG.values(), ids=WRONG)
def test_incomplete_parts_are_an_error(tmp_path: Path, boxes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    with pytest.raises(ArchlabError, match=r"its parts hold \d+ of the 35 numbers of 'a', or some of them twice"):
        StoredTensors(write(tmp_path, boxes))


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    file = write(tmp_path) / part_file("model", 3, 6)
    tensors, metadata = load_file(file), read_header(file).metadata
    file.unlink()
    with pytest.raises(ArchlabError, match=r"model-part-00004-of-00006\.safetensors: no such file"):
        StoredTensors(tmp_path)
    save_file(tensors, file)
    with pytest.raises(ArchlabError, match=r"00004.*: does not say which parts of tensors it holds"):
        StoredTensors(tmp_path)
    write_wrong(file, tensors, {"archlab_parts": '{"a": {"shape": [5], "begin": [0]}}'})
    with pytest.raises(ArchlabError, match=r"00004.*: 'a' of shape \[2, 3\] is not a part of \[5\]"):
        StoredTensors(tmp_path)
    for wrong in ("[-5, 7]", "[5.0, 7]", "[true, 7]", "null", f"[{2**40}, 7]"):
        write_wrong(file, tensors, {"archlab_parts": f'{{"a": {{"shape": {wrong}, "begin": [2, 4]}}}}'})
        with pytest.raises(ArchlabError, match=r"00004.*: does not say which parts of tensors it holds"):
            StoredTensors(tmp_path)
    write_wrong(file, {"a": tensors["a"].double()}, dict(metadata))
    with pytest.raises(ArchlabError, match="the parts of 'a' are of tensors of two kinds"):
        StoredTensors(tmp_path)


def write_wrong(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    file.unlink()
    save_file(tensors, file, metadata)


def test_parts_keep_their_places_under_new_names(tmp_path: Path) -> None:
    for file in write(tmp_path).iterdir():
        tensors, metadata = load_file(file), read_header(file).metadata
        renamed = {name.upper(): tensor for name, tensor in tensors.items()}
        write_wrong(file, renamed, rename_metadata(metadata, str.upper))
    assert torch.equal(StoredTensors(tmp_path)["A"], WHOLE["a"])


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ("{", "is not an index of weights: "),
        ("{}", "has no weight_map$"),
        ('{"weight_map": ["a"]}', "has no weight_map$"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "names '../a.safetensors', which is not a file beside it$"),
        ('{"weight_map": {"a": 1}}', "names 1, which is not a file beside it$"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, index: str, problem: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ArchlabError, match=rf"/model\.safetensors\.index\.json: {problem}"):
        StoredTensors(tmp_path)


def test_an_index_leads_to_all_of_its_files(tmp_path: Path) -> None:
    save_file({"a": WHOLE["a"]}, tmp_path / "one.safetensors")
    save_file({"b": WHOLE["b"], "count": WHOLE["count"]}, tmp_path / "two.safetensors")
    places = {"a": "one.safetensors", "b": "two.safetensors", "count": "two.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    stored = StoredTensors(tmp_path)
    assert len(stored) == len(WHOLE)
    assert all(torch.equal(stored[name], tensor) for name, tensor in WHOLE.items())


def test_a_moment_of_another_shape_than_its_divided_parameter_is_named() -> None:
    parts = {"w": Part((4, 3), (2, 0), (2, 3)), "whole": Part((4,), (0,), (4,))}

    def wanted(name: str, *shape: int) -> Part | None:
        return _part_to_load(name, parts, torch.empty(shape, device="meta"), Path("step_00000001"))

    assert wanted("exp_avg.w", 4, 3) == parts["w"]
    assert wanted("step.w") is wanted("exp_avg.whole", 4) is wanted("exp_avg.gone", 9) is None
    with pytest.raises(ArchlabError, match=r"step_00000001: 'exp_avg\.w' is \[4, 2\] and not \[4, 3\]$"):
        wanted("exp_avg.w", 4, 2)
