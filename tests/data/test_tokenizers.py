"""Tokenizers encode text and decode it, whole or one token at a time."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from data_helpers import write_tokenizer

from archlab import ArchlabError
from archlab.data.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    IncrementalDecoder,
    WordTokenizer,
    hugging_face,
    load_tokenizer,
    load_words,
    word,
)
from archlab.runtime.progress import report_to


def test_bytes_are_tokens() -> None:
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.vocab_size == 256
    assert tokenizer.encode("grüße") == [103, 114, 195, 188, 195, 159, 101]
    assert tokenizer.decode(tokenizer.encode("grüße")) == "grüße"
    assert tokenizer.decode([65, 195, 300, 66]) == "A\ufffd\ufffdB"
    assert tokenizer.encode(os.fsdecode(b"\xff")) == [255]


def test_a_character_is_emitted_with_its_last_byte() -> None:
    decoder = ByteTokenizer().decoder()
    assert [decoder(token) for token in "aß€".encode()] == ["a", "", "ß", "", "", "€"]
    assert decoder(195) == ""
    assert decoder.finish() == "\ufffd"


def test_documents_end_with_the_end_of_text_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_tokenizer(tmp_path / "tokenizer.json")))
    assert tokenizer.vocab_size == 400
    assert tokenizer.decode(tokenizer.encode("grüne Ente €")) == "grüne Ente €"
    tokens = tokenizer.encode_corpus("grüne Ente\0mal".encode())
    assert tokenizer.decode(tokens.tolist()) == "grüne Ente<|endoftext|>mal<|endoftext|>"


def test_tokens_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(str(write_tokenizer(tmp_path / "tokenizer.json")))
    decoder = tokenizer.decoder()
    pieces = [decoder(token) for token in tokenizer.encode("Ente € 💡 mal")]
    assert "".join(pieces) + decoder.finish() == "Ente € 💡 mal"
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_most_frequent_words_are_known() -> None:
    tokenizer = WordTokenizer(b"a a b\nc b a", 4)
    assert tokenizer.vocab_size == 4
    assert tokenizer.decode(range(4)) == "<unk> a \nb "
    assert tokenizer.encode_corpus(b"a d\nb").tolist() == [1, 0, 2, 3, 2]
    assert tokenizer.encode("b a zebra") == [3, 1, 0]


@pytest.mark.slow
def test_more_words_than_two_bytes_can_count_are_kept() -> None:
    text = " ".join(map(str, range(70_000))).encode()
    tokens = WordTokenizer(text, 70_002).encode_corpus(text)
    assert tokens.dtype == np.uint32
    assert len(set(tokens.tolist())) == 70_001


@pytest.mark.parametrize("content", [None, "{}", "not json", b"\xff\xfe"])
def test_a_tokenizer_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | bytes | None) -> None:
    pytest.importorskip("tokenizers", reason="tokenizer files need tokenizers")
    file = tmp_path / "words.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArchlabError, match=r"words\.json: (no such tokenizer file|is not a tokenizer\.json)"):
        load_tokenizer(str(file))


def test_a_missing_tokenizers_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ArchlabError, match=r"t\.json: needs the tokenizers library: pip install tokenizers"):
        load_tokenizer("t.json")


def test_progress_is_reported_within_a_huge_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = HuggingFaceTokenizer(str(write_tokenizer(tmp_path / "tokenizer.json")))
    text = ("grüne Ente € mal " * 40).encode() + b"\0" + b"mal" * 30
    whole = tokenizer.encode_corpus(text).tolist()
    monkeypatch.setattr(hugging_face, "_GROUP", 100)
    reported: list[tuple[str, int, int | None]] = []
    with report_to(lambda *each: reported.append(each)):
        assert tokenizer.encode_corpus(text).tolist() == whole
    assert reported[0] == ("tokenizing 0 million characters", 0, 770)
    assert reported[-1] == ("tokenizing 0 million characters", 770, 770)


def test_the_bytes_of_words_are_those_of_the_text_with_single_spaces() -> None:
    tokenizer = WordTokenizer("a ü\nü b".encode(), 9)
    for text in ("a ü\n", "ü b\na a\n", "\n\n"):
        assert tokenizer.num_bytes_of(tokenizer.encode_corpus(text.encode()).tolist()) == len(text.encode())
    assert tokenizer.num_bytes_of(tokenizer.encode("ü")) == len("ü ".encode())


def test_progress_of_long_texts_of_words_ends_at_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word, "_LONG", 10)
    monkeypatch.setattr(word, "_REPORT_EVERY", 2)
    reported: list[tuple[str, int, int | None]] = []
    with report_to(lambda *each: reported.append(each)):
        tokenizer = WordTokenizer(b"a b c d e f", 9)
    assert tokenizer.encode("f a") == WordTokenizer(b"a b c d e f", 9).encode("f a")
    assert {what for what, _, _ in reported} == {"counting the words of 0 MB"}
    assert [done for _, done, _ in reported] == [0, 4, 8, 10, 11]
    assert {total for _, _, total in reported} == {11}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such vocabulary file$"),
        ("[]", "is not a vocabulary of words$"),
        ("{", "is not a vocabulary of words$"),
        ("[" * 10**5, "is not a vocabulary of words$"),
        ('{"words": ["<unk>"]}', "is not a vocabulary of words$"),
        ('{"vocab_size": 9, "words": {"<unk>": 0}}', "its words are not a list of different texts$"),
        ('{"vocab_size": 9, "words": ["<unk>", 1]}', "its words are not a list of different texts$"),
        ('{"vocab_size": 9, "words": ["<unk>", "a", "a"]}', "its words are not a list of different texts$"),
        ('{"vocab_size": 9, "words": ["a"]}', "needs the word <unk> first, and a vocab_size of at least its 1 words$"),
        ('{"vocab_size": 1, "words": ["<unk>", "a"]}', "needs .* a vocab_size of at least its 2 words$"),
        ('{"vocab_size": 2.0, "words": ["<unk>", "a"]}', "needs .* a vocab_size of at least its 2 words$"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    file = tmp_path / "vocabulary.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ArchlabError, match=rf"^{file}: {problem}"):
        load_words(str(file))


def test_a_character_that_ends_after_its_beginning_was_given_up_is_emitted() -> None:
    decoder = IncrementalDecoder(lambda tokens: bytes(tokens).decode(errors="replace"))
    assert [decoder(byte) for byte in [0xFF] * 15] == [""] * 15
    assert decoder(0xC3) == "\ufffd" * 16  # is not waited for any longer
    assert decoder(0xA9) == "é"
    assert decoder(ord("a")) == "a"


def test_a_text_that_becomes_shorter_adds_nothing() -> None:
    decoder = IncrementalDecoder(lambda tokens: {0: "", 1: "ab", 2: "a"}[len(tokens)])
    assert [decoder(token) for token in (0, 0)] == ["ab", ""]
