"""How documents are split: by the names of their files, by a hash of their own, or by position in the joined text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from archlab.data.split_names import assign_splits, document_file, missing_splits
from archlab.data.splits import SPLITS
from archlab.data.survey import HELD_OUT_FRACTION, FileCounts, Source, Survey, hash_bin
from archlab.errors import ArchlabError

_REMEDY = "name every file by its split, leave others out with task.glob, or set task.split_by: documents"


class ByteRange(NamedTuple):
    """A split that is a part of a joined text: its bytes from `start` to `stop`."""

    split: str
    start: int
    stop: int


class Part(NamedTuple):
    """A document's text as far as it is in a split, and whether the split's text ends with it."""

    split: str
    text: bytes
    is_last: bool


@dataclass(frozen=True)
class SplitPlan:
    """Which documents are joined to a text, and of which bytes of it each split consists.

    Attributes:
        split_of: The split that each file names; empty if none does.
        missing: The splits that are cut from the documents of train.
        by_hash: Whether they are cut by the documents' names, rather than by position.
        ranges: The splits in the joined text that begins with the documents of one.
        available: The bytes of each split before evaluation is capped.
        split_by: The same in words.
        strict: Whether characters that a cut divides are left out.
    """

    split_of: Mapping[str, str]
    missing: Sequence[str]
    by_hash: bool
    ranges: Mapping[str, Sequence[ByteRange]]
    available: Mapping[str, int]
    split_by: str
    strict: bool

    def text_of(self, name: str) -> str:
        """Return the split whose joined text a document is in."""
        split = self.split_of.get(document_file(name), "train")
        if split != "train" or not self.by_hash:
            return split
        bin_ = hash_bin(name)
        return self.missing[bin_] if bin_ < len(self.missing) else "train"


@dataclass
class SplitCursor:
    """Cuts documents, given in their order, into the parts of splits; `offsets` is where the next one begins."""

    plan: SplitPlan
    offsets: dict[str, int] = field(default_factory=dict)

    def cut(self, name: str, text: bytes) -> Iterator[Part]:
        """Yield the parts of a document, none if it is empty or beyond the evaluated text."""
        if not text:
            return
        joined = self.plan.text_of(name)
        begin = self.offsets.get(joined, 0)
        end = begin + len(text)
        self.offsets[joined] = end + 1  # after a separator
        for split, start, stop in self.plan.ranges[joined]:
            # The range may begin or end with the separator beside the document: an empty part of it.
            if start < stop and start <= end and begin <= stop:
                part = text[max(start - begin, 0) : stop - begin]
                yield Part(split, _trim_partial_characters(part) if self.plan.strict else part, stop <= end)


def plan_splits(survey: Survey, source: Source, eval_bytes: int | None, strict: bool) -> SplitPlan:
    """Return how a source is split, with at most `eval_bytes` of validation and of test.

    Raises ArchlabError for names that contradict each other, and a split without text; see `read_corpus`.
    """
    split_of = {} if source.split_by == "documents" else assign_splits(list(survey.files), source, _REMEDY)
    named = _files_by_split(survey, split_of, source)
    missing = missing_splits(named)
    train = named.get("train", list(survey.files.values()))
    by_hash = bool(missing) and all(_hashed_lengths(train, missing).values())
    ranges = {split: [ByteRange(split, 0, _length(files))] for split, files in named.items() if split != "train"}
    ranges |= _split_by_hash(train, missing) if by_hash else {"train": _by_position(_length(train), missing)}
    available = {split: stop - start for each in ranges.values() for split, start, stop in each}
    capped = {joined: [_cap(one, eval_bytes) for one in each] for joined, each in ranges.items()}
    cut_by = "documents" if by_hash else "bytes"
    cut = f"names; {' and '.join(missing)} cut from train by {cut_by}" if missing else "names"
    return SplitPlan(
        split_of,
        missing,
        by_hash,
        capped,
        {split: available[split] for split in SPLITS},
        cut if named else cut_by,
        strict,
    )


def _files_by_split(survey: Survey, split_of: Mapping[str, str], source: Source) -> dict[str, list[FileCounts]]:
    """Return the files of each split by their names; empty if no name is that of a split."""
    named: dict[str, list[FileCounts]] = {split: [] for split in SPLITS if split in split_of.values()}
    for file, split in split_of.items():
        named[split].append(survey.files[file])
    for split, files in named.items():
        if not any(sum(file.documents) for file in files):
            raise ArchlabError(f"{source}: the {split} split, {files[0].first}, holds no text")
    return named


def _length(files: Sequence[FileCounts], bins: Sequence[int] = (0, 1, 2)) -> int:
    """Return the bytes of the documents in some ranges of the hash, joined by separators."""
    documents = sum(file.documents[bin_] for file in files for bin_ in bins)
    return sum(file.num_bytes[bin_] for file in files for bin_ in bins) + max(documents - 1, 0)


def _hashed_lengths(files: Sequence[FileCounts], missing: Sequence[str]) -> dict[str, int]:
    held_out = {split: _length(files, [bin_]) for bin_, split in enumerate(missing)}
    return {"train": _length(files, range(len(missing), 3)), **held_out}


def _split_by_hash(files: Sequence[FileCounts], missing: Sequence[str]) -> dict[str, list[ByteRange]]:
    return {split: [ByteRange(split, 0, length)] for split, length in _hashed_lengths(files, missing).items()}


def _by_position(length: int, missing: Sequence[str]) -> list[ByteRange]:
    """Return train, and after it the last bytes of the text as the splits that are missing."""
    held_out = int(length * HELD_OUT_FRACTION)
    starts = [0, *(length - held_out * number for number in range(len(missing), -1, -1))]
    names = ("train", *missing)
    return [ByteRange(split, *ends) for split, *ends in zip(names, starts, starts[1:], strict=False)]


def _cap(one: ByteRange, eval_bytes: int | None) -> ByteRange:
    if one.split == "train" or eval_bytes is None:
        return one
    return one._replace(stop=min(one.stop, one.start + eval_bytes))


def _trim_partial_characters(text: bytes) -> bytes:
    """Drop the UTF-8 characters that a split by bytes cut in two."""
    return text.decode(errors="ignore").encode()
