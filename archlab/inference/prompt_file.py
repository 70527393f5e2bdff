"""Prompts and their continuations as JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archlab.config.strict_json import parse_object
from archlab.data.file_types import require_utf8, split_lines
from archlab.errors import ArchlabError, did_you_mean, is_unicode, one_line, show_value
from archlab.inference.prompts import GeneratedToken, Generation, Prompt
from archlab.storage.json_values import is_finite
from archlab.storage.output_file import require_output_file

_BOM = b"\xef\xbb\xbf"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and is_unicode(value)


def _can_be_passed_on(value: object) -> bool:
    try:
        return is_unicode(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:
        return False


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


# The names are those of the flags of `archlab generate`.
_KEYS: dict[str, tuple[str, Callable[[object], bool], str]] = {
    "prompt": ("text", _is_text, "a text"),
    "id": ("id", _can_be_passed_on, "JSON that can be passed on"),
    "tokens": ("max_new_tokens", _is_whole, "a whole number"),
    "temperature": ("temperature", is_finite, "a number"),
    "top_k": ("top_k", _is_whole, "a whole number"),
    "top_p": ("top_p", is_finite, "a number"),
    "seed": ("seed", _is_whole, "a whole number"),
    "stop": ("stop", _are_texts, "a text or a list of texts"),
}


def read_prompts(data: bytes, location: str) -> list[Prompt]:
    """Return the prompts of JSON lines, one object a line; blank lines are skipped.

    Raises ArchlabError naming the line of anything else: no JSON, a key that is unknown, a value of another type.
    """
    lines = enumerate(split_lines(data.removeprefix(_BOM)), 1)
    prompts = [_read_prompt(line, f"{location}:{number}") for number, line in lines if line.strip()]
    if not prompts:
        raise ArchlabError(f'{location}: has no prompts; a line holds one, such as {{"prompt": "def "}}')
    return prompts


def _read_prompt(line: bytes, place: str) -> Prompt:
    require_utf8(line, place)
    try:
        entries = parse_object(line)
    except ValueError as error:
        raise ArchlabError(f'{place}: is not an object such as {{"prompt": "def "}}: {one_line(error)}') from error
    if "prompt" not in entries:
        raise ArchlabError(f"{place}: has no 'prompt'{did_you_mean('prompt', entries)}")
    fields: dict[str, Any] = {}
    for key, value in entries.items():
        if key not in _KEYS:
            raise ArchlabError(f"{place}: no setting {key!r}{did_you_mean(key, _KEYS)}")
        name, fits, what = _KEYS[key]
        if not fits(value):
            raise ArchlabError(f"{place}: {key} is {show_value(value)}, and not {what}")
        fields[name] = [value] if name == "stop" and isinstance(value, str) else value
    return Prompt(**fields, source=place)


def format_generation(generation: Generation, *, logprobs: bool = False, ascii_only: bool = False) -> str:
    """Return a continuation as a line of JSON, with its tokens if it has `logprobs`."""
    data: dict[str, Any] = {} if generation.prompt.id is None else {"id": generation.prompt.id}
    data |= {"prompt": generation.prompt.text, "text": generation.text}
    data |= {"num_tokens": len(generation.tokens), "finish_reason": generation.finish_reason}
    if generation.stop is not None:
        data["stop"] = generation.stop
    if logprobs:
        data["tokens"] = [_token_data(token) for token in generation.tokens]
    return json.dumps(data, ensure_ascii=ascii_only)


def format_token(token: GeneratedToken, *, ascii_only: bool = False) -> str:
    """Return a token and its probabilities as a line of JSON."""
    return json.dumps(_token_data(token), ensure_ascii=ascii_only)


def _token_data(token: GeneratedToken) -> dict[str, Any]:
    best = [{"token": each.token, "text": each.text, "logprob": each.logprob} for each in token.best]
    logprob = token.logprob if token.logprob is not None and math.isfinite(token.logprob) else None
    return {"token": token.token, "text": token.text, "logprob": logprob} | ({"best": best} if best else {})


def require_result_file(file: Path, *, force: bool) -> None:
    """Raise ArchlabError unless results may be written to a file: it is absent, or with `force` earlier results."""
    require_output_file(file, "list of results", force=force, is_own=_holds_results)


def _holds_results(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            return {"prompt", "text", "finish_reason"} <= parse_object(opened.readline()).keys()
        except ValueError:
            return False
