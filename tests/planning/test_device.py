from dataclasses import asdict
from pathlib import Path

import pytest

from archlab import ConfigError, MachineError
from archlab.config.yaml_writer import format_yaml
from archlab.planning import calibrate, cpu_device
from archlab.planning.device import SHIPPED
from archlab.planning.device_files import device_files, load_device
from archlab.planning.this_device import peak_flops

NAMES = {"a100-40g", "a100-80g", "h100", "h200", "b200", "mi300x", "l40s", "cpu"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "archlab" / "devices"


def h100() -> str:
    return (SHIPPED / "h100.yaml").read_text()


def test_every_shipped_device_is_complete(home: Path) -> None:
    assert set(device_files()) == NAMES
    for name in NAMES:
        device = load_device(name)
        assert device.name == name
        assert device.flops.float32 > 0
        assert device.efficiency.source


def test_devices_of_the_users_own_are_found_by_name_and_by_file(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "ours.yaml").write_text(h100().replace("80e9", "96e9"))
    assert load_device("ours").memory == 96e9
    assert load_device("ours.yaml", home).memory == 96e9


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("memory: ", "memry: "), "unknown key 'memry'; did you mean 'memory'?"),
        (("  matmul: 0.53\n", ""), "efficiency: needs 'matmul': a number at least 0 and at most 1"),
        (("node: 450e9", "node: -1"), "links.node: -1.0 is not above 0"),
        (("kind: gpu", "kind: gppu"), "kind: 'gppu' is not one of its values; did you mean 'gpu'?"),
    ],
)
def test_an_invalid_device_is_refused_by_file_and_path(tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    assert edit[0] in h100()
    (tmp_path / "x.yaml").write_text(h100().replace(*edit))
    with pytest.raises(ConfigError) as error:
        load_device("x.yaml", tmp_path)
    assert str(error.value) == f"{tmp_path / 'x.yaml'}: {message}"


def test_an_unknown_device_is_refused_with_the_nearest(home: Path) -> None:
    with pytest.raises(ConfigError, match="no device 'h10'; did you mean 'h100'"):
        load_device("h10")
    with pytest.raises(ConfigError, match=r"no file 'nowhere/x\.yaml'"):
        load_device("nowhere/x.yaml")


def test_the_cpu_is_estimated_until_it_is_calibrated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_device("cpu").description.endswith("uncalibrated")
    small = {"_PEAK": (16,) * 3, "_LAYERS": ((8,) * 3,), "_BFLOAT16_SIZE": 8, "_ATTENTION": (1, 1, 8, 4), "_LARGE": 64}
    for name, size in small.items():
        monkeypatch.setattr(calibrate, name, size)
    file = calibrate.calibrate(seconds=0.0)
    device = load_device("cpu")
    assert (device.name, device.file) == ("cpu", str(file))
    assert "calibrated" in device.efficiency.source or "calibrate" in device.source
    assert 0 < device.efficiency.matmul <= 1


def test_a_calibration_of_another_machine_is_not_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = {key: value for key, value in asdict(load_device("cpu")).items() if key not in ("name", "file")}
    home.mkdir(parents=True)
    (home / "cpu-0123456789ab.yaml").write_text(format_yaml(device))
    assert load_device("cpu").description.endswith("uncalibrated")
    monkeypatch.setattr(cpu_device, "machine_key", lambda: "0123456789ab")
    assert load_device("cpu").file.endswith("cpu-0123456789ab.yaml")


def test_a_calibration_needs_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(MachineError, match=r"nowhere to be kept: set XDG_CONFIG_HOME to a directory of yours$"):
        calibrate.calibrate(seconds=0.0)
    assert load_device("cpu").description.endswith("uncalibrated")


def test_the_users_own_words_on_a_cpu_come_before_an_estimate(home: Path) -> None:
    home.mkdir(parents=True)
    text = (SHIPPED / "cpu.yaml").read_text()
    (home / "cpu.yaml").write_text(text.replace("description: ", "description: 'Ours' # ", 1))
    assert load_device("cpu").description == "Ours"


def test_the_peak_is_that_of_the_device_file_of_this_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops("cpu", "float32") is None
    home.mkdir(parents=True)
    (home / "ours.yaml").write_text(h100().replace("H100 80GB HBM3", "Ours 96GB"))
    for name, device in (("NVIDIA H100 80GB HBM3", "h100"), ("An Ours 96GB", "ours")):
        monkeypatch.setattr("torch.cuda.get_device_name", lambda name=name: name)
        flops = load_device(device).flops
        assert peak_flops("cuda", "bfloat16") == flops.bfloat16
        assert peak_flops("cuda", "float32") == flops.float32
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "A GPU of tomorrow")
    assert peak_flops("cuda", "bfloat16") is None
