"""A model continues texts alone, in batches and from saved states, and each way gives the same."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_decoder import MODELS

from archlab import ArchlabError, GeneratedToken, Prompt
from archlab.config.experiment import load
from archlab.inference import saved_state
from archlab.inference.decoder import Decoder
from archlab.inference.prompts import Settings
from archlab.inference.saved_state import model_hash
from archlab.inference.text_model import StateFiles, TextModel
from archlab.modeling.build import build

SMALL = ("model.dim=24", "model.layers[0].repeat=1", "task={type: no_data, vocab_size: 256, tokenizer: bytes}")
LAYERS = {
    name: f"model.layers=[{{mixer: {mixer}, ffn: none}}]"
    for name, mixer in {
        "full": "{type: attention, num_heads: 2, attention: {window_size: 40}}",
        "rwkv7": "{type: rwkv7, head_dim: 8, decay_rank: 4, rate_rank: 5, gate_rank: 6}",
        "compressive": "{type: attention, num_heads: 2, attention: {type: compressive, window_size: 4, memory_size: 4,"
        " compressed_size: 2}}",
    }.items()
}
NAMES = [*MODELS, *LAYERS]


def model(name: str, seed: int = 0) -> TextModel:
    more = MODELS[name] if name in MODELS else (LAYERS[name],)
    experiment = load(name if name in MODELS else "llama2_tiny", [*SMALL, "model.vocab_size=256", *more])
    built = build(experiment.model, seed=seed).eval()
    with torch.no_grad():
        for parameter in built.parameters():  # so that continuations depend on what came before
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return TextModel(experiment, built)


@pytest.fixture(params=NAMES)
def each(request: pytest.FixtureRequest) -> TextModel:
    torch.manual_seed(0)
    return model(request.param)


def tokens_of(tokens: Sequence[GeneratedToken]) -> list[int]:
    return [token.token for token in tokens]


def run(each: TextModel, prompt: str | None, settings: Settings, **options) -> list[GeneratedToken]:
    return list(each.stream(prompt, settings, **options))


@pytest.mark.slow
def test_a_batch_gives_what_each_prompt_gives_alone(each: TextModel) -> None:
    prompts = [
        Prompt("a longer prompt, €", max_new_tokens=12),
        Prompt("b", temperature=0.0, stop=["\x00", "a"]),
        Prompt("cd", id="third", seed=5, top_k=3),
        Prompt("e", max_new_tokens=0),
        Prompt("fgh", top_p=0.5),
    ]
    defaults = Settings(max_new_tokens=9, temperature=0.7, logprobs=2)
    results = list(each.batch(prompts, defaults, 2))
    assert [result.prompt for result in results] == prompts
    for prompt, result in zip(prompts, results, strict=True):
        settings = prompt.settings(defaults)
        expected = run(each, prompt.text, settings, seed=settings.seed)
        assert tokens_of(result.tokens) == tokens_of(expected)
        assert result.text == "".join(token.text for token in expected)
        assert [one.logprob for one in result.tokens] == pytest.approx([one.logprob for one in expected], abs=1e-4)
        assert (result.finish_reason == "stop") == (result.stop is not None)


@pytest.mark.slow
def test_a_saved_state_continues_exactly(each: TextModel, tmp_path: Path) -> None:
    settings = Settings(max_new_tokens=14, temperature=0.9, logprobs=1)
    whole = run(each, "some prompt", settings, seed=3)
    files = [tmp_path / name for name in ("one", "two")]
    parts = [
        run(each, "some prompt", replace(settings, max_new_tokens=5), seed=3, files=StateFiles(None, files[0])),
        run(each, None, replace(settings, max_new_tokens=3), files=StateFiles(files[0], files[1])),
        run(each, None, replace(settings, max_new_tokens=6), files=StateFiles(files[1])),
    ]
    assert [*chain(*parts)] == whole
    assert run(each, "some prompt", replace(settings, max_new_tokens=0), files=StateFiles(None, files[0], True)) == []
    assert run(each, None, settings, seed=3, files=StateFiles(files[0])) == whole


@pytest.mark.slow
def test_a_state_with_room_for_a_compiled_decoder_continues_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Decoder, tokens: torch.Tensor) -> torch.Tensor:
        logits, state = self._model(tokens, self.state)
        assert {name: x.shape for name, x in state.items()} == {name: x.shape for name, x in self.state.items()}
        self.state = state
        return logits

    monkeypatch.setattr(Decoder, "__call__", step)
    each, file = model("full"), tmp_path / "state"
    settings = Settings(max_new_tokens=30, temperature=0.0)
    whole = run(each, "abc", settings)
    part = run(each, "abc", replace(settings, max_new_tokens=2), compile=True, files=StateFiles(None, file))
    for compile in (False, True):
        rest = run(each, None, replace(settings, max_new_tokens=28), compile=compile, files=StateFiles(file))
        assert tokens_of(part + rest) == tokens_of(whole)


def test_text_that_is_not_certain_is_the_continuation_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, file = model("rwkv7"), tmp_path / "state"
    text = "a€b</s>c".encode()
    script = iter([*text[:-1], *text])
    monkeypatch.setattr("archlab.inference.sampler.Sampler.__call__", lambda self, logits: next(script))

    def piece(prompt: str | None, count: int, load: Path | None) -> str:
        settings = Settings(max_new_tokens=count, stop=["</s>"])
        new = run(each, prompt, settings, files=StateFiles(load, file, force=True))
        return "".join(token.text for token in new)

    assert [piece("x", 2, None), piece(None, 2, file), piece(None, 3, file), piece(None, 5, file)] == [
        "a",
        "€",
        "b",
        "",
    ]
    assert "".join(token.text for token in each.stream("x", Settings(max_new_tokens=9, stop=["</s>"]))) == "a€b"


def test_a_text_after_a_saved_state_comes_after_what_was_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, file = model("rwkv7"), tmp_path / "state"
    script = iter(b"a<zz")
    monkeypatch.setattr("archlab.inference.sampler.Sampler.__call__", lambda self, logits: next(script))
    assert run(each, "x", Settings(max_new_tokens=2, stop=["<z"]), files=StateFiles(None, file))[0].text == "a"
    new = run(each, "more", Settings(max_new_tokens=2, stop=["<z"]), files=StateFiles(file))
    assert [token.text for token in new] == ["<", "z", "z"]


def test_what_was_read_counts_towards_the_window_of_full_attention(tmp_path: Path) -> None:
    each, file = model("full"), tmp_path / "state"
    run(each, "x" * 20, Settings(max_new_tokens=10), files=StateFiles(None, file))
    assert len(run(each, None, Settings(max_new_tokens=10), files=StateFiles(file))) == 10
    with pytest.raises(ArchlabError, match="a prompt of 30 tokens and 11 new ones are more than the 40 that the model"):
        run(each, None, Settings(max_new_tokens=11), files=StateFiles(file))
    with pytest.raises(ArchlabError, match=r"here:2: a prompt of 35 tokens and 10 new ones are more than the 40"):
        each.batch([Prompt("a"), Prompt("x" * 35, source="here:2")], Settings(max_new_tokens=10), 2)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[TextModel, Path]:
    torch.manual_seed(0)
    each = model("megalodon_tiny")
    run(each, "x", Settings(max_new_tokens=3), files=StateFiles(None, tmp_path / "state"))
    return each, tmp_path / "state"


def rewrite(file: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> None:
    with safe_open(file, "pt") as opened:
        kept = opened.metadata()
    save_file(tensors, file, kept | metadata)


def test_a_state_identifies_itself(saved: tuple[TextModel, Path]) -> None:
    each, file = saved
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "archlab generation 1"
    assert metadata["model"] == model_hash(each.model)
    assert metadata["position"] == "4"
    tokens = [*json.loads(metadata["context"]), *(entry[0] for entry in json.loads(metadata["held"]))]
    assert metadata["last_token"] == str(tokens[-1])


@pytest.mark.parametrize("what", ["tensor", "metadata", "name"])
def test_a_damaged_state_is_refused(what: str, saved: tuple[TextModel, Path]) -> None:
    each, file = saved
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    if what == "tensor":
        tensors["logits"][3] += 1
    if what == "name":
        tensors["state.more"] = tensors.pop("state.position")
    rewrite(file, tensors, **({"position": "5"} if what == "metadata" else {}))
    with pytest.raises(ArchlabError, match=r"state: is damaged: its SHA-256 is not the one"):
        run(each, None, Settings(), files=StateFiles(file))


def resave(file: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> None:
    """Write a state whose SHA-256 is right, as another version of archlab or another program would."""
    with safe_open(file, "pt") as opened:
        kept = opened.metadata() | metadata
    kept.pop("sha256")
    save_file(tensors, file, kept | {"sha256": saved_state._digest(tensors, kept)})


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"position": "four"}, "ValueError: invalid literal for int"),
        ({"context": "[1, -1]"}, "ValueError: -1 is not a token"),
        ({"context": "7"}, "TypeError: 'int' object is not iterable"),
        ({"held": '[[5, "high", []]]'}, "ValueError: 'high' is not a probability"),
        ({"held": "[[5]]"}, "ValueError: not enough values"),
    ],
)
def test_a_whole_state_of_other_values_is_refused(
    metadata: dict[str, str], problem: str, saved: tuple[TextModel, Path]
) -> None:
    each, file = saved
    resave(file, load_file(file), **metadata)
    with pytest.raises(ArchlabError, match=f"state: is not a state that this version reads: {problem}"):
        run(each, None, Settings(), files=StateFiles(file))


def test_a_whole_state_of_other_tensors_is_refused(saved: tuple[TextModel, Path]) -> None:
    each, file = saved
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if name.startswith("state.") and tensor.dim() > 1)
    own = name.removeprefix("state.")
    changed = (
        ({**tensors, "state.more": torch.zeros(1)}, "does not fit the model, whose state differs in 'more'"),
        ({**tensors, name: tensors[name].half()}, f"does not fit the model: '{own}' is torch.float16"),
        ({key: value for key, value in tensors.items() if key != "logits"}, "is not a state .*: KeyError: 'logits'"),
    )
    for kept, problem in changed:
        resave(file, kept)
        with pytest.raises(ArchlabError, match=f"state: {problem}"):
            run(each, None, Settings(), files=StateFiles(file))


def test_files_that_are_no_state_of_the_model_are_refused(saved: tuple[TextModel, Path]) -> None:
    each, file = saved
    other = TextModel(each.experiment, build(each.experiment.model, seed=1))
    with pytest.raises(
        ArchlabError, match=r"state: is the state of another model, SHA-256 [0-9a-f]{12} of its weights"
    ):
        run(other, None, Settings(), files=StateFiles(file))
    rewrite(file, load_file(file), format="archlab generation 7")
    with pytest.raises(ArchlabError, match="its format is 'archlab generation 7', and this version reads"):
        run(each, None, Settings(), files=StateFiles(file))
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ArchlabError, match="is not a state that archlab generate has saved"):
        run(each, None, Settings(), files=StateFiles(file))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ArchlabError, match="truncated, or not a safetensors file"):
        run(each, None, Settings(), files=StateFiles(file))
    with pytest.raises(ArchlabError, match="nowhere: no such file"):
        run(each, None, Settings(), files=StateFiles(file.with_name("nowhere")))


def test_a_file_is_replaced_only_if_it_is_a_state_and_that_is_asked_for(saved: tuple[TextModel, Path]) -> None:
    each, file = saved
    with pytest.raises(ArchlabError, match="already exists; name another file, or overwrite it with --force"):
        each.stream("x", Settings(), files=StateFiles(None, file))
    file.write_text("notes")
    with pytest.raises(ArchlabError, match="already exists, and is not a state that archlab wrote"):
        each.stream("x", Settings(), files=StateFiles(None, file, True))
    with pytest.raises(ArchlabError, match="is in a directory that does not exist"):
        each.stream("x", Settings(), files=StateFiles(None, file / "below"))
    assert file.read_text() == "notes"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stop": [""]}, "a stop text is empty"),
        ({"stop": "ab"}, "stop 'ab' is one text; give a list"),
        ({"logprobs": -1}, "logprobs -1 is below 0"),
        ({"max_new_tokens": -1}, "max_new_tokens -1 is below 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ArchlabError, match=words):
        Settings(**settings)  # type: ignore[arg-type]


def test_each_of_a_batch_is_refused_by_its_source() -> None:
    each = model("rwkv7")
    for prompt, words in (
        (Prompt("a", temperature=-1.0), "prompt 1: temperature -1"),
        (Prompt(""), "prompt 1: the prompt is e"),
    ):
        with pytest.raises(ArchlabError, match=words):
            each.batch([Prompt("x"), prompt], Settings(), 4)
    with pytest.raises(ArchlabError, match="batch_size 0 is below 1"):
        each.batch([Prompt("x")], Settings(), 0)
