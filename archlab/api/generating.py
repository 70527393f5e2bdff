"""Verbs that continue texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archlab.api.inputs import StrPath
from archlab.config.plugin_trust import plugin_policy
from archlab.errors import ArchlabError
from archlab.runtime.known_failures import explain_failures

if TYPE_CHECKING:
    from archlab.inference.prompts import GeneratedToken, Generation, Prompt


@explain_failures
def generate(
    folder: StrPath,
    prompt: str | None = None,
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    compile: bool | None = None,
    load_state: StrPath | None = None,
    save_state: StrPath | None = None,
    force: bool = False,
    trust_plugins: bool = False,
) -> Iterator[str]:
    """Generate text after a prompt, yielded piece by piece; the iterator's first step reads the prompt.

    Sampling divides logits by `temperature` (0 takes the most likely token), then keeps the `top_k` most likely tokens
    and of these the fewest whose probability reaches `top_p`. A text of `stop` ends it, and is left out. `compile`
    compiles decoding, by default from 10,000 new tokens on.

    `save_state` writes the state at the end to a file, and `load_state` continues from it exactly as if generation had
    not ended, or with another `prompt`; without a `seed` the random numbers continue too.
    Raises ArchlabError at once for a setting out of range, a file that is there (unless `force` is given, and it is
    a state), a state that does not fit, and if prompt and new tokens exceed the context that the model's full attention
    keeps.

        print("".join(archlab.generate("runs/a", "def main(", temperature=0.8, top_p=0.95)))
    """
    tokens = generate_tokens(
        folder,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop,
        logprobs=None,
        compile=compile,
        load_state=load_state,
        save_state=save_state,
        force=force,
        trust_plugins=trust_plugins,
    )
    return (token.text for token in tokens)


@explain_failures
def generate_tokens(
    folder: StrPath,
    prompt: str | None = None,
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    logprobs: int | None = 0,
    compile: bool | None = None,
    load_state: StrPath | None = None,
    save_state: StrPath | None = None,
    force: bool = False,
    trust_plugins: bool = False,
) -> Iterator[GeneratedToken]:
    """Generate as `generate` does, and yield each token with its text, its log probability and the `logprobs` best.

    With `logprobs=None` no probabilities are computed.

        for token in archlab.generate_tokens("runs/a", "def ", logprobs=3):
            print(token.text, token.logprob, [best.text for best in token.best])
    """
    from archlab.inference.prompts import Settings
    from archlab.inference.text_model import StateFiles, TextModel

    settings = Settings(max_new_tokens, temperature, top_k, top_p, seed or 0, stop, logprobs)
    load, save = (None if file is None else Path(file) for file in (load_state, save_state))
    with plugin_policy(trust=trust_plugins):
        model = TextModel.load(Path(folder))
    return model.stream(prompt, settings, seed=seed, compile=compile, files=StateFiles(load, save, force))


@explain_failures
def generate_batch(
    folder: StrPath,
    prompts: Iterable[str | Prompt],
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    logprobs: int | None = None,
    batch_size: int = 32,
    trust_plugins: bool = False,
) -> Iterator[Generation]:
    r"""Continue many prompts, `batch_size` at a time, and yield the results in their order.

    Each gives what it gives alone with the same settings, its seed among them: two equal prompts give the same text
    unless a `Prompt` has a seed of its own. Raises ArchlabError at once for any prompt that cannot be continued.

        prompts = ["def ", archlab.Prompt("class ", temperature=0.0, max_new_tokens=20)]
        for result in archlab.generate_batch("runs/a", prompts, stop=["\n\n"]):
            print(result.prompt.text, result.text, result.finish_reason)
    """
    from archlab.inference.prompts import Prompt, Settings
    from archlab.inference.text_model import TextModel

    if isinstance(prompts, str):  # its characters would be prompts
        raise ArchlabError("prompts is one text; give a list of texts")
    settings = Settings(max_new_tokens, temperature, top_k, top_p, seed, stop, logprobs)
    every = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    with plugin_policy(trust=trust_plugins):
        model = TextModel.load(Path(folder))
    return model.batch(every, settings, batch_size)
