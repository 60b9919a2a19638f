"""What each export answers in its own runtime: logits of texts, or mean-pooled embeddings."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_mpq.nn.pooling import embed

HERE = Path(__file__).parent
LLAMA_CPP = HERE.parent / "tests" / "exporters" / "llama_cpp.py"
EXACT = "session.x64quantprecision"


@dataclass
class Inputs:
    """What every runtime is asked.

    Attributes:
        kind: class that loads a checkpoint, such as `AutoModel`.
        tokenizer: of the model.
        texts: of which several of one length may go together.
        labels: how many a classifier has; None of an embedder.
        node_modules: where transformers.js is.
    """

    kind: type
    tokenizer: Callable
    texts: Sequence[str]
    labels: int | None
    node_modules: Path | None = None

    def ask(self, answer: Callable[[dict], np.ndarray], most: int = 16) -> Tensor:
        """From numpy inputs to logits, or hidden states that are pooled here.

        Args:
            most: texts of one length that go together, so that there is no padding: 1 where a range is that of all.
        """
        found: dict[int, Tensor] = {}
        for places in _of_one_length(self.tokenizer(list(self.texts))["input_ids"], most):
            rows = self.tokenizer([self.texts[place] for place in places], return_tensors="np")
            first = torch.from_numpy(np.asarray(answer(dict(rows)))).float()
            found |= zip(places, embed(first, None, "mean") if self.labels is None else first)
        return torch.stack([found[place] for place in range(len(self.texts))])


def _of_one_length(ids: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Places of texts, in groups."""
    for _, same in groupby(sorted(range(len(ids)), key=lambda at: len(ids[at])), key=lambda at: len(ids[at])):
        places = list(same)
        yield from (places[start : start + most] for start in range(0, len(places), most))


def of_model(model: nn.Module, inputs: Inputs) -> Tensor:
    """In this process."""

    def answer(rows: dict) -> np.ndarray:
        with torch.no_grad():
            found = model(**{name: torch.from_numpy(value) for name, value in rows.items()})
        return (found.last_hidden_state if inputs.labels is None else found.logits).numpy()

    return inputs.ask(answer)


def checkpoint(folder: Path, inputs: Inputs) -> Tensor:
    """Plain transformers."""
    return of_model(inputs.kind.from_pretrained(folder).eval(), inputs)


def onnx_runtime(folder: Path, inputs: Inputs, precision: str = "1", most: int = 16) -> Tensor:
    """With `precision="0"` ONNX Runtime clips sums of pairs on CPUs without VNNI instructions; `most` as of `ask`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(EXACT, precision)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    names = [one.name for one in session.get_inputs()]
    return inputs.ask(lambda rows: session.run(None, {name: rows[name] for name in names})[0], most)


def openvino(folder: Path, inputs: Inputs) -> Tensor:
    """On the CPU, in float32 where it is float."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.compile_model(folder / "openvino_model.xml", "CPU", settings)
    names = [one.any_name for one in model.inputs]
    return inputs.ask(lambda rows: model({name: rows[name] for name in names})[0])


def ctranslate2(folder: Path, inputs: Inputs, compute_type: str = "default") -> Tensor:
    """With the last layer of a classifier here."""
    import ctranslate2

    encoder = ctranslate2.Encoder(str(folder), compute_type=compute_type, intra_threads=1)
    file = folder / "classifier.safetensors"
    last = load_file(file) if file.exists() else None

    def answer(rows: dict) -> np.ndarray:
        ids = rows["input_ids"].tolist()
        output = encoder.forward_batch(ids, token_type_ids=[[0] * len(one) for one in ids])
        if last is None:
            return np.array(output.last_hidden_state)
        return np.array(output.pooler_output) @ last["weight"].numpy().T + last["bias"].numpy()

    return inputs.ask(answer)


def llama_cpp(folder: Path, inputs: Inputs) -> Tensor:
    """With the file's own tokenizer; of a classifier the first numbers are its logits."""
    command = [sys.executable, str(LLAMA_CPP), str(folder / "model.gguf")]
    done = subprocess.run(command, input=json.dumps(list(inputs.texts)), capture_output=True, text=True, check=True)
    found = [one[0] if isinstance(one[0], list) else one for one in json.loads(done.stdout.splitlines()[-1])]
    return torch.tensor([one[: inputs.labels] for one in found])


def transformers_js(folder: Path, inputs: Inputs, precision: str = "1") -> Tensor:
    """In Node, whose ONNX Runtime takes the same option as Python's."""
    script = shutil.copy(HERE / "transformers_js.mjs", inputs.node_modules.parent)  # imports are looked for beside it
    task = "feature-extraction" if inputs.labels is None else "text-classification"
    command = ["node", script, str(folder), task, precision]
    done = subprocess.run(command, input=json.dumps(list(inputs.texts)), capture_output=True, text=True, check=True)
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


def executorch(folder: Path, inputs: Inputs) -> Tensor:
    """One text at a time, as its memory is planned."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
    names = inputs.tokenizer.model_input_names
    order = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in names]
    return inputs.ask(lambda rows: method.execute([torch.from_numpy(rows[name]) for name in order])[0].numpy(), 1)


RUNTIMES: dict[str, Callable[..., Tensor]] = {
    "onnx": onnx_runtime,
    "onnx-nbits": onnx_runtime,
    "transformers.js": transformers_js,
    "openvino": openvino,
    "gguf": llama_cpp,
    "ctranslate2": ctranslate2,
    "compressed-tensors": checkpoint,
    "w8a8": checkpoint,
    "executorch": executorch,
    "dense": checkpoint,
}
"""Format to what runs it."""
