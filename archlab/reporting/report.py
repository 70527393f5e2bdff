"""Reports: one HTML file, readable offline, of a search, a ladder or a training run."""

from __future__ import annotations

from pathlib import Path

from archlab.config.yaml_files import load_yaml
from archlab.errors import ArchlabError
from archlab.reporting.pages.ladder_page import ladder_page
from archlab.reporting.pages.run_page import run_page
from archlab.reporting.pages.search_page import search_page
from archlab.reporting.search_data import read_search
from archlab.storage.files import write_text
from archlab.storage.locks import lock
from archlab.storage.targets import require_report_target


def report(folder: Path) -> Path:
    """Write report.html into the directory of a search or a run, and return its path; raise ArchlabError for others."""
    require_report_target(folder / "report.html")
    if (folder / "search.yaml").is_file():
        # Read under the lock too: the last of several workers to write has seen the trials of all others.
        with lock(folder / ".report.lock", wait=True):
            is_ladder = load_yaml(folder / "search.yaml").get("rungs") is not None
            write_text(folder / "report.html", ladder_page(folder) if is_ladder else search_page(read_search(folder)))
        return folder / "report.html"
    if (folder / "experiment.yaml").is_file() and (folder / "metrics.jsonl").is_file():
        text = run_page(folder)
    else:
        raise ArchlabError(f"{folder}: holds neither a search (search.yaml) nor a run (experiment.yaml, metrics.jsonl)")
    write_text(folder / "report.html", text)
    return folder / "report.html"
