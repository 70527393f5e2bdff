"""Text of unknown origin, written so that terminals, pages and shells read it as it is."""

from __future__ import annotations

import os
import re
import shlex

# Characters that a terminal obeys, hides or reorders instead of showing: control characters, bidirectional overrides,
# invisible marks, line separators, and surrogates, which are bytes of file names that are not UTF-8. The joiners U+200C
# and U+200D are left out: Persian and emoji are written with them.
HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)
_LONGEST = 1000


def visible(text: str, keep: str = "") -> str:
    r"""Return a text with its hidden characters as Python escapes such as `\x1b`, except those of `keep`."""
    return HIDDEN.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def shorten(text: str, length: int = _LONGEST) -> str:
    """Return a text of at most `length` characters, its middle left out if it is longer."""
    end = length // 4
    return text if len(text) <= length else f"{text[: length - end - 5]} ... {text[-end:]}"


def shell_quote(text: str | os.PathLike[str]) -> str:
    """Return a word of a command line that a shell reads as the text, and a terminal shows."""
    text = os.fspath(text)
    if not HIDDEN.search(text):
        return shlex.quote(text)
    # The quotes of bash and zsh that have escapes; in others a control character would have to be printed.
    data = os.fsencode(text)
    return "$'" + "".join(chr(byte) if _is_plain(byte) else f"\\{byte:03o}" for byte in data) + "'"


def shell_path(path: str | os.PathLike[str]) -> str:
    """Return a path as a word of a command line, which no command takes for an option."""
    text = os.fspath(path)
    return shell_quote(f"./{text}" if text.startswith("-") else text)


def _is_plain(byte: int) -> bool:
    return 0x20 <= byte <= 0x7E and byte not in b"'\\"


def with_article(noun: str) -> str:
    """Return a noun after `a`, or `an` before a vowel."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
