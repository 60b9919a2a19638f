"""How figures look on a light and on a dark page; matplotlib is imported when the first figure is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

PRUNED, FLOAT = 0, 32
"""Bits that stand for no weights, and for weights that stay float."""
_PLACES = (0.0, 0.2, 0.47, 0.72, 0.8, 0.87, 0.94, 1.0)
"""Of 1 to 8 bits on the ramp: the low ones, which differ most in size and quality, far apart."""


@dataclass(frozen=True)
class Theme:
    """Colours of one page.

    Attributes:
        page, ink, faint: background, text, and what separates.
        pruned, float: of sub-groups without codes.
        ramp: of precisions, few bits first: lightness falls (dark page: rises) all the way, so that it reads without
            colours too; pruned is the one warm colour, which no common colour blindness takes for a step of the ramp.
        lines: of series, after Okabe and Ito (2008), from the ones that differ most.
    """

    page: str
    ink: str
    faint: str
    pruned: str
    float: str
    ramp: tuple[str, ...]
    lines: tuple[str, ...]

    def colormap(self) -> Colormap:
        """The ramp, smooth."""
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("bits", self.ramp)

    def bit_colours(self, precisions: Iterable[int]) -> list[str]:
        """One colour for each precision: 0, 1 to 8, or 32. The same bits have the same colour in every figure."""
        from matplotlib.colors import to_hex

        special, ramp = {PRUNED: self.pruned, FLOAT: self.float}, self.colormap()
        return [special.get(bits) or to_hex(ramp(_PLACES[bits - 1])) for bits in precisions]


LIGHT = Theme(
    page="#ffffff",
    ink="#1f2328",
    faint="#d0d7de",
    pruned="#d55e00",
    float="#9aa0a6",
    ramp=("#f4f1b5", "#a5d9b7", "#4fb3c1", "#2f7fb5", "#2c4b96", "#1b1d5e"),
    lines=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#5b4bb5"),
)
DARK = Theme(
    page="#0d1117",
    ink="#e6edf3",
    faint="#30363d",
    pruned="#e8590c",
    float="#7d858e",
    ramp=("#27306b", "#2f5f9e", "#3a94b0", "#63c2ae", "#b0e0a8", "#fbf7b0"),
    lines=("#56b4e9", "#f08c3c", "#2fc79a", "#e39ac3", "#f0e442", "#8fb8ff", "#b8a6ff"),
)


@contextmanager
def themed(dark: bool) -> Iterator[Theme]:
    """Figures made inside have the colours of the page."""
    from matplotlib import cycler, rc_context

    theme = DARK if dark else LIGHT
    ink = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color", "legend.labelcolor")
    settings = {
        **dict.fromkeys(ink, theme.ink),
        "axes.edgecolor": theme.faint,
        "grid.color": theme.faint,
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), theme.page),
        "legend.edgecolor": theme.faint,
        "legend.frameon": False,
        "axes.prop_cycle": cycler(color=theme.lines),
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 8,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "figure.titlesize": 11,
        "legend.fontsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,
        "figure.dpi": 120,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
    }
    with rc_context(settings):
        yield theme


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that no window or notebook keeps alive."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
