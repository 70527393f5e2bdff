"""Settings that a tokenizer.json carries from its last use do not act; its special tokens do if asked to."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import SENTENCES, write_json_lines, write_tokenizer

from archlab import ArchlabError
from archlab.components.task.no_data import NoData
from archlab.components.task.text import Text
from archlab.data.tokenizers import HuggingFaceTokenizer, IncrementalDecoder, WordTokenizer, load_tokenizer
from archlab.inference.evaluate import evaluate

tokenizers = pytest.importorskip("tokenizers", reason="tokenizer files need tokenizers")


def edit(file: Path, change: Callable[[Any], None]) -> Path:
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    change(tokenizer)
    tokenizer.save(str(file))
    return file


def words(file: Path, vocabulary: list[str], unk_token: str) -> Path:
    model = tokenizers.models.WordLevel({word: id_ for id_, word in enumerate(vocabulary)}, unk_token=unk_token)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(file))
    return file


def add_bos(tokenizer: Any) -> None:
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    special = [(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<eos>")]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=special)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path / "tokenizer.json")


def test_truncation_and_padding_do_not_act(file: Path) -> None:
    text = "grüne Ente schwimmt mal " * 9
    expected = HuggingFaceTokenizer(str(file)).encode(text)
    edit(file, lambda tokenizer: (tokenizer.enable_truncation(8), tokenizer.enable_padding(length=999)))
    tokenizer = HuggingFaceTokenizer(str(file))
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode_corpus(f"{text}\0x".encode()).tolist()[: len(expected)] == expected
    assert tokenizer.decode(expected) == text


def test_merges_are_not_drawn_at_random(file: Path) -> None:
    expected = HuggingFaceTokenizer(str(file)).encode(SENTENCES[0])

    def drop(tokenizer: Any) -> None:
        tokenizer.model.dropout = 0.9

    edit(file, drop)
    assert all(HuggingFaceTokenizer(str(file)).encode(SENTENCES[0]) == expected for _ in range(5))


def test_a_file_that_has_changed_is_read_again(file: Path) -> None:
    before = HuggingFaceTokenizer(str(file))
    edit(file, add_bos)
    assert HuggingFaceTokenizer(str(file)).vocab_size == before.vocab_size + 2
    assert HuggingFaceTokenizer(str(file)) != before


def test_special_tokens_are_a_setting(file: Path) -> None:
    edit(file, add_bos)
    plain, special = (HuggingFaceTokenizer(str(file), on) for on in (False, True))
    assert special.before == plain.before == ("<bos>",)
    assert special.encode("Ente") == [400, *plain.encode("Ente")]
    assert (special.prefix, plain.prefix) == ([400], [])


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ({}, ("<bos>",), ()),
        ({"bos_token": "<bos>"}, ("<bos>",), ()),
        ({"add_bos_token": False, "bos_token": "<bos>"}, (), ()),
        ({"add_bos_token": True, "bos_token": {"content": "<bos>"}}, ("<bos>",), ()),
        ({"add_bos_token": True, "bos_token": None}, (), ()),
        ({"add_eos_token": True, "eos_token": "<eos>", "bos_token": "<bos>"}, (), ("<eos>",)),
    ],
)
def test_special_tokens_are_those_that_transformers_adds(
    file: Path, config: dict[str, Any], before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    edit(file, add_bos)
    (file.parent / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = HuggingFaceTokenizer(str(file), special_tokens=True)
    assert (tokenizer.before, tokenizer.after) == (before, after)
    assert tokenizer.end == [401 if after else 0]


def test_a_document_that_spells_a_special_token_does_not_end(file: Path) -> None:
    text = b"a <|endoftext|> b"
    plain = HuggingFaceTokenizer(str(file)).encode_corpus(text).tolist()
    special = HuggingFaceTokenizer(str(file), special_tokens=True).encode_corpus(text).tolist()
    assert (plain.count(0), special.count(0)) == (1, 2)
    assert HuggingFaceTokenizer(str(file)).decode(plain) == "a <|endoftext|> b<|endoftext|>"
    assert HuggingFaceTokenizer(str(file)).encode("<|endoftext|>") == [0]  # a prompt may begin with one


@pytest.mark.slow
def test_every_window_begins_with_the_prefix(file: Path, tmp_path: Path) -> None:
    edit(file, add_bos)
    write_json_lines(tmp_path / "text" / "a.jsonl")
    task = Text(path=str(tmp_path / "text"), tokenizer=str(file), special_tokens=True, eval_bytes=None)
    tokens = task._tokens("test").tolist()
    batches = list(task.eval_batches("test", 3, 16))
    assert all((inputs[:, 0] == 400).all() for inputs, _ in batches)
    targets = [int(token) for _, targets in batches for token in targets.flatten() if token >= 0]
    assert targets == tokens
    inputs, targets_BT = task.batch("train", 0, 4, 16, 0)
    assert (inputs[:, 0] == 400).all()
    assert (inputs[:, 1:] == targets_BT[:, :-1]).all()
    starts = range(0, len(task._tokens("train")) - 15)
    assert targets_BT[0].tolist() in [task._tokens("train")[start : start + 16].tolist() for start in starts]


def test_identifiers_with_gaps_are_counted_to_the_last(tmp_path: Path) -> None:
    model = tokenizers.models.WordLevel({"a": 0, "b": 9}, unk_token="a")
    tokenizers.Tokenizer(model).save(str(tmp_path / "t.json"))
    assert load_tokenizer(str(tmp_path / "t.json")).vocab_size == 10


def test_text_without_tokens_is_refused(tmp_path: Path) -> None:
    file = words(tmp_path / "t.json", ["ash", "birch"], "<unk>")
    tokenizer = HuggingFaceTokenizer(str(file))
    assert tokenizer.encode("ash birch") == [0, 1]
    with pytest.raises(ArchlabError, match=r"t\.json: has no tokens for 'ash larch': .*Missing \[UNK\]"):
        tokenizer.encode("ash larch")
    with pytest.raises(ArchlabError, match=r"t\.json: has no tokens for 'larch': "):
        tokenizer.encode_corpus(b"ash\0larch\0birch")
    with pytest.raises(ArchlabError, match=r"t\.json: has no tokens for '.udcff'"):
        tokenizer.encode("\udcff")


@pytest.mark.parametrize("normalizer", ["Lowercase", "StripAccents", "NFC", None])
def test_bits_per_byte_are_of_the_text_or_left_out(
    file: Path, tmp_path: Path, normalizer: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def normalize(tokenizer: Any) -> None:
        if normalizer is not None:
            tokenizer.normalizer = getattr(tokenizers.normalizers, normalizer)()

    edit(file, normalize)
    write_json_lines(tmp_path / "text" / "a.jsonl")
    task = Text(path=str(tmp_path / "text"), tokenizer=str(file))
    with caplog.at_level(logging.WARNING):
        is_right = task.has_bits_per_byte("test")
    assert is_right == (normalizer in (None, "NFC", "StripAccents"))  # composed accents stay without a decomposition
    assert ("bits per byte would be wrong and are left out" in caplog.text) != is_right


def test_unknown_words_cost_nothing_and_have_no_bits_per_byte(tmp_path: Path) -> None:
    from torch import nn

    class Uniform(nn.Module):
        def forward(self, tokens: Any, state: Any = None) -> Any:
            return nn.functional.one_hot(tokens * 0, 4).float(), state

    (tmp_path / "train.txt").write_text("a b\n" * 40)
    for name in ("validation", "test"):
        (tmp_path / f"{name}.txt").write_text("x y z " * 9)
    task = Text(path=str(tmp_path), tokenizer="words", vocab_size=4)
    assert task.tokenizer.lost(b"x y z a").num_bytes == 3
    assert "bpb" not in evaluate(Uniform(), task, "test", batch_size=1, context=8).metrics
    assert task.has_bits_per_byte("train")


def test_bits_per_byte_of_the_beginning_count_its_bytes(file: Path, tmp_path: Path) -> None:
    texts = ["the the the the the the the the " * 9, "€".join("abcdefgh") * 9]  # many bytes a token, then few
    for split in ("train", "validation", "test"):
        write_json_lines(tmp_path / "text" / f"{split}.jsonl", texts)
    task = Text(path=str(tmp_path / "text"), tokenizer=str(file))
    whole = task.bytes_per_evaluated_token("test", None)
    assert whole == task.bytes_per_token("test") == task.bytes_per_evaluated_token("test", task.length("test"))
    tokens = task._tokens("test")[1:31].tolist()
    expected = len(task.tokenizer.decode(tokens).encode()) / 30
    assert task.bytes_per_evaluated_token("test", 30) == expected > 1.2 * whole


def test_a_document_ends_with_a_special_token(file: Path) -> None:
    def add(tokenizer: Any) -> None:
        tokenizer.add_tokens(["</s>"])  # of HTML, as in Gemma's vocabulary
        tokenizer.add_special_tokens(["<eos>"])

    vocabulary = json.loads(file.read_text())
    vocabulary["added_tokens"] = []
    file.write_text(json.dumps(vocabulary).replace("<|endoftext|>", "<|nothing|>"))
    edit(file, add)
    assert HuggingFaceTokenizer(str(file)).end == [401]


def test_separators_without_a_token_are_no_bytes(tmp_path: Path) -> None:
    file = words(tmp_path / "t.json", ["ash", "[UNK]"], "[UNK]")
    assert HuggingFaceTokenizer(str(file)).num_bytes(b"ash\0ash") == 6
    assert WordTokenizer(b"ash", 2).num_bytes(b"ash\0ash") == 7


def test_decoding_a_token_takes_the_same_time_after_thousands(file: Path) -> None:
    tokenizer, calls = HuggingFaceTokenizer(str(file)), []

    def decode(tokens: Any) -> str:
        calls.append(len(tokens))
        return tokenizer.decode(tokens)

    tokens = [token for sentence in SENTENCES[:40] for token in tokenizer.encode(sentence)]
    tokens += np.random.default_rng(0).integers(0, 256, 300).tolist()  # bytes that are no UTF-8, as a poor model has
    decoder = IncrementalDecoder(decode)
    text = "".join(map(decoder, tokens)) + decoder.finish()
    assert text == tokenizer.decode(tokens)
    assert max(calls) <= 2 * 16


def test_a_continuation_keeps_the_space_before_its_first_word(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "▁the": 1, "▁ash": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.save(str(tmp_path / "t.json"))
    task = NoData(vocab_size=3, tokenizer=str(tmp_path / "t.json"))
    prompt = task.encode("the ash")
    assert prompt == [1, 2]
    assert "".join(task.decode_continuation(prompt, [1, 2])) == " the ash"
    assert "".join(task.decode_stream([1, 2])) == "the ash"


def test_half_a_character_is_refused(file: Path) -> None:
    for tokenizer in ("bytes", str(file)):
        with pytest.raises(ArchlabError, match=r"the text has half a character, '.ud800', at 1"):
            NoData(vocab_size=500, tokenizer=tokenizer).encode("a\ud800")


def test_words_are_decoded_by_themselves() -> None:
    tokenizer = WordTokenizer(b"a a b\nc b a", 4)
    decoder = tokenizer.decoder()
    assert [decoder(token) for token in range(4)] == ["<unk> ", "a ", "\n", "b "]
    assert decoder.finish() == ""


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "cannot be read: Expecting"),
        ("[" * 10**5, "cannot be read: maximum recursion"),
        ("[]", "is no JSON object$"),
    ],
)
def test_a_damaged_configuration_is_named(file: Path, config: str, problem: str) -> None:
    file.with_name("tokenizer_config.json").write_text(config)
    with pytest.raises(ArchlabError, match=rf"^{file.parent}/tokenizer_config\.json: {problem}"):
        load_tokenizer(str(file))


def test_a_file_that_may_not_be_read_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(ArchlabError, match=rf"^{file}: cannot be read: Permission denied$"):
        load_tokenizer(str(file))
