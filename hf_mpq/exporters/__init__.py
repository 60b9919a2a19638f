"""Files that need no hf_mpq to run."""

from . import compressed_tensors, ctranslate2, dense, executorch, gguf, onnx, onnx_blocks, openvino  # noqa: F401
from .base import EXPORTERS, Exporter, ExportRequest, export

__all__ = ["EXPORTERS", "ExportRequest", "Exporter", "export"]
