"""Text is split by file, batched as a function of the step, and covered whole in evaluation."""

import hashlib
import itertools
import os
from pathlib import Path

import pytest
import torch

from archlab import ArchlabError
from archlab.components.task.text import Text
from archlab.config.registry import find


def many_files(folder: Path, number: int = 200) -> Text:
    for place in range(number):
        file = folder / f"part{place % 7}" / f"{place}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"document {place} " * 20)
    return Text(path=str(folder))


def one_file(folder: Path, size: int) -> Text:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text").write_bytes(bytes(1 + place % 251 for place in range(size)))
    return Text(path=str(folder / "text"))


def test_it_is_known_to_yaml() -> None:
    assert find("task", "text").cls is Text
    assert list(find("task", "text").knobs) == [
        "path",
        "glob",
        "field",
        "tokenizer",
        "vocab_size",
        "special_tokens",
        "eval_bytes",
        "split_by",
    ]
    assert find("task", "text").wiring == []


def test_nothing_is_read_before_it_is_needed() -> None:
    task = Text(path="/nowhere")
    assert task.vocab_size == 256
    with pytest.raises(ArchlabError, match=r"^/nowhere: no such file or folder$"):
        task.check()


def test_every_file_stands_in_the_split_that_its_name_says(tmp_path: Path) -> None:
    task = many_files(tmp_path)
    files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.txt"))
    shares = {name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64 for name in files}
    for split, low, high in (("validation", 0, 0.05), ("test", 0.05, 0.1), ("train", 0.1, 1)):
        expected = [(tmp_path / name).read_bytes() for name in files if low <= shares[name] < high]
        assert task.text(split) == b"\0".join(expected)
        assert expected
    assert task.describe()["split_by"] == "documents"


def test_the_description_counts_and_identifies_the_text(tmp_path: Path) -> None:
    task, moved = many_files(tmp_path / "a"), many_files(tmp_path / "b")
    facts = task.describe()
    assert facts["documents"] == 200
    assert facts["bytes"] == {split: len(task.text(split)) for split in ("train", "validation", "test")}
    assert facts["bytes"] == facts["bytes_available"]
    assert facts["sha256"] == moved.describe()["sha256"]
    (tmp_path / "c").mkdir()
    assert facts["sha256"] != many_files(tmp_path / "c", 199).describe()["sha256"]


def test_evaluation_is_capped_and_says_so(tmp_path: Path) -> None:
    one_file(tmp_path, 1000)
    task = Text(path=str(tmp_path / "text"), eval_bytes=20)
    facts = task.describe()
    assert facts["bytes"] == {"train": 900, "validation": 20, "test": 20}
    assert facts["bytes_available"] == {"train": 900, "validation": 50, "test": 50}
    assert Text(path=str(tmp_path / "text"), eval_bytes=None).length("test") == 50


def test_a_single_file_is_cut_by_position(tmp_path: Path) -> None:
    task = one_file(tmp_path, 1000)
    assert b"".join(task.text(split) for split in ("train", "validation", "test")) == (tmp_path / "text").read_bytes()
    assert task.describe()["split_by"] == "bytes"


def test_few_files_are_cut_by_position_too(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 100)
    task = Text(path=str(tmp_path))
    whole = b"".join(task.text(split) for split in ("train", "validation", "test"))
    assert whole == b"a" * 100 + b"\0" + b"b" * 100


def test_hidden_files_empty_files_and_others_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for name in (".git/object", ".hidden", "skip.bin"):
        (tmp_path / name).write_text("no")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "text.txt").write_text("yes" * 100)
    task = Text(path=str(tmp_path), glob="**/*.txt")
    assert task.describe()["documents"] == 1
    assert task.length("train") == 270


def test_what_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(ArchlabError, match="empty: holds no text"):
        Text(path=str(tmp_path / "empty")).check()
    with pytest.raises(ArchlabError, match=r"no file matches '\*\.md'"):
        Text(path=str(tmp_path), glob="*.md").check()
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(ArchlabError, match="broken: cannot be read"):
        Text(path=str(tmp_path)).check()
    (tmp_path / "secret").write_text("x")
    monkeypatch.setattr(Path, "read_bytes", _refuse)
    with pytest.raises(ArchlabError, match="secret: cannot be read: Permission denied"):
        Text(path=str(tmp_path / "secret")).check()


