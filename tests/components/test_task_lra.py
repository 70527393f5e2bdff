"""Long Range Arena's files are read as they were published, and what is wrong with them is named."""

import pickle

import numpy as np
import pytest
import torch

from archlab import ArchlabError
from archlab.components.task.lra_image import LongRangeImage
from archlab.components.task.lra_listops import LongRangeListOps
from archlab.components.task.lra_pathfinder import LongRangePathfinder
from archlab.components.task.lra_retrieval import LongRangeRetrieval
from archlab.components.task.lra_text import LongRangeText

SPLITS = ("train", "validation", "test")


def all_of(task, split, context):
    """Return every input and class of a split, in the order of its numbers."""
    return task.samples(split, range(task.size(split)), context)


def check_contract(task, context):
    """Check what every SampleTask guarantees."""
    task.check(context)
    inputs, classes = task.batch("train", 1, 3, context, 5)
    assert torch.equal(task.batch("train", 1, 3, context, 5)[0], inputs)
    example = task.example_inputs(3, context, "cpu")
    assert (example.shape, example.dtype) == (inputs.shape, inputs.dtype)
    assert 0 <= classes.min() <= classes.max() < task.num_outputs
    assert task.per_sample
    assert sum(len(c) for _, c in task.eval_batches("test", 2, context)) >= task.size("test")
    assert task.describe()["samples"] == {split: task.size(split) for split in SPLITS}


@pytest.fixture
def reviews(tmp_path):
    for part in ("train", "test"):
        for kind in ("pos", "neg", "unsup"):
            (tmp_path / part / kind).mkdir(parents=True)
            for number in range(30):
                (tmp_path / part / kind / f"{number}_7.txt").write_text(f"{part} {kind} {'é' * (number % 4)}{number}")
    return tmp_path


def test_reviews_stand_at_the_end_of_their_bytes(reviews):
    task = LongRangeText(path=str(reviews))
    check_contract(task, 30)
    seen = {}
    for split in SPLITS:
        inputs, classes = all_of(task, split, 30)
        for row, label in zip(inputs.tolist(), classes.tolist(), strict=True):
            part, kind, _ = bytes(row).lstrip(b"\0").decode().split()
            assert part == ("test" if split == "test" else "train")
            assert kind == ("neg", "pos")[label]
            assert seen.setdefault(tuple(row), split) == split
    assert len(seen) == 120
    assert 1 <= task.size("validation") <= 15


def test_long_reviews_are_refused_or_cut(reviews):
    with pytest.raises(ArchlabError, match=r"txt: has \d+ bytes, more than the 9 of a sample; too_long: cut cuts"):
        LongRangeText(path=str(reviews)).check(9)
    inputs, _ = all_of(LongRangeText(path=str(reviews), too_long="cut"), "test", 6)
    assert {bytes(row) for row in inputs.tolist()} == {b"test p", b"test n"}


def test_reviews_that_cannot_be_used_are_named(reviews):
    with pytest.raises(ArchlabError, match=r"nowhere/train/neg: no such folder"):
        LongRangeText(path=str(reviews / "nowhere")).check(30)
    (reviews / "test" / "neg" / "3_7.txt").write_bytes(b"a\0b")
    with pytest.raises(ArchlabError, match=r"test/neg/3_7\.txt: holds byte 0, which is padding"):
        all_of(LongRangeText(path=str(reviews)), "test", 30)


@pytest.fixture
def expressions(tmp_path):
    header = "Source\tTarget\r\n"
    (tmp_path / "basic_train.tsv").write_text(
        header + "( ( ( [MAX 4 ) ( ( ( [SM 2 ) 9 ) ] ) ) ] )\t4\r\n( ( ( [MED 1 ) 0 ) ] )\t0\r\n"
    )
    (tmp_path / "basic_val.tsv").write_text(header + "( ( ( [MIN 7 ) 8 ) ] )\t7\r\n")
    (tmp_path / "basic_test.tsv").write_text(header + "( ( ( [MIN 6 ) 8 ) ] )\t6")
    return tmp_path


