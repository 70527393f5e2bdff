"""Plugins: a user's components, from a Python file or an installed module."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from pathlib import Path

from archlab.config import plugin_trust, renames
from archlab.config.import_file import import_file
from archlab.config.registry import forget
from archlab.errors import ArchlabError, ConfigError, one_line


def load_plugin(plugin: str, folder: Path, path: str = "plugins", *, recorded_in: Path | None = None) -> None:
    """Import a user's components: a file relative to `folder`, or the name of an installed module.

    `recorded_in` is the file of a run or checkpoint that names the plugin, which is then code of others until trusted.
    """
    file = (folder / plugin).resolve() if plugin.endswith(".py") else None
    if file is None and os.sep in plugin:
        raise ConfigError(path, f"{plugin!r} is not a Python file (.py)")
    if recorded_in is not None:
        plugin_trust.require_trust(plugin, file, recorded_in)
    try:
        if file is not None:
            _load_file(file)
        else:
            importlib.import_module(plugin)
    except FileNotFoundError:
        raise ConfigError(path, f"no file {str(folder / plugin)!r}") from None
    except ArchlabError:
        raise
    except Exception as error:
        reason = renames.moved_import(error) or f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(path, f"{plugin!r} cannot be imported: {reason}") from error
    if recorded_in is None:
        plugin_trust.remember(plugin, file, own=True)


def _load_file(file: Path) -> None:
    # Two plugins may have one file name; sys.modules must keep them apart.
    name = f"archlab_plugin_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}_{file.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file):
        return
    if not file.is_file():
        raise FileNotFoundError(file)
    try:
        import_file(file, name)
    except BaseException:
        forget(name)
        raise
