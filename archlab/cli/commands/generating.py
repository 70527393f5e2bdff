"""The command that continues texts: one as it comes, or many of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archlab import api
from archlab.cli.escaping import unwrap, write_data
from archlab.cli.options import TRUST_PLUGINS, WRITTEN_FOLDER
from archlab.cli.streams import can_print, decode_argument

if TYPE_CHECKING:
    from archlab.inference.prompts import GeneratedToken

FILE = click.Path(path_type=Path, dir_okay=False)
INPUT = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_BEST = 5  # tokens of `--logprobs` without a number
_STDIN = Path("-")


@click.command()
@click.argument("folder", type=WRITTEN_FOLDER, metavar="DIRECTORY")
@click.option("--prompt", help="Continue this text.")
@click.option("--batch", type=INPUT, help="Continue the texts of this file of JSON lines; - is standard input.")
@click.option("--out", type=FILE, help="Write the results of --batch to this file.")
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(min=0), help="Generate this many tokens.")
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=float,
    help="Divide the logits by this; 0 takes the most likely token.",
)
@click.option("--top-k", type=int, help="Sample among this many most likely tokens.")
@click.option("--top-p", type=float, help="Sample among the most likely tokens that together have this probability.")
@click.option("--seed", type=int, help="Seed the random numbers; the default is 0, or those of --load-state.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End at this text, which is left out. Repeatable.")
@click.option(
    "--logprobs",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=_BEST,
    metavar="[K]",
    help="Print each token as JSON, with its log probability and the K most likely ones; the default K is 5.",
)
@click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(min=1), help="Decode this many texts at a time."
)
@click.option("--save-state", type=FILE, help="Write the state at the end of the text to this file.")
@click.option(
    "--load-state", type=FILE, help="Continue from a state that --save-state wrote, with or without --prompt."
)
@click.option("--force", is_flag=True, help="Overwrite an earlier state or earlier results.")
@click.option(
    "--compile/--no-compile",
    "compile",
    default=None,
    help="Compile the model; the default is to compile for 10,000 tokens or more.",
)
@TRUST_PLUGINS
def generate(
    folder: Path,
    prompt: str | None,
    batch: Path | None,
    out: Path | None,
    tokens: int,
    seed: int | None,
    stop: tuple[str, ...],
    logprobs: int | None,
    batch_size: int,
    force: bool,
    compile: bool | None,
    save_state: Path | None,
    load_state: Path | None,
    **sampling: Any,
) -> None:
    """Continue a text with a trained model.

    DIRECTORY is a directory that archlab wrote: a run, a checkpoint, a search, a trial. In a terminal without --prompt
    or --batch it is a conversation.

    A line of a --batch is {"prompt": "def "}, or with settings of its own: id, tokens, temperature, top_k, top_p, seed
    and stop. A line of the results has prompt, text, num_tokens and finish_reason.
    """
    single = {"--prompt": prompt, "--save-state": save_state, "--load-state": load_state, "--compile": compile or None}
    is_conversation = _is_terminal() and not any(value is not None for value in (prompt, load_state, batch, out))
    if not is_conversation:
        _require_one_way(single, batch, out)
    sampling |= {"max_new_tokens": tokens, "stop": [decode_argument(text) for text in stop], "logprobs": logprobs}
    if batch is not None:
        _generate_batch(folder, batch, out, force, seed=seed or 0, batch_size=batch_size, **sampling)
        return
    if is_conversation:
        if logprobs is not None or save_state is not None:
            raise click.UsageError("--logprobs and --save-state are of a --prompt, not of a conversation")
        _converse(folder, seed or 0, compile, sampling)
        return
    text = None if prompt is None else decode_argument(prompt)
    new = api.generate_tokens(
        folder,
        text,
        seed=seed,
        compile=compile,
        load_state=load_state,
        save_state=save_state,
        force=force,
        **sampling,
    )
    if logprobs is not None:
        _print_tokens(new)
    else:
        _print_text(new, text if load_state is None else None)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and unwrap(sys.stdout).isatty()


def _converse(folder: Path, seed: int, compile: bool | None, sampling: Mapping[str, Any]) -> None:
    from archlab.cli.conversing import converse
    from archlab.inference.conversation import Conversation
    from archlab.inference.prompts import Settings
    from archlab.inference.text_model import TextModel

    settings = Settings(seed=seed, **sampling)
    converse(Conversation(TextModel.load(folder), settings, compile=compile))


def _require_one_way(single: Mapping[str, object], batch: Path | None, out: Path | None) -> None:
    """Raise UsageError for options that do not go together; `single` are those of one text."""
    given = [name for name, value in single.items() if value is not None]
    if batch is not None and given:
        raise click.UsageError(f"--batch and {given[0]} do not go together")
    if batch is None and not {"--prompt", "--load-state"} & set(given):
        raise click.UsageError("nothing to continue: give --prompt TEXT, --batch FILE or --load-state FILE")
    if batch is None and out is not None:
        raise click.UsageError("--out is for the results of a --batch; a text goes to standard output")


def _print_text(tokens: Iterator[GeneratedToken], prompt: str | None) -> None:
    write_data(prompt or "")
    for token in tokens:
        write_data(token.text)
    click.echo()


def _print_tokens(tokens: Iterator[GeneratedToken]) -> None:
    from archlab.inference.prompt_file import format_token

    for token in tokens:
        _print_line(format_token(token), format_token(token, ascii_only=True))


def _print_line(line: str, in_ascii: str) -> None:
    # An escape of the stream's own would not be one of JSON.
    write_data(f"{line if can_print(line) else in_ascii}\n")


def _generate_batch(folder: Path, file: Path, out: Path | None, force: bool, **settings: Any) -> None:
    from archlab.cli.task_bar import task_bar
    from archlab.inference.prompt_file import format_generation, read_prompts, require_result_file
    from archlab.storage.files import atomic_file

    if out is not None:
        require_result_file(out, force=force)
    prompts = read_prompts(_read(file), "standard input" if file == _STDIN else str(file))
    results = api.generate_batch(folder, prompts, **settings)
    has_tokens = settings["logprobs"] is not None
    # On a terminal the results themselves show how far it is.
    with nullcontext() if out is None and sys.stdout.isatty() else task_bar():
        if out is None:
            for result in results:
                line = format_generation(result, logprobs=has_tokens)
                _print_line(line, format_generation(result, logprobs=has_tokens, ascii_only=True))
            return
        with atomic_file(out) as written:
            for result in results:
                written.write(f"{format_generation(result, logprobs=has_tokens)}\n".encode())
            require_result_file(out, force=force)  # again: generating may have taken hours
    click.echo(f"{out}: {len(prompts):,} results")


def _read(file: Path) -> bytes:
    if file == _STDIN:
        return bytes(unwrap(sys.stdin).buffer.read())
    try:
        return file.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: cannot be read: {error.strerror}") from error


COMMANDS = (generate,)
