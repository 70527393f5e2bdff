"""A model behind an OpenAI-compatible endpoint that rates answers, named by environment variables."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from archlab.errors import ArchlabError, one_line

URL, MODEL, KEY = "ARCHLAB_JUDGE_URL", "ARCHLAB_JUDGE_MODEL", "ARCHLAB_JUDGE_KEY"
_TIMEOUT_S, _ATTEMPTS, _MAX_TOKENS = 120, 4, 2048
_BUSY = {408, 429, 500, 502, 503, 504}
_RATING = re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]")
_LOWEST, _HIGHEST = 1, 10


@dataclass(frozen=True)
class Judge:
    """An endpoint, such as http://127.0.0.1:8000/v1, one of its models, and a key that is never shown."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    wait_s: float = 1.0  # before an endpoint that was busy is asked again, twice as long each time

    @classmethod
    def from_environment(cls) -> Judge:
        """Return the judge that environment variables name; raise ArchlabError where they name none."""
        url, model = os.environ.get(URL, "").rstrip("/"), os.environ.get(MODEL, "")
        if not url or not model:
            raise ArchlabError(f"there is no judge: set {URL} to an OpenAI-compatible endpoint, {MODEL}, and {KEY}")
        if urlsplit(url).scheme not in ("http", "https"):
            raise ArchlabError(f"{URL}: is not an http or https address")
        return cls(url, model, os.environ.get(KEY, ""))

    def ask(self, system: str, prompt: str) -> str:
        """Return the judge's answer; raise ArchlabError if the endpoint fails."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        asked = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": _MAX_TOKENS}
        for attempt in range(_ATTEMPTS):
            try:
                return _content(self._post(asked))
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or attempt == _ATTEMPTS - 1:
                    raise ArchlabError(f"the judge answers {error.code} ({error.reason})") from None
            except (OSError, ValueError) as error:
                raise ArchlabError(f"the judge cannot be asked: {one_line(error)}") from None
            time.sleep(self.wait_s * 2**attempt)
        raise AssertionError

    def _post(self, data: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(data).encode(), headers)
        if self.key:
            # Not sent to where the endpoint may redirect.
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)


def _content(answer: Any) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    if not isinstance(content, str):
        raise ArchlabError("the judge's endpoint does not answer as OpenAI's does: no choices[0].message.content")
    return content


def rating_in(judgment: str) -> float | None:
    """Return the rating from 1 to 10 in [[ ]] that a judgment ends with, or None."""
    found = _RATING.findall(judgment)
    rating = float(found[-1]) if found else 0.0
    return rating if _LOWEST <= rating <= _HIGHEST else None
