"""The recipes that come with the package."""

from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
"""In a clone a link to its `recipes/`, in a wheel the folder itself."""
SHIPPED = ("*.py", "README.md", "methods/*.yaml", "tasks/*.yaml")


def shipped() -> list[Path]:
    """Paths of all files, relative to `RECIPES`."""
    return sorted(path.relative_to(RECIPES) for pattern in SHIPPED for path in RECIPES.glob(pattern))
