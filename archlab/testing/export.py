"""The check that a component works in an exported model."""

from __future__ import annotations

import sys
import tempfile
import uuid
from pathlib import Path
from types import ModuleType

import torch

from archlab.config.experiment import Experiment
from archlab.config.import_file import import_file
from archlab.config.spec import parse
from archlab.config.train_config import TrainConfig
from archlab.interop.standalone.render import render_model
from archlab.testing.component_case import PRECISE, ComponentCase, reference_models, require_close


@torch.no_grad()
def exports(case: ComponentCase) -> None:
    """The model exported as a standalone module gives the same outputs."""
    model, inputs = case.build(), case.example_inputs(dtype=PRECISE)
    task = parse(reference_models()["exported_task"][0], "task", "task")
    experiment = Experiment("checked", "", case.spec(), task, TrainConfig(), (), "")
    standalone = _import_source(render_model(experiment)).build().to(PRECISE).eval()
    standalone.load_state_dict(model.state_dict())
    require_close(standalone(inputs), model(inputs), 1e-12, "outputs of the exported model")


def _import_source(source: str) -> ModuleType:
    """Import source code as a module, through a file: torch.compile and inspect read a function's source from one."""
    name = f"archlab_exported_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{name}.py")
        file.write_text(source)
        module = import_file(file, name)
        del sys.modules[name]
    return module