def test_expressions_are_the_tokens_of_the_task_listops(expressions):
    task = LongRangeListOps(path=str(expressions))
    check_contract(task, 9)
    inputs, digits = all_of(task, "train", 9)
    assert inputs.tolist() == [[0, 0, 12, 5, 14, 3, 10, 15, 15], [0, 0, 0, 0, 0, 13, 2, 1, 15]]
    assert digits.tolist() == [4, 0]
    assert all_of(task, "test", 4)[0].tolist() == [[11, 7, 9, 15]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[MIN 1 2 ]\t12", r"basic_train\.tsv:2: '12' is not a digit"),
        ("[MIN 1 2 ]", r"basic_train\.tsv:2: has 1 fields between tabs, not 2"),
        ("[FIRST 1 2 ]\t1", r"basic_train\.tsv:2: '\[FIRST' is not a token of ListOps"),
        ("[MIN 1 2 3 4 5 6 7 8 9 ]\t1", r"basic_train\.tsv:2: has 11 tokens, more than train\.context 9"),
        (None, r"basic_train\.tsv: holds no row"),
    ],
)
def test_expressions_that_cannot_be_used_are_named(tmp_path, row, message):
    text = "Source\tTarget\n" + (f"{row}\n" if row is not None else "")
    (tmp_path / "basic_train.tsv").write_text(text)
    with pytest.raises(ArchlabError, match=message):
        LongRangeListOps(path=str(tmp_path)).check(9)


def test_a_missing_file_of_expressions_is_named(tmp_path):
    with pytest.raises(ArchlabError, match=r"basic_train\.tsv: cannot be read: No such file"):
        LongRangeListOps(path=str(tmp_path)).check(9)


@pytest.fixture
def papers(tmp_path):
    for name in ("train", "eval", "test"):
        rows = [f'{n % 2}.0\tA{n}\tB{n}\tfirst "{name}{n}\tsecond é {n}\n' for n in range(4)]
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text("".join(rows))
    return tmp_path


def test_papers_stand_behind_each_other(papers):
    task = LongRangeRetrieval(path=str(papers))
    check_contract(task, 41)
    for split, name in zip(SPLITS, ("train", "eval", "test"), strict=True):
        inputs, classes = all_of(task, split, 41)
        assert classes.tolist() == [0, 1, 0, 1]
        for number, row in enumerate(inputs.tolist()):
            tokens = row[next(place for place, token in enumerate(row) if token) :]
            cut = tokens.index(256)
            assert bytes(tokens[:cut]) == f'first "{name}{number}'.encode()
            assert bytes(tokens[cut + 1 :]) == f"second é {number}".encode()


def test_long_papers_are_refused_or_cut(papers):
    with pytest.raises(ArchlabError, match=r"tsv:1: has 13 bytes, more than the 4 of a sample"):
        LongRangeRetrieval(path=str(papers)).check(10)
    inputs, _ = all_of(LongRangeRetrieval(path=str(papers), too_long="cut"), "test", 10)
    assert inputs[0].tolist() == [0, *b"firs", 256, *b"seco"]


def test_papers_that_cannot_be_used_are_named(papers):
    with pytest.raises(ArchlabError, match=r"two texts need 3 tokens, not train\.context 2"):
        LongRangeRetrieval(path=str(papers)).check(2)
    file = papers / "new_aan_pairs.eval.tsv"
    file.write_text("2\ta\tb\tc\td\n")
    with pytest.raises(ArchlabError, match=r"eval\.tsv:1: the label '2' is neither 0 nor 1"):
        LongRangeRetrieval(path=str(papers)).check(41)


