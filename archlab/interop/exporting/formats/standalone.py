"""One readable Python module and the weights, which need torch and safetensors alone."""

from __future__ import annotations

from pathlib import Path

from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.exporting.weights import write_weights
from archlab.interop.standalone.render import is_program, render_model
from archlab.storage.files import write_text
from archlab.text import shell_path

_LOADER = """
NEEDS = ("torch", "safetensors")

def load(folder):
    import sys
    sys.path.insert(0, str(folder))
    from {module} import load
    return load()
"""


class Standalone:
    """modeling_NAME.py, with the source of every component that the model has, and model.safetensors."""

    needs: tuple[str, ...] = ()
    is_alone = False

    def check(self, model: ExportedModel) -> None:
        """Render the module, which raises for source that cannot be taken out of its file."""
        render_model(model.experiment, model.tokens)

    def write(self, model: ExportedModel, folder: Path) -> None:
        """Write the module and the weights."""
        write_text(folder / f"{model.module}.py", render_model(model.experiment, model.tokens))
        write_weights(folder, model.tensors)

    def loader(self, model: ExportedModel) -> str:
        """Return the source that imports the module."""
        return _LOADER.format(module=model.module)

    def advice(self, model: ExportedModel, folder: Path) -> str:
        """Return a command that continues a text, or else the import."""
        if is_program(model.experiment, model.tokens):
            return f"python {shell_path(folder / f'{model.module}.py')} 'def '"
        return f"from {model.module} import load  # in {folder}"


FORMAT = Standalone
