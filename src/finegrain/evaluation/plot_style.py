"""Style of all plots, and their rendering to PNG: the same figure always gives the same bytes.

The colors are those of Okabe and Ito, which color-blind readers can distinguish
(https://jfly.uni-koeln.de/color/); each model also has its own marker.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import PercentFormatter
from PIL import Image

from finegrain.core import file_io

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
GRAY = "#555555"
DPI = 144
FEW_CLASSES = 30
"""Up to this number, plots show every class with its name and number; above it, a summary."""
# matplotlib brings DejaVu; class names in other scripts need one of these fonts, or show as boxes
_OTHER_SCRIPTS = ("Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari")
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *sorted(set(_OTHER_SCRIPTS) & set(get_font_names()))],
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.7, "legend.frameon": False,
}  # fmt: skip
styled = matplotlib.style.context(["default", _STYLE])
"""Decorator that draws a figure in this style, whatever the user's matplotlibrc contains."""


@styled
def render_png(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colors: enough for plots, and a third of the bytes in git."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    stream = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(stream, format="png", optimize=True)
    return stream.getvalue()


def save_png(figure: Figure, file: Path) -> None:
    file_io.write_bytes(file, render_png(figure))


def percent(share: float, digits: int = 0) -> str:
    """Such as 12 %, with a no-break space, as in the report's text."""
    return f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def percent_ticks() -> PercentFormatter:
    """Labels of one axis with shares in [0, 1], written as by ``percent``."""
    return PercentFormatter(1, symbol="\N{NO-BREAK SPACE}%")


def shorten(name: str, letters: int = 46) -> str:
    """One printable line; a long name loses its middle, since make and year are at its ends."""
    name = "".join(letter if letter.isprintable() else "�" for letter in name)
    tail = letters // 3
    return name if len(name) <= letters else f"{name[: letters - tail - 1].rstrip()}…{name[-tail:].lstrip()}"
