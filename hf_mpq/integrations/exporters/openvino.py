"""OpenVINO's own files."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import nn

from .base import EXPORTERS, Exporter, ExportRequest
from .configs import save_plain_config
from .onnx import write_onnx
from .onnx_types import SMALLEST, pairs


@EXPORTERS.register("openvino")
class OpenVinoExporter(Exporter):
    """`openvino_model.xml` and `openvino_model.bin`, by way of the ONNX graph."""

    packages = ("onnx", "openvino")
    extra = "openvino"

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        if request.activations == "dynamic":
            raise ValueError("OpenVINO multiplies integers only with fixed activation ranges: give calibration=<some "
                             "tokenized rows>, or activations='float'")  # fmt: skip
        import openvino

        with TemporaryDirectory(dir=folder) as scratch:
            file = Path(scratch, "model.onnx")
            write_onnx(model, file, request)
            converted = openvino.convert_model(file)
            _halve_small_integers(converted)
            openvino.save_model(converted, folder / "openvino_model.xml")
        save_plain_config(model, folder)


def _halve_small_integers(model) -> None:
    """Store int8 constants whose values need four bits as i4, with a conversion behind them, in place: reading the ONNX
    file has folded the one that was there. Compiling folds it again."""
    import openvino
    from openvino import opset13

    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.i8:
            continue
        values = node.get_data()
        if values.size < SMALLEST or values.min() < -8 or values.max() > 7:
            continue
        packed = openvino.Tensor(np.frombuffer(pairs(values), np.uint8), values.shape, openvino.Type.i4)
        widened = opset13.convert(openvino.op.Constant(packed, shared_memory=False), "i8").output(0)
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(widened)
