"""Code that came with a run or a checkpoint runs only if it ran here before, or if the user says so, once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Write

import archlab
from archlab import ConfigError
from archlab.cli.completion import _experiment
from archlab.cli.main import cli
from archlab.config import experiment as config
from archlab.config.plugin_trust import is_recorded, plugin_policy, require_trust
from archlab.modeling.build import build
from archlab.storage.checkpoint import save_model

PLUGIN = '''
import pathlib

from torch import nn

from archlab import register

with pathlib.Path(__file__).with_suffix(".ran").open("a") as ran:
    ran.write("x")


@register("norm", "strange")
class Strange(nn.Module):
    """Passes."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x):
        return x
'''
Publish = Callable[..., Path]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory of trusted plugins of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "archlab" / "trusted_plugins"


@pytest.fixture
def publish(write: Write) -> Iterator[Publish]:
    """Return a checkpoint that names a plugin beside it, as a stranger would give it away."""

    def checkpoint(**fields: object) -> Path:
        plain = config.load("llama2_tiny", ["model.layers[0].repeat=1"])
        plugin = write(PLUGIN, "gift/strange.py")
        tree = plain.resolved | {"plugins": ["strange.py"]} | fields
        tree["model"] = tree["model"] | {"norm": "rms"}
        save_model(plugin.parent / "final", build(plain.model), tree, {})
        plugin.rename(plugin.parent / "final" / "strange.py")
        return plugin.parent / "final"

    return checkpoint


def has_run(folder: Path) -> bool:
    return (folder / "strange.ran").is_file()


def test_a_checkpoints_plugin_does_not_run_unasked(publish: Publish, tmp_path: Path) -> None:
    folder = publish()
    message = r"experiment\.yaml: plugins: 'strange\.py' is code: it came with .* pass --trust-plugins once"
    calls = (
        lambda: archlab.load_model(folder),
        lambda: archlab.evaluate(folder),
        lambda: archlab.generate(folder, "a"),
        lambda: archlab.export(folder, tmp_path / "out", to=["standalone"]),
        lambda: archlab.load(folder / "experiment.yaml"),
        lambda: archlab.train(folder / "experiment.yaml", out=tmp_path / "run"),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not has_run(folder)


def test_trust_is_given_once_and_is_of_the_content(publish: Publish, state: Path) -> None:
    folder = publish()
    archlab.load_model(folder, trust_plugins=True)
    assert has_run(folder)
    assert state.stat().st_mode & 0o777 == 0o600
    moved = folder.rename(folder.parent / "moved")
    require_trust("strange.py", moved / "strange.py", moved / "experiment.yaml")
    (moved / "strange.py").write_text(PLUGIN + "\n# Changed.\n")
    with pytest.raises(ConfigError, match=r"'strange\.py' is code"):
        require_trust("strange.py", moved / "strange.py", moved / "experiment.yaml")


def test_a_person_is_asked(publish: Publish) -> None:
    folder, questions = publish(), list[str]()

    def answer(yes: bool) -> Callable[[str], bool]:
        return lambda question: bool(questions.append(question)) or yes

    with plugin_policy(trust=False, ask=answer(False)), pytest.raises(ConfigError, match="is code"):
        archlab.load_model(folder)
    with plugin_policy(trust=False, ask=answer(True)):
        archlab.load_model(folder)
    archlab.load_model(folder)
    assert len(questions) == 2
    assert "names the plugin 'strange.py', which has not run here before" in questions[0]


def test_a_users_own_plugins_need_no_trust_later(write: Write, tmp_path: Path) -> None:
    plugin = write(PLUGIN, "mine/strange.py")
    mine = write({"base": "llama2_tiny", "plugins": ["strange.py"], "model": {"norm": "strange"}}, "mine/mine.yaml")
    experiment = config.load(mine, ["model.layers[0].repeat=1"])
    save_model(tmp_path / "run" / "final", build(experiment.model), experiment.resolved, {})
    plugin.write_text(PLUGIN + "\n# I continued working.\n")
    assert archlab.load_model(tmp_path / "run") is not None


def test_modules_and_files_of_a_base_are_asked_for_too(publish: Publish, write: Write) -> None:
    folder = publish(plugins=["antigravity"])
    with pytest.raises(ConfigError, match="'antigravity' is code"):
        archlab.load_model(folder)
    write({"base": "llama2_tiny", "plugins": ["../gift/final/strange.py"]}, "gift/final/evil.yaml")
    (folder / "experiment.yaml").write_text("base: evil.yaml\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml: plugins: '.*strange\.py' is code"):
        config.load(folder / "experiment.yaml")
    assert not has_run(folder)


def test_a_search_that_was_recorded(publish: Publish, write: Write) -> None:
    folder = publish()
    (folder / ".workers.lock").touch()
    space = {"base": "llama2_tiny", "plugins": ["strange.py"], "vary": {"train.lr": "auto"}}
    write(space, "gift/final/search.yaml")
    for call in (archlab.search, lambda file: archlab.report(file.parent)):
        with pytest.raises(ConfigError, match=r"search\.yaml: plugins: 'strange\.py' is code"):
            call(folder / "search.yaml")
    assert not has_run(folder)


def test_a_key_that_completes_runs_nothing(publish: Publish, write: Write) -> None:
    folder = publish()
    write({"base": "llama2_tiny", "plugins": ["final/strange.py"]}, "gift/new.yaml")

    class Context:
        info_name = "show"
        params = {"name": str(folder.parent / "new.yaml")}  # noqa: RUF012

    with pytest.raises(ConfigError, match="is code"):
        _experiment(Context())  # type: ignore[arg-type]
    assert not has_run(folder)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${oc.${name}:HOME}", "\\\\${mine:1}", "${oc.select:name}"])
def test_a_recorded_experiment_reads_no_environment(text: str, publish: Publish) -> None:
    folder = publish(plugins=[])
    file = folder / "experiment.yaml"
    file.write_text(file.read_text().replace("description:", f"description: '{text}' #"))
    with pytest.raises(ConfigError, match=r"experiment\.yaml: description: .* calls a function"):
        archlab.load(file)


def test_what_only_looks_like_a_recorded_file_is_the_users_own(write: Write) -> None:
    file = write("description: '${oc.env:ARCHLAB_TEST_TEXT,none}'\nbase: llama2_tiny\n", "experiment.yaml")
    assert not is_recorded(file)
    assert config.load(file).description == os.environ.get("ARCHLAB_TEST_TEXT", "none")


def test_a_memory_that_others_may_write_to_is_not_believed(publish: Publish, state: Path) -> None:
    folder = publish()
    archlab.load_model(folder, trust_plugins=True)
    state.chmod(0o666)
    with pytest.raises(ConfigError, match="is code"):
        archlab.load_model(folder)


def test_commands_have_the_flag_and_refuse_in_one_line(publish: Publish) -> None:
    folder, runner = publish(), CliRunner()
    show = ["show", str(folder / "experiment.yaml"), "--yaml"]
    refused = runner.invoke(cli, show)
    assert isinstance(refused.exception, ConfigError)
    for command in ("show", "train", "search", "export", "generate", "eval", "report", "migrate", "profile"):
        assert "--trust-plugins" in runner.invoke(cli, [command, "--help"]).output
    assert runner.invoke(cli, [*show, "--trust-plugins"]).exit_code == 0
    assert runner.invoke(cli, show).exit_code == 0
    assert has_run(folder)


def test_a_path_that_is_not_utf8_is_remembered(write: Write, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    write(PLUGIN, "strange.py").rename(folder / "strange.py")
    write({"base": "llama2_tiny", "plugins": ["strange.py"]}).rename(folder / "mine.yaml")
    with pytest.raises(ConfigError, match="is code"):
        require_trust("strange.py", folder / "strange.py", folder / "experiment.yaml")
    config.load(folder / "mine.yaml")
    (folder / "strange.py").write_text(PLUGIN + "# changed by its user")
    require_trust("strange.py", folder / "strange.py", folder / "experiment.yaml")


def test_a_damaged_line_of_the_memory_leaves_the_others(state: Path, publish: Publish) -> None:
    folder = publish()
    archlab.load_model(folder, trust_plugins=True)
    line = state.read_bytes()
    state.write_bytes(b"\xff\n" + line)
    require_trust("strange.py", folder / "strange.py", folder / "experiment.yaml")
    state.write_bytes(line[:-2] + b"\xff\n")
    with pytest.raises(ConfigError, match=r"'strange\.py' is code"):
        require_trust("strange.py", folder / "strange.py", folder / "experiment.yaml")
