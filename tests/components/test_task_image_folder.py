"""Images of folders are split by folder or by name, made one size, and measured whole."""

import hashlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from archlab import ArchlabError
from archlab.components.task.image_folder import ImageFolder
from archlab.components.task.imagenet import MEAN, STD, ImageNet
from archlab.config.registry import find
from archlab.data.images import center_crop

Image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
SPLITS = ("train", "validation", "test")
SIZE, PIXELS = 4, 16


def draw(file: Path, color: int = 0, width: int = 6, height: int = 5, mode: str = "RGB") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(color).randint(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(noise).convert(mode).save(file)
    return file


def folder(root: Path, number: int = 60, classes: str = "ab") -> Path:
    for place in range(number):
        draw(root / classes[place % len(classes)] / f"{place}.png", place)
    return root


def task(root: Path, **knobs) -> ImageFolder:
    return ImageFolder(**({"path": str(root), "num_classes": 2, "size": SIZE} | knobs))


def names(found: ImageFolder, split: str) -> list[str]:
    return [file.name for file in found.files[split]]


def test_they_are_known_to_yaml_and_read_nothing_at_first() -> None:
    assert find("task", "image_folder").cls is ImageFolder
    assert find("task", "imagenet").cls is ImageNet
    nowhere = ImageNet(path="/nowhere")
    assert (nowhere.num_outputs, nowhere.vocab_size, nowhere.per_sample) == (1000, None, True)
    assert nowhere.example_inputs(2, 50176, "meta").shape == (2, 3, 224, 224)
    with pytest.raises(ArchlabError, match=r"^/nowhere/train: no such folder$"):
        nowhere.check(50176)


@pytest.mark.slow
def test_a_folder_is_split_by_the_names_of_its_files(tmp_path: Path) -> None:
    found = task(folder(tmp_path, 200))
    parts = [set(names(found, split)) for split in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 200
    shares = {name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64 for name in set.union(*parts)}
    for part, low, high in zip(parts, (0.1, 0, 0.05), (1, 0.05, 0.1), strict=True):
        assert part == {name for name, share in shares.items() if low <= share < high}
    assert all(found.describe()["samples"].values())
    moved = task(folder(tmp_path / "moved", 200))
    assert moved.describe()["sha256"] == found.describe()["sha256"]


@pytest.mark.parametrize("name", ["validation", "val"])
def test_folders_named_like_splits_are_the_splits(tmp_path: Path, name: str) -> None:
    for place, split in enumerate(("train", name, "test")):
        folder(tmp_path / split, 4 + 2 * place)
    assert task(tmp_path).describe()["samples"] == {"train": 4, "validation": 6, "test": 8}


def test_a_split_without_a_folder_is_cut_from_the_train_images(tmp_path: Path) -> None:
    folder(tmp_path / "train", 200)
    folder(tmp_path / "validation", 10)
    sizes = task(tmp_path).describe()["samples"]
    assert sizes["validation"] == 10
    assert sizes["train"] + sizes["test"] == 200
    assert 0 < sizes["test"] < 30


@pytest.mark.slow
def test_imagenet_tests_on_val_and_chooses_by_train_images(tmp_path: Path) -> None:
    folder(tmp_path / "train", 300)
    folder(tmp_path / "val", 10)
    found = ImageNet(path=str(tmp_path), num_classes=2, size=SIZE)
    sizes = found.describe()["samples"]
    assert sizes["test"] == 10
    assert sizes["train"] + sizes["validation"] == 300
    assert 0 < sizes["validation"] < 10
    images, _ = next(found.eval_batches("test", 10, PIXELS))
    raw, _ = next(task(tmp_path, crop=0.875).eval_batches("validation", 10, PIXELS))
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    torch.testing.assert_close(images * std + mean, raw / 2 + 0.5)


def test_images_are_the_middle_scaled(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2), folder(tmp_path / "val", 2), folder(tmp_path / "test", 2)
    images, classes = next(task(tmp_path, size=5).eval_batches("test", 2, 25))
    for image, label in zip(images, classes.tolist(), strict=True):
        pixels = np.asarray(Image.open(tmp_path / "test" / "ab"[label] / f"{label}.png"))
        wide = center_crop(Image.fromarray(pixels), 5, 1.0)
        torch.testing.assert_close(image, torch.from_numpy(wide.copy()).permute(2, 0, 1) / 127.5 - 1)
    square = Image.fromarray(pixels[:, :5])
    assert np.array_equal(center_crop(square, 5, 1.0), pixels[:, :5])
    assert np.array_equal(center_crop(square, 3, 0.6), pixels[1:4, 1:4])


def test_pixels_are_tokens_in_scan_order(tmp_path: Path) -> None:
    root = folder(tmp_path, 60)
    gray, tokens = task(root, num_channels=1), task(root, num_channels=1, inputs="pixels")
    (images, _), (pixels, _) = (t.batch("train", 0, 5, PIXELS, 0) for t in (gray, tokens))
    assert images.shape == (5, 1, SIZE, SIZE)
    assert (pixels.shape, pixels.dtype, tokens.vocab_size) == ((5, PIXELS), torch.int64, 256)
    torch.testing.assert_close(images.flatten(1), pixels / 127.5 - 1)
    for found, given in ((gray, images), (tokens, pixels)):
        assert (found.example_inputs(5, PIXELS, "cpu").shape, found.example_inputs(5, PIXELS, "cpu").dtype) == (
            given.shape,
            given.dtype,
        )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_every_common_kind_of_pixel_is_read(tmp_path: Path, mode: str) -> None:
    for place in range(60):
        draw(tmp_path / "ab"[place % 2] / f"{place}.png", place, mode=mode)
    assert task(tmp_path).batch("train", 0, 4, PIXELS, 0)[0].shape == (4, 3, SIZE, SIZE)


def test_augmentation_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    plain, varied = task(folder(tmp_path)), task(tmp_path, augment="crop_flip")
    first, classes = varied.batch("train", 5, 8, PIXELS, 3)
    varied.batch("train", 1, 8, PIXELS, 3)
    assert torch.equal(varied.batch("train", 5, 8, PIXELS, 3)[0], first)
    assert torch.equal(plain.batch("train", 5, 8, PIXELS, 3)[1], classes)
    assert not torch.equal(plain.batch("train", 5, 8, PIXELS, 3)[0], first)
    for split in SPLITS:
        one, other = (next(t.eval_batches(split, 4, PIXELS))[0] for t in (plain, varied))
        assert torch.equal(one, other)


def test_half_of_the_crops_are_mirrored(tmp_path: Path) -> None:
    folder(tmp_path)
    varied, straight = (task(tmp_path, augment=augment) for augment in ("crop_flip", "crop"))
    one, other = (t.batch("train", 0, 64, PIXELS, 0)[0] for t in (varied, straight))
    same, mirrored = (sum(torch.equal(a, b) for a, b in zip(one, x, strict=True)) for x in (other, other.flip(-1)))
    assert same + mirrored == 64
    assert 16 < same < 48


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("max_tokens", [None, 1, 33])
def test_evaluation_sees_the_same_images_whatever_the_batch(
    tmp_path: Path, batch_size: int, max_tokens: int | None
) -> None:
    for split in SPLITS:
        folder(tmp_path / split, 20)
    found = task(tmp_path)
    batches = list(found.eval_batches("test", batch_size, PIXELS, max_tokens))
    assert len({images.shape for images, _ in batches}) == 1
    kept = torch.cat([images[classes != -100] for images, classes in batches])
    whole, classes = next(found.eval_batches("test", 20, PIXELS))
    assert torch.equal(kept, whole[: {None: 20, 1: 1, 33: 3}[max_tokens]])
    assert sorted(classes.tolist()) != classes.tolist()


def damage(file: Path, keep: float) -> Path:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    return file


@pytest.mark.parametrize("keep", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_damaged_image_is_named(tmp_path: Path, keep: float, suffix: str) -> None:
    for split in SPLITS:
        folder(tmp_path / split, 2)
    file = damage(draw(tmp_path / "train" / "a" / f"bad.{suffix}", width=60, height=50), keep)
    with pytest.raises(ArchlabError, match=rf"^{file}: cannot be read as an image: ") as caught:
        task(tmp_path).batch("train", 0, 3, PIXELS, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_random_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    for split in SPLITS:
        folder(tmp_path / split, 2)
    file, shuffle = draw(tmp_path / "train" / "a" / "bad.png"), random.Random(0)
    whole = file.read_bytes()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(3):
            data[shuffle.randrange(len(data))] = shuffle.randrange(256)
        file.write_bytes(data)
        if problem := _problem_of(task(tmp_path)):
            assert problem.startswith(str(file))


def _problem_of(found: ImageFolder) -> str | None:
    try:
        found.batch("train", 0, 3, PIXELS, 0)
    except ArchlabError as error:
        return str(error)
    return None


def test_wider_pixels_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    for split in SPLITS:
        folder(tmp_path / split, 2)
    Image.fromarray(np.full((5, 6), 40000, np.uint16)).save(tmp_path / "train" / "a" / "deep.png")
    with pytest.raises(ArchlabError, match=r"deep\.png: has pixels of more than 8 bits \(mode I;16\)"):
        task(tmp_path).batch("train", 0, 3, PIXELS, 0)


def refused(root: Path, problem: str, **knobs) -> None:
    with pytest.raises(ArchlabError, match=problem):
        task(root, **knobs).check(PIXELS)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "missing: no such folder")
    refused(tmp_path, "holds no folders, one for each class")
    folder(tmp_path / "one")
    refused(tmp_path / "one", "holds 2 classes, not num_classes 3", num_classes=3)
    (tmp_path / "one" / "c").mkdir()
    refused(tmp_path / "one", "c: holds no file of class 'c'", num_classes=3)
    (tmp_path / "one" / "c" / "notes.txt").write_text("x")
    refused(tmp_path / "one", r"c/notes\.txt: is not a \.png, \.jpg", num_classes=3)
    refused(folder(tmp_path / "few", 2), "few: the validation split is empty: there are too few files")
    folder(tmp_path / "rare", 200, "ab")
    draw(tmp_path / "rare" / "c" / "13.png")
    for place in range(1000):
        name = f"c/{place}.png"
        if _is_held_out(name):
            break
    draw(tmp_path / "rare" / name)
    (tmp_path / "rare" / "c" / "13.png").unlink()
    refused(tmp_path / "rare", "the train split has no file of class 'c'", num_classes=3)


def _is_held_out(name: str) -> bool:
    from archlab.data.class_folders import LabeledFile, split_by_hash

    return not split_by_hash([LabeledFile("", name, 0)], {"validation": 0.05, "test": 0.05})["train"]


def test_splits_that_disagree_are_named(tmp_path: Path) -> None:
    folder(tmp_path / "x" / "validation")
    refused(tmp_path / "x", "x: 'validation' is held out by name, and nothing is named train")
    folder(tmp_path / "x" / "val")
    folder(tmp_path / "x" / "train")
    refused(tmp_path / "x", "x: val and validation are both the validation split")
    folder(tmp_path / "y" / "train")
    folder(tmp_path / "y" / "test", classes="abc")
    refused(tmp_path / "y", "test: its classes are not those of .*train: 'c'")


@pytest.mark.parametrize("names", [("Training", "Valid", "TESTING"), ("images_train", "images_val", "images_test")])
def test_split_folders_are_known_in_any_form(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for place, name in enumerate(names):
        folder(tmp_path / name, 4 + 2 * place)
    assert task(tmp_path).describe()["samples"] == {"train": 4, "validation": 6, "test": 8}


def test_what_is_held_out_by_name_is_never_trained_on(tmp_path: Path) -> None:
    folder(tmp_path / "a" / "train", 4), folder(tmp_path / "a" / "other", 4)
    refused(tmp_path / "a", "a: 'other' names no split, as 'train' does; splits and classes cannot be mixed")
    folder(tmp_path / "b", 60, "ab"), draw(tmp_path / "b" / "test" / "1.png")
    refused(tmp_path / "b", "b: 'a', 'b' names no split, as 'test' does", num_classes=3)
    draw(folder(tmp_path / "c", 60) / "a" / "cat_test_1.png")
    refused(tmp_path / "c", r"a/cat_test_1\.png: is of the test split by name, among files to train on")
    folder(tmp_path / "d" / "train", 4), folder(tmp_path / "d" / "test", 4)
    draw(tmp_path / "d" / "test" / "1.png")
    refused(tmp_path / "d", r"test/1\.png: is in no folder of a class")


def test_a_class_may_be_called_like_a_part_of_a_split(tmp_path: Path) -> None:
    for place in range(60):
        for name in ("bullet_train", "test_tube"):
            draw(tmp_path / name / f"{name}_{place}.png", place)
    (tmp_path / "car").mkdir()
    draw(tmp_path / "car" / "1.png")
    assert sum(task(tmp_path, num_classes=3).describe()["samples"].values()) == 121


def test_a_linked_image_is_in_one_split(tmp_path: Path) -> None:
    for split in SPLITS:
        folder(tmp_path / split, 4)
    (tmp_path / "test" / "a" / "linked.png").symlink_to(tmp_path / "train" / "a" / "0.png")
    refused(tmp_path, r"test/a/linked\.png: is the same file as .*train/a/0\.png")


def test_the_checksum_covers_content(tmp_path: Path) -> None:
    for split in SPLITS:
        folder(tmp_path / split, 4)
    first = task(tmp_path).describe()["sha256"]
    file = tmp_path / "train" / "a" / "0.png"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    second = task(tmp_path).describe()["sha256"]
    file.rename(file.with_name("9.png"))
    assert len({first, second, task(tmp_path).describe()["sha256"]}) == 3


def test_another_context_than_the_pixels_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, 100)
    with pytest.raises(ArchlabError, match=r"4 x 4 = 16 pixels, which train\.context 512 has to be"):
        task(tmp_path).check(512)
    task(tmp_path).check(PIXELS)


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"inputs": "pixels"}, "they need num_channels 1"),
        ({"inputs": "pixels", "num_channels": 1, "mean": [0.1]}, "have no mean or std"),
        ({"mean": [0.5]}, "need 3 numbers each"),
        ({"num_channels": 1, "std": [0.0]}, "above 0"),
    ],
)
def test_knobs_that_do_not_go_together_are_refused(knobs: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        task(Path("x"), **knobs)


def test_a_missing_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, 100)
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(tmp_path, "images are read by Pillow, which is missing: pip install pillow$")
