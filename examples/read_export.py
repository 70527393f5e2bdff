"""Load a standalone export with torch and safetensors alone: archlab need not be installed.

python examples/read_export.py [EXPORT], by default what own_component.py has written. `archlab export RUN --out EXPORT`
writes model.safetensors, config.yaml and modeling_NAME.py.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch


def main(directory: Path) -> None:
    """Load the model, read a text in two pieces, and continue it greedily."""
    file = next(directory.glob("modeling_*.py"), None)
    if file is None:
        sys.exit(f"{directory}: no export; run own_component.py first, or name one")
    spec = spec_from_file_location("model", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)

    model = module.load(directory)
    text = b"def main("
    tokens = torch.tensor([list(text)])  # a token is a byte
    whole, _ = model(tokens)
    first, state = model(tokens[:, :4])
    second, _ = model(tokens[:, 4:], state)  # the state continues the stream
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=0, atol=1e-4)
    print(f"{file.name}: {text!r} read in two pieces gives the logits of one")
    print(f"continued with {bytes(module.generate(model, list(text), num_tokens=8, temperature=0))!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own_component/export"))
