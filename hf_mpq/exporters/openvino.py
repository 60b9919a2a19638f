"""OpenVINO's own files."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from .base import EXPORTERS, Exporter, ExportRequest
from .configs import save_plain_config
from .onnx import OLDEST_TRACED, write_onnx
from .openvino_small import shrink_openvino


@EXPORTERS.register("openvino")
class OpenVinoExporter(Exporter):
    """`openvino_model.xml` and `openvino_model.bin`, by way of the ONNX graph."""

    packages = ("onnx", "openvino")
    transformers = OLDEST_TRACED
    extra = "openvino"

    @classmethod
    def write(cls, model: nn.Module, folder: Path, request: ExportRequest) -> None:
        if request.activations not in ("static", "float"):
            raise ValueError(
                "OpenVINO multiplies integers only with fixed activation ranges: give calibration=<some "
                "tokenized rows>, or activations='float'"
            )
        import openvino

        with TemporaryDirectory(dir=folder) as scratch:
            file = Path(scratch, "model.onnx")
            write_onnx(model, file, request, small=False)
            converted = openvino.convert_model(file)
            shrink_openvino(converted)
            for one in converted.inputs:  # without those of operators that do nothing to them
                one.get_tensor().set_names({one.get_node().get_friendly_name()})
            openvino.save_model(converted, folder / "openvino_model.xml", compress_to_fp16=False)
        save_plain_config(model, folder)