def _refuse(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_split_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    task = one_file(tmp_path, 1000)
    task.check(49)
    with pytest.raises(ArchlabError, match=r"the validation split has 50 bytes; a window of context 50 .* need 51"):
        task.check(50)
    with pytest.raises(ArchlabError, match="the train split has 900 bytes"):
        task.batch("train", 0, 1, 900, 0)


@pytest.mark.parametrize("knobs", [{"path": ""}, {"glob": ""}, {"glob": "../*"}, {"glob": "/etc/*"}])
def test_a_bad_path_or_glob_is_refused_at_once(knobs: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="need a path, and a pattern below it"):
        Text(**({"path": "x"} | knobs))


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"no split 'valid'; did you mean 'validation'\?"):
        one_file(tmp_path, 100).length("valid")


def test_a_batch_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    first, again = one_file(tmp_path, 5000), one_file(tmp_path, 5000)
    for step in (0, 3, 1000):
        inputs, targets = first.batch("train", step, 4, 16, 7)
        for _ in range(3):
            again.batch("train", 12345, 4, 16, 8)
        assert torch.equal(again.batch("train", step, 4, 16, 7)[0], inputs)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert inputs.shape == targets.shape == (4, 16)
        assert inputs.dtype == targets.dtype == torch.int64
    assert not torch.equal(first.batch("train", 0, 4, 16, 8)[0], first.batch("train", 0, 4, 16, 7)[0])


def test_the_order_of_the_text_never_changes(tmp_path: Path) -> None:
    inputs, _ = one_file(tmp_path, 5000).batch("train", 0, 8, 16, 0)
    assert inputs[:, 0].tolist() == [146, 223, 86, 205, 47, 131, 206, 9]


def positions(task: Text, step: int, batch_size: int, context: int) -> list[int]:
    inputs, targets = task.batch("train", step, batch_size, context, 0)
    whole = task.text("train")
    windows = torch.cat([inputs, targets[:, -1:]], 1).tolist()
    found = [whole.find(bytes(window)) for window in windows]
    assert min(found) >= 0
    return found


def test_an_epoch_visits_every_window_once_in_a_new_order(tmp_path: Path) -> None:
    numbers = b"".join(bytes((1 + place // 250, 1 + place % 250)) for place in range(550))
    (tmp_path / "text").write_bytes(numbers)
    task, context = Text(path=str(tmp_path / "text")), 10
    windows = (task.length("train") - 1) // context
    visits = list(itertools.chain.from_iterable(positions(task, step, 7, context) for step in range(2 * windows)))
    epochs = [visits[start : start + windows] for start in range(0, 14 * windows, windows)]
    assert len(epochs) == 14
    for epoch in epochs:
        shift = min(epoch)
        assert sorted(epoch) == [shift + context * place for place in range(windows)]
    assert len({tuple(epoch) for epoch in epochs}) == 14
    assert len({min(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize(("batch_size", "context"), [(1, 1), (3, 7), (2, 49), (4, 64), (100, 5)])
@pytest.mark.parametrize("max_tokens", [None, 1, 20, 10**6])
def test_evaluation_covers_the_split_once(
    tmp_path: Path, batch_size: int, context: int, max_tokens: int | None
) -> None:
    task = one_file(tmp_path, 1000)
    batches = list(task.eval_batches("validation", batch_size, context, max_tokens))
    assert len({inputs.shape for inputs, _ in batches}) == 1
    assert batches[0][0].shape[1] == context
    assert batches[0][0].shape[0] <= batch_size
    counted = [(inputs[targets != -100], targets[targets != -100]) for inputs, targets in batches]
    count = min(max_tokens or 49, 49)
    text = list(task.text("validation"))
    assert torch.cat([inputs for inputs, _ in counted]).tolist() == text[:count]
    assert torch.cat([targets for _, targets in counted]).tolist() == text[1 : count + 1]


def test_text_goes_to_tokens_and_back() -> None:
    task = Text(path="x")
    assert task.encode("grüße") == [103, 114, 195, 188, 195, 159, 101]
    assert task.decode(task.encode("grüße")) == "grüße"
    assert task.decode([65, 195, 300, 66]) == "A��B"
    assert task.encode(os.fsdecode(b"\xff")) == [255]
