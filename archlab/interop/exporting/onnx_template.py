# mypy: ignore-errors
"""Runs TITLE with onnxruntime and numpy alone.

    from MODULE import load
    model = load()
    logits, state = model(tokens)  # [batch, time]; passing the state back continues the sequence

model.onnx reads several tokens in a call, token.onnx one; each holds the weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from archlab.interop.exporting.calls_template import check_files, pieces, read_facts


def load(folder: str | Path = Path(__file__).parent, providers: tuple = ("CPUExecutionProvider",)) -> OnnxModel:
    """Return the model; raise RuntimeError for files that have changed."""
    return OnnxModel(Path(folder), list(providers))


class OnnxModel:
    """Calls the programs; a state is a tuple of arrays [batch, ...] of fixed sizes."""

    def __init__(self, folder: Path, providers: list) -> None:
        self.facts = read_facts(folder / "onnx.json")
        files = self.facts["files"]
        check_files(folder, files)
        names = [name for name in ("model.onnx", "token.onnx") if name in files]
        self._programs = [onnxruntime.InferenceSession(folder / name, providers=providers) for name in names]
        self._initial = read_state(folder, self.facts["state"])

    def init_state(self, batch_size: int) -> tuple:
        """Return the state before the first token."""
        return tuple(np.repeat(x, batch_size, 0) for x in self._initial)

    def __call__(self, inputs: np.ndarray, state: tuple | None = None) -> tuple:
        """Return logits and the state after the last token; without a state the stream starts."""
        if len(self._programs) == 1:
            return _run(self._programs[0], (inputs,))[0], ()
        state = self.init_state(len(inputs)) if state is None else state
        logits, begin = [], 0
        for size in pieces(self.facts["tokens"], inputs.shape[1]):
            outputs = _run(self._programs[size == 1], (inputs[:, begin : begin + size], *state))
            logits.append(outputs[0])
            state, begin = tuple(outputs[1:]), begin + size
        return np.concatenate(logits, 1), state


def _run(program, inputs: tuple) -> list:
    return program.run(None, {each.name: x for each, x in zip(program.get_inputs(), inputs, strict=True)})


def read_state(folder: Path, described: list) -> list:
    """Return the arrays of a row's state before its first token."""
    data = (folder / "initial_state.bin").read_bytes() if described else b""
    return [
        np.frombuffer(data[slice(*each["bytes"])], each["dtype"]).reshape(each["shape"]).copy() for each in described
    ]
