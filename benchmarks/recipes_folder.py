"""Makes the scripts of `recipes/` importable: benchmarks study the same tasks and models."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))
