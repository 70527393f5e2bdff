"""Run an export's loader on fixed inputs in a process that has no archlab.

python _prove.py LOADER DIRECTORY INPUTS OUTPUTS; it is run as a file, and so imports nothing of the package that it is
in.
"""

import sys
from collections.abc import Mapping


class _WithoutArchlab:
    """An import hook that refuses archlab: an export that needs it would work nowhere else."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Raise for archlab and its components."""
        if name.partition(".")[0] in ("archlab", "components"):
            raise ImportError(f"{name}: an export must not import it")


if __name__ == "__main__":
    sys.meta_path.insert(0, _WithoutArchlab())
    sys.path.pop(0)  # the directory of this file

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


def main() -> None:
    """Save the outputs of the loader."""
    loader, folder, inputs, outputs = sys.argv[1:]
    with open(loader, encoding="utf-8") as file:
        source = file.read()
    given = load_file(inputs)
    torch.set_num_threads(int(given["num_threads"]))
    save_file(run_loader(source, folder, given), outputs)


def run_loader(source: str, folder: str, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the logits of whole inputs, of tokens one by one, of a single row, and of padded rows."""
    namespace: dict = {}
    exec(compile(source, "<loader>", "exec"), namespace)
    with torch.inference_mode():
        call = namespace["load"](folder)
        result = {"whole": call(given["inputs"], None)[0], "row": call(given["row"], None)[0]}
        if "steps" in given:
            result["steps"] = _in_steps(call, given["inputs"])
        if "padded" in namespace and "mask" in given:
            result["padded"] = namespace["padded"](folder)(given["padded"], given["mask"])
            # Outputs for padding are not read: without features they are log-probabilities, not zeros.
            result["padded"].masked_fill_(given["mask"][..., None] == 0, 0)
    return {name: tensor.float().contiguous() for name, tensor in result.items()}


def _in_steps(call, tokens):  # type: ignore[no-untyped-def]
    state, logits = None, []
    for token in tokens.split(1, dim=1):
        one, state = call(token, state)
        logits.append(one)
    return torch.cat(logits, dim=1)


if __name__ == "__main__":
    main()
