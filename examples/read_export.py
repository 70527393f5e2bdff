"""Load a standalone export with torch and safetensors alone: archlab need not be installed.

`archlab export RUN --out DIRECTORY` writes model.safetensors, config.yaml and modeling_NAME.py.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch


def main(directory: Path) -> None:
    """Load the model, read a text in two pieces, and continue it greedily."""
    (file,) = directory.glob("modeling_*.py")
    spec = spec_from_file_location("model", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)

    model = module.load(directory)
    tokens = torch.tensor([list(b"def main(")])
    whole, _ = model(tokens)
    first, state = model(tokens[:, :4])
    second, _ = model(tokens[:, 4:], state)  # the state continues the stream
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=0, atol=1e-4)
    print(bytes(module.generate(model, list(b"def main("), num_tokens=20, temperature=0)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
