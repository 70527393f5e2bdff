from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from conftest import Tiny

from archlab import ArchlabError, api
from archlab.cli import boundary, traceback_file
from archlab.cli import main as cli
from archlab.cli.streams import decode_argument
from archlab.config import experiment as config
from archlab.config import registry
from archlab.config.yaml_files import shipped_files
from archlab.runtime.signals import Stopped
from archlab.training.trainer import train

LISTED = ["list", "show", "train", "search", "export", "generate", "eval", "report", "doctor", "profile"]


class Finished:
    """What a command left on the screen."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run archlab in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def archlab(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["archlab", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Finished(status, *capsys.readouterr())

    return archlab


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A run of two updates of a tiny model."""
    folder = tmp_path_factory.mktemp("trained")
    small = ["train.steps=2", "train.batch_size=2", "train.context=32", "train.compile=off", "train.precision=float32"]
    task = f"task={{type: text, path: {text}, eval_bytes: 256}}"
    layers = "model.layers=[{mixer: {type: attention, num_heads: 2}, ffn: {type: swiglu, hidden_dim: 32}}]"
    experiment = config.load("llama2_tiny", [layers, "model.dim=32", *small, task, "train.tensorboard=false"])
    train(experiment, folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["shw", "quickstart"], "no command 'shw'; did you mean 'show'?"),
        (["show"], "Missing argument 'NAME'"),
        (["show", "quickstat"], "no experiment 'quickstat'; did you mean 'quickstart'?"),
        (["show", "quickstart", "--jsn"], "No such option"),
        (["show", "quickstart", "train.lr"], "command line: train.lr: is not an override; write path=value"),
        (["show", "quickstart", "model.dmi=3"], "unknown knob 'dmi' of 'stack'; did you mean 'dim'?"),
        (["show", "quickstart", f"train.steps={10**400}"], "command line: train.steps: "),
        (["list", "norms"], "no kind 'norms'; did you mean 'norm'?"),
        (["train", "quickstart", "model.dim=100"], "timestep: dim 100 is not divisible by num_groups 8"),
        (["train", "quickstart", "train.batch_size=10000000"], "a training step needs about"),
        (["generate", "nowhere", "--prompt", "x"], "nowhere: is no folder"),
        (["generate", ".", "--prompt", "x"], ".: holds no trained model"),
        (["generate", ".", "--prompt", "x", "--tokens", "-1"], "Invalid value for '--tokens'"),
        (["eval", "nowhere"], "nowhere: is no folder"),
        (["eval", ".", "--split", "tset"], "Invalid value for '--split'"),
        (["report", "nowhere"], "nowhere"),
        (["export", "nowhere", "--out", "x"], "nowhere"),
        (["search", "quickstat"], "quickstat"),
    ],
)
def test_mistakes_end_in_one_line(command: list[str], message: str, run, tmp_path: Path) -> None:
    done = run(*command)
    assert done.status == 2
    assert done.out == ""
    assert message in done.err
    assert done.err.startswith("archlab: ")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_it_failed(run) -> None:
    with pytest.raises(config.ConfigError):
        run("--debug", "show", "quickstat")


def test_without_a_command_there_is_help(run) -> None:
    bare, asked = run(), run("--help")
    assert (bare.status, asked.status) == (2, 0)
    assert bare.err.startswith("Usage: ")
    assert all(f"  {verb} " in asked.out for verb in LISTED)
    assert asked.err == ""


@pytest.mark.parametrize("verb", LISTED)
def test_every_command_has_help(verb: str, run) -> None:
    done = run(verb, "-h")
    assert done.status == 0
    assert done.out.startswith("Usage: ")


@pytest.mark.slow
def test_help_cuts_no_sentence_of_a_command(run) -> None:
    assert "..." not in run("--help").out.partition("Commands:")[2]