@pytest.fixture
def cifar(tmp_path):
    chance = np.random.RandomState(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        records = chance.randint(0, 256, (8, 3073)).astype(np.uint8)
        records[:, 0] = np.arange(8) % 10
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    return tmp_path


def test_images_are_their_gray_pixels(cifar):
    task = LongRangeImage(path=str(cifar))
    check_contract(task, 1024)
    assert [task.size(split) for split in SPLITS] == [36, 4, 8]
    records = np.frombuffer((cifar / "test_batch.bin").read_bytes(), np.uint8).reshape(8, 3073).astype(float)
    red, green, blue = records[:, 1:1025], records[:, 1025:2049], records[:, 2049:]
    gray = np.rint(0.299 * red + 0.587 * green + 0.114 * blue)
    inputs, classes = all_of(task, "test", 1024)
    np.testing.assert_array_equal(inputs.numpy(), gray)
    assert classes.tolist() == list(range(8))
    numbers = LongRangeImage(path=str(cifar), inputs="numbers")
    check_contract(numbers, 1024)
    torch.testing.assert_close(all_of(numbers, "test", 1024)[0], inputs / 127.5 - 1)


def test_images_that_cannot_be_used_are_named(cifar, tmp_path):
    with pytest.raises(ArchlabError, match=r"an image has 1024 pixels, which train\.context 1023 has to be"):
        LongRangeImage(path=str(cifar)).check(1023)
    file = cifar / "data_batch_3.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ArchlabError, match=r"data_batch_3\.bin: has 24583 bytes, not whole images of 3073"):
        LongRangeImage(path=str(cifar)).check(1024)
    file.write_bytes(pickle.dumps({"data": [1]}))  # the other version of the data set, which is never unpickled
    with pytest.raises(ArchlabError, match=r"not whole images of 3073: it is truncated or another file"):
        LongRangeImage(path=str(cifar)).check(1024)
    file.write_bytes(bytes([10]) + whole[1:])
    with pytest.raises(ArchlabError, match=r"data_batch_3\.bin: has the class 10, where CIFAR-10 has 0 to 9"):
        LongRangeImage(path=str(cifar)).check(1024)
    for number in range(1, 6):
        (cifar / f"data_batch_{number}.bin").write_bytes(whole[:3073])
    with pytest.raises(ArchlabError, match=r": the train split is empty: there are too few images"):
        LongRangeImage(path=str(cifar)).check(1024)
    file.unlink()
    with pytest.raises(ArchlabError, match=r"data_batch_3\.bin: cannot be read: not a file"):
        LongRangeImage(path=str(cifar)).check(1024)


@pytest.fixture
def paths(tmp_path):
    images = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
    (tmp_path / "metadata").mkdir()
    for folder in range(2):
        (tmp_path / "imgs" / str(folder)).mkdir(parents=True)
        lines = []
        for number in range(40):
            file = tmp_path / "imgs" / str(folder) / f"sample_{number}.png"
            pixels = np.full((4, 4), 40 * folder + number, np.uint8)
            images.fromarray(pixels).save(file)
            lines.append(f"imgs/{folder} sample_{number}.png {number} {number % 2} 1.8 3 5 1 2 3\n")
        (tmp_path / "metadata" / f"{folder}.npy").write_text("".join(lines))
    (tmp_path / "imgs" / "0" / "sample_7.png").write_bytes(b"")
    return tmp_path


def test_paths_are_pixels_and_the_list_says_what_they_are(paths):
    task = LongRangePathfinder(path=str(paths), size=4)
    check_contract(task, 16)
    seen = {}
    for split in SPLITS:
        inputs, classes = all_of(task, split, 16)
        for row, label in zip(inputs.tolist(), classes.tolist(), strict=True):
            assert set(row) == {row[0]}
            assert row[0] % 2 == label
            assert seen.setdefault(row[0], split) == split
    assert sorted(seen) == [number for number in range(80) if number != 7]
    check_contract(LongRangePathfinder(path=str(paths), size=4, inputs="numbers"), 16)


def test_paths_that_cannot_be_used_are_named(paths):
    with pytest.raises(ArchlabError, match=r"an image has 4 x 4 = 16 pixels, which train\.context 15 has to be"):
        LongRangePathfinder(path=str(paths), size=4).check(15)
    with pytest.raises(ArchlabError, match=r"png: has 4 x 4 pixels, not size 5"):
        LongRangePathfinder(path=str(paths), size=5).check(25)
    with pytest.raises(ArchlabError, match=r"metadata: holds no \*\.npy lists of images"):
        LongRangePathfinder(path=str(paths / "imgs"), size=4).check(16)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("imgs/1 sample_99.png 1 1", r"1\.npy:1: there is no file .*sample_99\.png"),
        ("imgs/1 sample_1.png 1 2", r"1\.npy:1: 'imgs/1 sample_1\.png 1 2' is not folder, file, number and class"),
        ("imgs/1 sample_1.png", r"1\.npy:1: .* is not folder, file, number and class of an image"),
    ],
)
def test_lists_that_cannot_be_used_are_named(paths, line, message):
    (paths / "metadata" / "1.npy").write_text(line + "\n")
    with pytest.raises(ArchlabError, match=message):
        LongRangePathfinder(path=str(paths), size=4).check(16)
