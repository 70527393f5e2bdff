"""Whatever a tokenizer.json holds, it is refused by name, or reads text the same way each time."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from archlab import ArchlabError
from archlab.data.tokenizers import HuggingFaceTokenizer, load_tokenizer

pytest.importorskip("tokenizers", reason="tokenizer files need tokenizers")

TEXTS = ("ash birch", "Ash  bïrch\r\n\tash </s> ▁x", "", " ", "日本 🌲")
ALPHABET = ["<unk>", "<s>", "</s>", "a", "s", "h", "▁", "as", "ash", "birch", *(f"<0x{n:02X}>" for n in range(256))]
VOCABULARY = {token: id_ for id_, token in enumerate(ALPHABET)}


def component(*types: str, **fields: Any) -> dict[str, Any]:
    return {"type": types[0], **fields}


MODELS = [
    component("WordLevel", vocab=VOCABULARY, unk_token="<unk>"),
    component("WordLevel", vocab={"ash": 0}, unk_token="<unk>"),
    component(
        "WordPiece", vocab=VOCABULARY, unk_token="<unk>", continuing_subword_prefix="##", max_input_chars_per_word=9
    ),
    component("Unigram", vocab=[[token, -1.0] for token in ALPHABET], unk_id=0, byte_fallback=True),
    component("BPE", vocab=VOCABULARY, merges=["a s", "as h"], byte_fallback=True, dropout=0.5, unk_token="<unk>"),
    component("BPE", vocab=VOCABULARY, merges=[["a", "s"]], fuse_unk=True, end_of_word_suffix="</w>"),
]
NORMALIZERS = [component("Lowercase"), component("NFKC"), component("Strip", strip_left=True, strip_right=True)]
SPLITTERS = [
    component("Whitespace"),
    component("ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
    component("Metaspace", replacement="▁", prepend_scheme="first", split=True),
]
DECODERS = [SPLITTERS[1], SPLITTERS[2], component("ByteFallback"), component("WordPiece", prefix="##", cleanup=True)]
BOS = component(
    "TemplateProcessing",
    single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    pair=[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    special_tokens={"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
)
ADDED = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": False, "special": True}
junk = (
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.text(max_size=3) | st.just([]) | st.just({}) | st.floats()
)


def files() -> st.SearchStrategy[dict[str, Any]]:
    """Whole files: every model with every normalizer, splitter, decoder, and settings of another's last use."""
    return st.fixed_dictionaries(
        {
            "version": st.just("1.0"),
            "truncation": st.sampled_from(
                [None, {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}]
            ),
            "padding": st.sampled_from(
                [
                    None,
                    {
                        "strategy": {"Fixed": 64},
                        "direction": "Right",
                        "pad_id": 0,
                        "pad_type_id": 0,
                        "pad_token": "a",
                        "pad_to_multiple_of": None,
                    },
                ]
            ),
            "added_tokens": st.sampled_from([[], [{"id": 2, "content": "</s>", **ADDED}]]),
            "normalizer": st.sampled_from([None, *NORMALIZERS]),
            "pre_tokenizer": st.sampled_from([None, *SPLITTERS]),
            "post_processor": st.sampled_from([None, BOS]),
            "decoder": st.sampled_from([None, *DECODERS]),
            "model": st.sampled_from(MODELS),
        }
    )


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file, as it is, with a value replaced or removed, or with bytes changed or cut off."""
    tree = json.loads(json.dumps(draw(files())))
    place = draw(st.sampled_from([tree, *(node for node in tree.values() if isinstance(node, dict))]))
    if draw(st.booleans()) and place:
        key = draw(st.sampled_from(sorted(place)))
        place.update({key: draw(junk)})
    data = bytearray(json.dumps(tree).encode())
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=3))
    return bytes(data)


def read(file: Path, data: bytes, special_tokens: bool) -> HuggingFaceTokenizer:
    file.write_bytes(data)
    tokenizer = load_tokenizer(str(file), special_tokens)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    return tokenizer


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Accept errors for the user that name a file."""
    try:
        yield
    except ArchlabError as error:
        if not str(error).startswith(f"{file}: "):
            raise


def check(tokenizer: HuggingFaceTokenizer, text: str) -> None:
    """Encode and decode a text in every way; where nothing is said to be lost, it comes back."""
    corpus = text.encode()
    first = tokenizer.encode_corpus(corpus)
    assert first.tolist() == tokenizer.encode_corpus(corpus).tolist()
    assert all(token < tokenizer.vocab_size for token in [*first.tolist(), *tokenizer.encode(text)])
    tokens = first[: len(first) - len(tokenizer.end)].tolist()
    decoder = tokenizer.decoder()
    streamed = "".join(map(decoder, tokens)) + decoder.finish()
    if tokenizer.lost(corpus).num_bytes == 0:
        assert tokenizer.decode(tokens).removeprefix(" ") == text.removeprefix(" ")
        assert streamed.removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.slow
@settings(max_examples=2000 if THOROUGH else 60, deadline=None, suppress_health_check=list(HealthCheck))
@seed(0)
@given(damaged(), st.booleans())
@example(b"", False)
@example(b"\xff\xfe", False)
@example(b"[" * 10_000, True)
def test_a_tokenizer_file_is_refused_or_right(data: bytes, special_tokens: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, naming(Path(folder, "tokenizer.json")):
        tokenizer = read(Path(folder, "tokenizer.json"), data, special_tokens)
        for text in TEXTS:
            with naming(Path(folder, "tokenizer.json")):
                check(tokenizer, text)
