"""A cache of facts about a source's text, keyed by the times of its files, so that it is read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.data.file_stamps import Stamp
from archlab.data.prepared.manifest import FORMAT, read_json, write_json
from archlab.data.split_plan import SplitPlan, plan_splits
from archlab.data.survey import FileCounts, Source, Survey, survey_source
from archlab.errors import ArchlabError

_MAX_FILES = 100_000  # whose counts are remembered; of more only the digest


@dataclass(frozen=True)
class KnownSource:
    """A source whose documents were read and counted, how they are split, and a digest of both."""

    source: Source
    plan: SplitPlan
    documents: int
    sha256: str
    eval_bytes: int | None
    stamp: Stamp

    def describe(self) -> dict[str, Any]:
        """Return the identity of the text, for `Task.describe`."""
        return {
            "documents": self.documents,
            "split_by": self.plan.split_by,
            "sha256": self.sha256,
            "eval_bytes": self.eval_bytes,
            "bytes_available": dict(self.plan.available),
        }

    def require_unchanged(self) -> None:
        """Raise ArchlabError if a file has changed since the text was read."""
        if self.source.stamp().digest != self.stamp.digest:
            raise ArchlabError(f"{self.source}: has changed while it was read; start again")


def known_digest(source: Source, folder: Path) -> str | None:
    """Return the digest of a source that was read before and has not changed since, without reading it."""
    facts = _read(folder, source.stamp())
    return str(facts["sha256"]) if facts else None


def know_source(source: Source, eval_bytes: int | None, folder: Path) -> KnownSource:
    """Read a source, unless it was read before and has not changed since, and return the facts about it."""
    # The stamp before the reading: a change meanwhile shows at the end.
    stamp = source.stamp()
    survey = _recall(_read(folder, stamp))
    is_recalled = survey is not None
    survey = survey or survey_source(source)
    plan = plan_splits(survey, source, eval_bytes, True)
    digest = survey.sha256(plan.split_by, plan.available)
    if stamp.is_settled and not is_recalled and source.stamp() == stamp:
        _remember(folder / _name(stamp), survey, digest)
    return KnownSource(source, plan, survey.documents, digest, eval_bytes, stamp)


def _name(stamp: Stamp) -> str:
    return f"{stamp.digest}.json"


def _read(folder: Path, stamp: Stamp) -> dict[str, Any] | None:
    facts = read_json(folder / _name(stamp)) if stamp.is_settled else None
    return facts if facts and facts.get("format") == FORMAT else None


def _remember(file: Path, survey: Survey, digest: str) -> None:
    facts: dict[str, Any] = {"format": FORMAT, "sha256": digest}
    if len(survey.files) <= _MAX_FILES:
        files = {name: [counts.first, counts.documents, counts.num_bytes] for name, counts in survey.files.items()}
        facts |= {"documents": survey.documents, "shards": survey.shards, "files": files}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, facts)


def _recall(facts: dict[str, Any] | None) -> Survey | None:
    if facts is None or "files" not in facts:
        return None
    files = {name: FileCounts(*counts) for name, counts in facts["files"].items()}
    return Survey(files, facts["documents"], facts["shards"], digest=facts["sha256"])
