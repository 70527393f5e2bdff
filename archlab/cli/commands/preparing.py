"""The command that makes tokens once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from archlab import api
from archlab.cli.completion import complete_experiment
from archlab.cli.console import make_console
from archlab.cli.options import FOLDER, OVERRIDES, TRUST_PLUGINS


@click.command()
@click.argument("name", required=False, shell_complete=complete_experiment)
@OVERRIDES
@click.option("--corpus", type=click.Path(path_type=Path), help="Read this text: a file, or a directory of files.")
@click.option("--tokenizer", metavar="FILE", help="Encode it by this tokenizer.json, or as 'bytes' or 'words'.")
@click.option("--out", type=FOLDER, help="Write the tokens to this directory.")
@click.option("--vocab-size", type=click.IntRange(min=1), help="Keep this many of the most frequent words.")
@click.option("--glob", default="**/*", show_default=True, help="Read the files of a directory that match.")
@click.option("--field", default="text", show_default=True, help="Read this field of JSON, or column of a table.")
@click.option("--special-tokens", is_flag=True, help="Use the tokenizer's special tokens.")
@click.option(
    "--eval-bytes",
    type=click.IntRange(min=1),
    default=2**19,
    show_default=True,
    help="Hold out at most this many bytes each for validation and test.",
)
@click.option("--check", is_flag=True, help="Compare every byte of the tokens with its checksum.")
@TRUST_PLUGINS
def prepare(
    name: str | None,
    overrides: tuple[str, ...],
    corpus: Path | None,
    tokenizer: str | None,
    out: Path | None,
    check: bool,
    **reading: Any,
) -> None:
    """Tokenize a text once; otherwise training does so when it starts.

    NAME is an experiment or a YAML file, whose text is prepared in the user's cache; PATH=VALUE sets a value by its
    path. With --corpus and --tokenizer, your own text is tokenized instead and written to --out, or to the corpus that
    NAME names. Running the same command again continues a killed one.
    """
    _require_whole(name, corpus, tokenizer, out)
    from archlab.cli.prepared_table import describe_cache, prepared_table
    from archlab.cli.stop_advice import advise_at_stop
    from archlab.cli.task_bar import task_bar

    with advise_at_stop("run the same command to continue"), task_bar():
        if corpus is None or tokenizer is None:
            found = api.prepare(name or "", overrides)
        else:
            place = out or api.corpus_dir(name or "", overrides)
            found = [api.prepare_corpus(corpus, place, tokenizer=tokenizer, **reading)]
        for one in found if check else ():
            one.verify()
    if not found:
        click.echo(f"{name}: nothing to prepare: its data are read as they are")
    for one in found:
        make_console().print(prepared_table(one))
    if found and corpus is None:
        held, advice = describe_cache()
        click.echo(f"token cache {held}; {advice}")


def _require_whole(name: str | None, corpus: Path | None, tokenizer: str | None, out: Path | None) -> None:
    if corpus is None and (tokenizer is not None or out is not None):
        raise click.UsageError("--tokenizer and --out are of a text of yours: name it with --corpus")
    if corpus is not None and tokenizer is None:
        raise click.UsageError("--corpus needs --tokenizer: a tokenizer.json, bytes, or words with --vocab-size")
    if name is None and corpus is None:
        raise click.UsageError("name an experiment, or a text with --corpus and --tokenizer")
    if name is None and out is None:
        raise click.UsageError(
            "--corpus needs --out, the directory of its tokens, or an experiment that names a corpus"
        )


COMMANDS = (prepare,)
