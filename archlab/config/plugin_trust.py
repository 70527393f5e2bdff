"""Whether the code that a recorded experiment names may run.

An experiment that a user writes runs the plugins that it lists. One that is in a run, a search or a checkpoint came
with it, perhaps from a stranger: its plugins run only if they ran here before, or if the user says so, once. What may
run is remembered by the SHA-256 of its content, and a user's own file by its path too, for it is edited after a run.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.errors import ConfigError

Ask = Callable[[str], bool]
_PATHS = "surrogateescape"  # as Python reads names of files, which need not be UTF-8
_RECORDED = ("experiment.yaml", "base.yaml", "search.yaml", "config.yaml")
# Files beside an experiment in a run, a checkpoint, a search or an export.
_EVIDENCE = ("model.safetensors", "provenance.json", "metrics.jsonl", ".workers.lock")
# `${name:...}` calls a resolver: of the environment, or whatever the process has registered. Backslashes escape.
_RESOLVER = re.compile(r"(?<!\\)(?:\\\\)*\$\{.*:", re.DOTALL)


@dataclass(frozen=True)
class _Policy:
    trusts_all: bool = False
    ask: Ask | None = None


_REFUSE = _Policy()
_policy: ContextVar[_Policy] = ContextVar("plugin_trust", default=_REFUSE)


@contextmanager
def plugin_policy(*, trust: bool, ask: Ask | None = None) -> Iterator[None]:
    """Within the block, let recorded plugins run, or ask for each that is not known; by default they are refused."""
    outer = _policy.get()
    token = _policy.set(_Policy(trust or outer.trusts_all, ask or outer.ask))
    try:
        yield
    finally:
        _policy.reset(token)


def is_recorded(file: Path) -> bool:
    """Return whether a YAML file is part of a run, a search, a checkpoint or an export, by the files beside it."""
    return file.name in _RECORDED and any((file.parent / name).exists() for name in _EVIDENCE)


def require_trust(plugin: str, file: Path | None, source: Path) -> None:
    """Raise ConfigError unless a plugin that a recorded experiment names may run; `file` is None for a module."""
    keys, policy = _keys(plugin, file), _policy.get()
    if policy.trusts_all:
        remember(plugin, file)
    elif not keys & _trusted_plugins():
        question = f"{source} names the plugin {plugin!r}, which has not run here before. Run its code?"
        if policy.ask is None or not policy.ask(question):
            advice = "it came with the experiment and has not run here before: read it, then pass --trust-plugins once"
            raise ConfigError("plugins", f"{plugin!r} is code: {advice} (trust_plugins=True in Python)", str(source))
        remember(plugin, file)


def remember(plugin: str, file: Path | None, *, own: bool = False) -> None:
    """Remember a plugin that ran: by its content, and by its path too if it is the user's `own`."""
    keys = {key for key in _keys(plugin, file) if own or not key.startswith("path ")} - _trusted_plugins()
    store = _store()
    if not keys or store is None:
        return
    with suppress(OSError):  # a home that cannot be written to: it is asked for again
        store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(store, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8", errors=_PATHS) as opened:
            opened.write("".join(f"{key}\n" for key in sorted(keys)))


def _keys(plugin: str, file: Path | None) -> set[str]:
    """Return the lines of the store that let a plugin run."""
    if file is None:
        return {f"module {plugin}"}
    keys = {f"path {file}"} if "\n" not in str(file) and _is_users(file) else set()
    with suppress(OSError):
        keys.add(f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")
    return keys


def _trusted_plugins() -> set[str]:
    store = _store()
    if store is None or not store.is_file() or not _is_users(store):
        return set()
    with suppress(OSError):
        return set(store.read_text(encoding="utf-8", errors=_PATHS).splitlines())
    return set()


def _store() -> Path | None:
    # Not absolute for a user without HOME and without an entry in passwd, as containers have.
    state = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    return state / "archlab" / "trusted_plugins" if state.is_absolute() else None


def _is_users(file: Path) -> bool:
    """Return whether a file is the user's own and no other one may write to it."""
    try:
        status = file.stat()
    except OSError:
        return False
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH)


def refuse_resolvers(tree: Any, source: Path, path: str = "") -> None:
    """Raise ConfigError for a text of a recorded experiment that would read the environment or call a function."""
    if _policy.get().trusts_all:
        return
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        refuse_resolvers(value, source, f"{path}[{key}]" if isinstance(tree, list) else f"{path}.{key}".lstrip("."))
    if isinstance(tree, str) and _RESOLVER.search(tree):
        problem = f"{tree!r} calls a function, which a recorded experiment may not; write its value"
        raise ConfigError(path, problem, str(source))
