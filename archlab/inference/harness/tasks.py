"""Tasks of lm-eval by name, from those that it ships and from YAML files of the user."""

from __future__ import annotations

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from archlab.errors import ArchlabError, did_you_mean, one_line

# lm-eval's data for loaded tasks: `tasks` and `groups` by name, and the `group_map` of names.
Loaded: TypeAlias = Mapping[str, Any]
_SEED = 1234  # of few-shot examples, as in lm-eval
_TIMEOUT_S = 5


class MissingDataError(ArchlabError):
    """Raised if a task's data or code is not available; `needs` says what is missing."""

    def __init__(self, name: str, needs: str) -> None:
        super().__init__(f"the task {name!r} cannot be run: {needs}")
        self.needs = needs


class TaskCatalog:
    """The tasks that lm-eval knows, those of a directory of YAML files included."""

    def __init__(self, task_files: Path | None = None) -> None:
        from lm_eval.tasks import TaskManager

        if task_files is not None and not task_files.is_dir():
            raise ArchlabError(f"{task_files}: is not a directory of YAML files of tasks")
        self.task_files = None if task_files is None else str(task_files)
        self._own = self.task_files and TaskManager(include_path=self.task_files, include_defaults=False)

    @cached_property
    def _all(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=self.task_files)  # which reads 14,000 files in some seconds

    def load(self, name: str, num_fewshot: int | None = None) -> Loaded:
        """Return a task, or the tasks of a group or a tag, with the given number of examples before each question.

        By default they are as many as the task says. Raises ArchlabError for a name that there is none of, and
        MissingDataError where the data cannot be read.
        """
        manager = self._own if self._own and name in self._own.all_subtasks else self._all
        if name not in manager.task_index:
            raise ArchlabError(f"--tasks: lm-eval has no task {name!r}{did_you_mean(name, manager.all_tasks)}")
        try:
            loaded: Loaded = manager.load([name])
        except Exception as error:  # of its data library, its tasks' own code and packages that these need
            raise MissingDataError(name, _needs(error)) from error
        for task in loaded["tasks"].values():
            _set_fewshot(task, num_fewshot)
        return loaded


def _set_fewshot(task: Any, num_fewshot: int | None) -> None:
    """Set the number of examples as lm-eval's own command does: not of a task that has 0 for a reason."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_SEED)


def _needs(error: Exception) -> str:
    """Return the missing requirement of a task that could not be loaded."""
    if isinstance(error, ModuleNotFoundError):
        return f"the Python module {error.name}, which is not installed"
    named = re.search(r"'([^']+)' on the Hub", str(error)) if isinstance(error, ConnectionError) else None
    if named is not None:
        return f"the data set {named[1]}, which neither the network nor the cache has"
    return one_line(error)


@contextmanager
def quiet_and_reachable() -> Iterator[None]:
    """Silence the libraries' own bars and remarks, and have them ask no network that is not there.

    Without one each data set is asked for six times, for 23 s, before it is looked for on the disk.
    """
    import datasets
    import lm_eval.api.task
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    log, had_bars = logging.getLogger("lm_eval"), datasets.are_progress_bars_disabled()
    level = log.level
    bar, lm_eval.api.task.tqdm = lm_eval.api.task.tqdm, _without_bar  # which no setting turns off
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    if not before[0] and not _is_reachable(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
        lm_eval.api.task.tqdm = bar
        log.setLevel(level)
        if not had_bars:
            datasets.enable_progress_bars()


def _without_bar(items: Iterable[Any], **settings: object) -> Iterable[Any]:
    return items


def _is_reachable(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:  # an answer, if not the page
        return True
    except (OSError, ValueError):
        return False
