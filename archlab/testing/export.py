"""What an exported component promises."""

from __future__ import annotations

import sys
import tempfile
import uuid
from importlib import util
from pathlib import Path
from types import ModuleType

import torch

from archlab.config.experiment import Experiment
from archlab.config.spec import parse
from archlab.config.train_config import TrainConfig
from archlab.interop.standalone.export import render_model
from archlab.testing.checks import PRECISE
from archlab.testing.component_case import ComponentCase, reference_models, require_close


@torch.no_grad()
def survives_export(subject: ComponentCase) -> None:
    """The model that is written as a file of its own gives the same outputs."""
    model, inputs = subject.build(), subject.read()
    inputs = inputs.to(PRECISE) if inputs.is_floating_point() else inputs
    task = parse(reference_models()["beside"][0], "task", "task")
    experiment = Experiment("checked", "", subject.spec(), task, TrainConfig(), (), "")
    standalone = _imported(render_model(experiment)).build().to(PRECISE).eval()
    standalone.load_state_dict(model.state_dict())
    require_close(standalone(inputs), model(inputs), 1e-12, "outputs of the exported model")


def _imported(source: str) -> ModuleType:
    """Return a module from its text, by way of a file, which some libraries look up."""
    name = f"archlab_exported_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{name}.py")
        file.write_text(source)
        spec = util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        finally:
            del sys.modules[name]
    return module
