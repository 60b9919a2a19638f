"""Figures as parts of a page: drawn for light and for dark, and written into it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARP = 192
"""Dots per inch of images made of pixels: two for each one of a usual page."""
TYPES = {"svg": "image/svg+xml", "png": "image/png"}


@dataclass(frozen=True)
class Picture:
    """One figure of a page.

    Attributes:
        title, caption: in words.
        light, dark: the images as `data:` addresses.
        width: in pixels of the page.
    """

    title: str
    caption: str
    light: str
    dark: str
    width: int


def picture(title: str, caption: str, draw: Callable[[bool], Figure], format: str = "svg") -> Picture:
    """Draw a figure twice.

    Args:
        title, caption: in words.
        draw: the figure, from whether the page is dark.
        format: `"svg"` for lines, `"png"` where there are many cells.
    """
    light, dark = draw(False), draw(True)
    return Picture(title, caption, _address(light, format), _address(dark, format), round(96 * light.get_figwidth()))


def _address(figure: Figure, format: str) -> str:
    file = BytesIO()
    figure.savefig(file, format=format, dpi=SHARP, metadata={"Date": None} if format == "svg" else None)
    return f"data:{TYPES[format]};base64,{b64encode(file.getvalue()).decode()}"