def test_help_needs_no_torch_and_neither_does_a_typo() -> None:
    code = """
import sys
from archlab.cli.main import main
for command in (["--help"], ["show", "--help"], ["show", "quickstat"], ["train", "quickstart", "train.lr=fast"]):
    sys.argv = ["archlab", *command]
    try:
        main()
    except SystemExit:
        pass
heavy = {"torch", "optuna", "plotly", "numpy", "tensorboard"} & set(sys.modules)
sys.exit(f"{command} needs {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "archlab: no experiment 'quickstat'; did you mean 'quickstart'?",
        "archlab: command line: train.lr: 'fast' is not a number",
    ]


@pytest.mark.slow
def test_the_installed_command_exits_with_2(tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "archlab", "train", "quickstart", "train.lr=-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "archlab: command line: train.lr: -1.0 is not above 0\n"


def test_ctrl_c(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "components", interrupted)
    done = run("list", "norm")
    assert (done.status, done.err.strip()) == (130, "archlab: interrupted")


@pytest.fixture
def fail(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a command in which an error is raised."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def archlab(error: BaseException) -> Finished:
        def refuse(*_: object) -> None:
            raise error

        monkeypatch.setattr(registry, "components", refuse)
        return run("list", "norm")

    return archlab


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError(28, "No space left on device"), 75, "OSError: [Errno 28] No space left on device"),
        (MemoryError("much"), 2, "MemoryError: much"),
        (RuntimeError("a\nb"), 2, "RuntimeError: a"),
        (RuntimeError(), 2, "RuntimeError"),
        (KeyError("x\x1b[31m"), 2, "KeyError: 'x\\x1b[31m'"),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), 2, "UnicodeEncodeError: 'utf-8' codec"),
        (RecursionError("maximum recursion depth exceeded"), 2, "RecursionError: maximum recursion depth exceeded"),
        (
            ValueError("postgresql://me:secret@host/db\x1b[2J\u202e"),
            2,
            "ValueError: postgresql://me:***@host/db\\x1b[2J",
        ),
    ],
)
def test_whatever_is_raised_is_one_line_and_a_file(
    error: Exception, status: int, line: str, fail, tmp_path: Path
) -> None:
    done = fail(error)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"archlab: {line}")
    assert done.err.count("\n") == 1
    assert all(character.isprintable() for character in done.err[:-1])
    (file,) = (tmp_path / "state/archlab/errors").iterdir()
    assert done.err.endswith(f"; the traceback is in {file}\n")
    text = file.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert type(error).__name__ in text
    assert "secret" not in text
    assert "\x1b" not in text
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_traceback_that_cannot_be_written_is_not_told(fail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    monkeypatch.setattr(traceback_file, "private_temp_dir", lambda: None)
    assert fail(RuntimeError("a")).err == "archlab: RuntimeError: a\n"


def test_an_error_of_archlab_s_own_that_the_machine_caused(fail) -> None:
    error = ArchlabError("run: cannot be written\nhere")
    error.__cause__ = OSError(28, "No space left on device")
    done = fail(error)
    assert (done.status, done.err) == (75, "archlab: run: cannot be written\\nhere\n")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (Stopped(signal.SIGTERM), 143, "archlab: stopped by SIGTERM\n"),
        (Stopped(signal.SIGINT), 130, "archlab: interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_what_stops_a_command_is_no_error(error: BaseException, status: int, line: str, fail) -> None:
    done = fail(error)
    assert (done.status, done.err) == (status, line)


def test_a_stop_tells_what_was_saved(fail) -> None:
    error = KeyboardInterrupt()
    error.add_note("runs/a: a checkpoint of step 3 is saved")
    assert fail(error).err == "archlab: interrupted; runs/a: a checkpoint of step 3 is saved\n"


def test_a_thread_that_fails_is_one_line(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def work(*_: object) -> list[object]:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        return []

    monkeypatch.setattr(registry, "components", work)
    monkeypatch.setattr(boundary.logging, "basicConfig", lambda **_: None)  # pytest has its own handlers
    assert run("list", "norm").status == 0
    assert len(list((tmp_path / "state/archlab/errors").iterdir())) == 1


def test_a_working_directory_that_is_gone(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "cwd", _missing)
    done = run("show", "quickstart")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "the working directory no longer exists" in done.err


def _missing() -> Path:
    raise FileNotFoundError(2, "No such file or directory")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prompt", "a\udcffb"], "the prompt is not UTF-8: 'a\\udcffb'"),
        (["--prompt", "x", "--seed", "12345678901234567890123"], "seed 12345678901234567890123 is not between"),
        (["--prompt", "x", "--temperature", "nan"], "temperature nan is not a number at least 0"),
    ],
)
def test_generate_with_what_cannot_be(more: list[str], message: str, run, trained: Path) -> None:
    done = run("generate", str(trained), *more)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_a_prompt_of_another_locale_is_read_as_utf8() -> None:
    assert decode_argument("caf\udcc3\udca9") == "café"  # as Python reads it where the locale is ASCII


@pytest.mark.slow
def test_list(run) -> None:
    done = run("list")
    assert done.status == 0
    assert all(name in done.out for name in [*shipped_files(), *shipped_files("search_spaces"), *registry.kinds()])
    detailed = run("list", "ema")
    assert "num_dims: " in detailed.out
    assert "swiglu" not in detailed.out


@pytest.mark.slow
def test_show(run) -> None:
    done = run("show", "quickstart", "description=see [/here] and [red]")
    assert done.status == 0
    assert "quickstart  see [/here] and [red]" in done.out
    assert "1,072,640" in done.out


@pytest.mark.slow
def test_show_as_json(run) -> None:
    figures = json.loads(run("show", "megalodon_tiny", "--json").out)
    assert next(iter(figures)) == "name"
    assert {"name", "params", "params_non_embedding", "flops_per_token", "state_bytes"} <= set(figures)
    assert (figures["name"], figures["params"]) == ("megalodon_tiny", 1_072_640)
    assert figures == {"name": "megalodon_tiny", **api.show("megalodon_tiny").to_dict(), "tokens": "bytes"}


def test_show_as_yaml(run, tmp_path: Path) -> None:
    (tmp_path / "again.yaml").write_text(run("show", "quickstart", "train.lr=0.5", "--yaml").out)
    again = config.load(tmp_path / "again.yaml")
    assert again.resolved == config.load("quickstart", ["train.lr=0.5"]).resolved
    assert yaml.safe_load((tmp_path / "again.yaml").read_text())["train"]["lr"] == 0.5


@pytest.mark.slow
def test_train(run, tiny: Tiny, tiny_file: Path, tmp_path: Path) -> None:
    done = run("train", str(tiny_file), "train.steps=4", "--out", "runs/[a]")
    assert done.status == 0, done.err
    assert "validation loss " in done.out
    assert "runs/[a]/final" in done.out
    assert "archlab generate 'runs/[a]' " in done.out
    assert (tmp_path / "runs/[a]/final/model.safetensors").is_file()
    again = run("train", str(tiny_file), "train.steps=4", "--out", "runs/[a]")
    assert (again.status, again.err.count("\n")) == (2, 1)
    assert "continue it with --resume" in again.err
    assert run("train", str(tiny_file), "train.steps=4", "--out", "runs/[a]", "--resume").status == 0
    assert run("train", str(tiny_file), "train.steps=3", "--out", "runs/[a]", "--force").status == 0
    named = run("train", str(tiny_file), "train.steps=1")
    assert named.status == 0
    assert (tmp_path / "runs/tiny/final").is_dir()


@pytest.mark.slow
def test_train_that_diverges(run, tiny_file: Path) -> None:
    done = run("train", str(tiny_file), "train.lr=1e30", "train.warmup=0", "train.clip=null")
    assert done.status == 2
    assert done.err.startswith("archlab: step ")
    assert done.err.count("\n") == 1


def test_eval(run, trained: Path) -> None:
    done = run("eval", str(trained))
    assert done.status == 0
    assert done.out.startswith("test: ")
    assert "255 targets" in done.out
    figures = json.loads(run("eval", str(trained), "--json", "--split", "validation", "--tokens", "64").out)
    assert (figures["split"], figures["tokens"]) == ("validation", 64)
    assert figures["bpb"] > 0


def test_generate(run, trained: Path) -> None:
    done = run("generate", str(trained), "--prompt", "3 times", "--tokens", "20")
    assert done.status == 0
    assert done.out.startswith("3 times")
    assert run("generate", str(trained), "--prompt", "3 times", "--tokens", "20").out == done.out
    assert run("generate", str(trained), "--prompt", "3 times", "--tokens", "20", "--seed", "1").out != done.out
    assert run("generate", str(trained), "--prompt", "3 times", "--tokens", "0").out == "3 times\n"


def test_generate_beyond_what_full_attention_keeps(run, trained: Path) -> None:
    done = run("generate", str(trained), "--prompt", "x", "--tokens", "100000")
    assert done.status == 2
    assert "ask for fewer with --tokens" in done.err


def test_doctor(run) -> None:
    done = run("doctor")
    assert done.status == 0
    assert "Python" in done.out
    assert "memory" in done.out


@pytest.mark.slow
def test_profile(run, tiny_file: Path) -> None:
    done = run("profile", str(tiny_file), "train.batch_size=1")
    assert done.status == 0, done.err
    assert "ms per step of 32 tokens" in done.out
    assert "matrix products" in done.out
    done = run("profile", str(tiny_file), "train.bach_size=1")
    assert (done.status, "did you mean 'batch_size'" in done.err) == (2, True)


@pytest.mark.slow
def test_check(run, tmp_path: Path) -> None:
    done = run("check", "norm", "rms", "eps=0.001")
    assert done.status == 0, done.err
    assert done.out.count("passed  ") == 12
    source = tmp_path / "peeks.py"
    source.write_text(PEEKS)
    done = run("check", "ffn", "peeks", "--plugin", str(source))
    assert done.status == 2
    assert "failed  is_causal  the first outputs that change with inputs 0, 1, ... are" in done.out
    assert done.err.startswith("archlab: ffn peeks: ")
    done = run("check", "norm", "rmss")
    assert (done.status, "did you mean 'rms'?" in done.err) == (2, True)


PEEKS = '''
from torch import Tensor, nn

from archlab import register


@register("ffn", "peeks")
class Peeks(nn.Module):
    """Looks at the next token."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(-1, 1)
'''


def test_import_names_what_it_cannot_read(run, tmp_path: Path) -> None:
    done = run("import", str(tmp_path), "--out", str(tmp_path / "out"))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "holds no config.json: give the directory of a transformers checkpoint" in done.err
