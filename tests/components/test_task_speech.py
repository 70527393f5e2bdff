"""Waves are split by list or by speaker, padded or cut to the context, and a wrong file is named."""

import hashlib
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from archlab import ArchlabError
from archlab.components.task.speech import Speech
from archlab.config.registry import find

SPLITS = ("train", "validation", "test")
CONTEXT = 50


def write(
    file: Path, samples: int = 40, *, rate: int = 16000, width: int = 2, channels: int = 1, seed: int = 0
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(seed).bytes(samples * width * channels)
    with wave.open(str(file), "wb") as out:
        out.setnchannels(channels), out.setsampwidth(width), out.setframerate(rate)
        out.writeframes(noise)
    return file


def folder(root: Path, speakers: int = 60) -> Path:
    for place in range(speakers):
        for word in ("yes", "no"):
            write(root / word / f"{place:08x}_nohash_{place % 2}.wav", 30 + place % 10, seed=hash_of(word, place))
    write(root / "bird" / "0_nohash_0.wav")
    (root / "README.md").write_text("not a word")
    return root


def hash_of(word: str, place: int) -> int:
    return int(hashlib.sha1(f"{word}{place}".encode()).hexdigest()[:7], 16)


def task(root: Path, **knobs) -> Speech:
    return Speech(**({"path": str(root), "classes": ["yes", "no"]} | knobs))


def names(found: Speech, split: str) -> set[str]:
    return {file.name for file in found.files[split]}


def test_it_is_known_to_yaml_and_reads_nothing_at_first() -> None:
    assert find("task", "speech").cls is Speech
    nowhere = task(Path("/nowhere"))
    assert (nowhere.num_outputs, nowhere.vocab_size, nowhere.per_sample) == (2, None, True)
    with pytest.raises(ArchlabError, match=r"^/nowhere: no such folder$"):
        nowhere.check(CONTEXT)


@pytest.mark.slow
def test_speakers_are_split_as_the_authors_do(tmp_path: Path) -> None:
    found = task(folder(tmp_path, 200))
    parts = {split: names(found, split) for split in SPLITS}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 400
    for split, files in parts.items():
        for name in files:
            speaker = name.split("/")[1].split("_nohash_")[0]
            place = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27 / (2**27 - 1)
            assert split == ("validation" if place < 0.1 else "test" if place < 0.2 else "train")
    facts = found.describe()
    assert facts["samples"] == {split: len(files) for split, files in parts.items()}
    assert facts["classes"] == ["yes", "no"]


def lists(root: Path, validation: str, testing: str) -> Path:
    (root / "validation_list.txt").write_text(validation)
    (root / "testing_list.txt").write_text(testing)
    return root


def test_lists_say_what_is_held_out(tmp_path: Path) -> None:
    root = lists(folder(tmp_path, 5), "yes/00000001_nohash_1.wav\nbird/0_nohash_0.wav\n", "no/00000002_nohash_0.wav\n")
    found = task(root)
    assert names(found, "validation") == {"yes/00000001_nohash_1.wav"}
    assert names(found, "test") == {"no/00000002_nohash_0.wav"}
    assert len(names(found, "train")) == 8


def test_lists_that_are_wrong_are_named(tmp_path: Path) -> None:
    root = lists(folder(tmp_path / "a", 5), "yes/lost.wav\n", "")
    with pytest.raises(ArchlabError, match=r"validation_list\.txt: lists 'yes/lost\.wav', which is not a file"):
        task(root).check(CONTEXT)
    for line in ("bird/lost.wav", "Yes/00000001_nohash_1.wav", "./yes/00000001_nohash_1.wav", "yes", "yes/", "all"):
        lists(root, f"yes/00000001_nohash_1.wav\r\n{line}\r\n", "")
        with pytest.raises(ArchlabError, match=rf"lists '{line}', which is not a file \(line 2\)"):
            task(root).check(CONTEXT)
    root = lists(folder(tmp_path / "b", 5), *["yes/00000001_nohash_1.wav\n"] * 2)
    with pytest.raises(ArchlabError, match=r"testing_list\.txt: lists 'yes/00000001_nohash_1\.wav', .* listed before"):
        task(root).check(CONTEXT)
    (root / "testing_list.txt").unlink()
    with pytest.raises(ArchlabError, match=r"testing_list\.txt: cannot be read: not a file"):
        task(root).check(CONTEXT)
    root = lists(folder(tmp_path / "c", 5), "yes/00000001_nohash_1.wav\n", "")
    with pytest.raises(ArchlabError, match="the test split is empty"):
        task(root).check(CONTEXT)


def test_waves_are_followed_by_silence(tmp_path: Path) -> None:
    found = task(folder(tmp_path))
    waves, classes = found.batch("train", 2, 6, CONTEXT, 5)
    assert (waves.shape, waves.dtype, classes.shape) == ((6, CONTEXT), torch.float32, (6,))
    assert found.example_inputs(6, CONTEXT, "cpu").shape == waves.shape
    assert found.example_inputs(6, CONTEXT, "cpu").dtype == waves.dtype
    raw = {}
    for file in found.files["train"]:
        with wave.open(file.path) as opened:
            raw[opened.readframes(opened.getnframes())] = file.label
    for samples, label in zip(waves, classes.tolist(), strict=True):
        assert samples.abs().max() <= 1
        data = (samples * 2**15).to(torch.int16).numpy().tobytes()
        assert [known for known in raw if data.rstrip(b"\0").startswith(known.rstrip(b"\0"))]
        assert raw[next(known for known in raw if data.startswith(known))] == label


def test_longer_waves_are_refused_or_cut(tmp_path: Path) -> None:
    root = folder(tmp_path)
    with pytest.raises(ArchlabError, match=r"\.wav: has 3\d samples, more than train\.context 20; too_long: cut cuts"):
        task(root).check(20)
    whole, cut = task(root).batch("train", 0, 9, CONTEXT, 0), task(root, too_long="cut").batch("train", 0, 9, 20, 0)
    assert torch.equal(whole[0][:, :20], cut[0])
    assert torch.equal(whole[1], cut[1])


def test_a_batch_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    found = task(folder(tmp_path))
    first, _ = found.batch("train", 5, 4, CONTEXT, 7)
    found.batch("train", 1, 3, CONTEXT, 8)
    assert torch.equal(task(tmp_path).batch("train", 5, 4, CONTEXT, 7)[0], first)
    assert not torch.equal(found.batch("train", 5, 4, CONTEXT, 8)[0], first)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("max_tokens", [None, 1, 2 * CONTEXT + 1])
def test_evaluation_sees_the_same_waves_whatever_the_batch(
    tmp_path: Path, batch_size: int, max_tokens: int | None
) -> None:
    found = task(folder(tmp_path))
    size = found.size("validation")
    batches = list(found.eval_batches("validation", batch_size, CONTEXT, max_tokens))
    assert len({waves.shape for waves, _ in batches}) == 1
    kept = torch.cat([waves[classes != -100] for waves, classes in batches])
    whole, _ = next(found.eval_batches("validation", size, CONTEXT))
    assert torch.equal(kept, whole[: {None: size, 1: 1, 101: 3}[max_tokens]])


def read_all(root: Path) -> None:
    for split in SPLITS:
        list(task(root).eval_batches(split, 8, CONTEXT))


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"rate": 8000}, "has 8000 samples a second, not the sample_rate 16000"),
        ({"width": 1}, "has 1 channels of 8 bits, not 1 of 16"),
        ({"width": 3}, "has 1 channels of 24 bits, not 1 of 16"),
        ({"channels": 2}, "has 2 channels of 16 bits, not 1 of 16"),
        ({"samples": 0}, "has 0 of the 0 samples in its header: truncated or empty"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, form: dict[str, int], problem: str) -> None:
    file = write(folder(tmp_path) / "yes" / "00000002_nohash_0.wav", **form)
    with pytest.raises(ArchlabError, match=rf"^{file}: {problem}$"):
        read_all(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 20, 43, 44, 60])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, keep: int) -> None:
    file = folder(tmp_path) / "yes" / "00000002_nohash_0.wav"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ArchlabError, match=rf"^{file}: .*(cannot be read as a WAV file|truncated or empty)"):
        read_all(tmp_path)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    file = folder(tmp_path) / "yes" / "00000002_nohash_0.wav"
    data = bytearray(file.read_bytes())
    data[20] = 7  # mu-law
    file.write_bytes(data)
    with pytest.raises(ArchlabError, match=rf"^{file}: cannot be read as a WAV file: unknown format: 7$"):
        read_all(tmp_path)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for classes, problem in (
        (["yes", "lost"], r"lost: no such folder, one for each class$"),
        (["yes", "bare"], r"bare: holds no file of class 'bare'$"),
        (["yes", "odd"], r"odd/notes\.txt: is not a \.wav file$"),
    ):
        (root / "bare").mkdir(exist_ok=True)
        (root / "odd").mkdir(exist_ok=True)
        (root / "odd" / "notes.txt").write_text("x")
        with pytest.raises(ArchlabError, match=problem):
            task(root, classes=classes).check(CONTEXT)


@pytest.mark.parametrize("classes", [[], ["yes"], ["yes", "yes"]])
def test_too_few_classes_are_refused(classes: list[str]) -> None:
    with pytest.raises(ValueError, match="need two or more, none of them twice"):
        Speech(path="x", classes=classes)
