"""Names of files and folders in the folder of a run."""

STAGES, ASSIGNMENT = "stages.json", "assignment.json"
SCORES, LATENCIES, SHAPE_LATENCIES = "scores.safetensors", "latencies.json", "shape-latencies.json"
START, MODEL, PACKED = "0-start", "model", "packed"
COMPLETE = "complete"
"""The file that a checkpoint's folder gets last."""
