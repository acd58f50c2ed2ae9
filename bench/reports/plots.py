"""Plots as inline SVG: text stays text, ink takes the page's colour, and no two plots of a page share an id.

matplotlib comes with the extra `bench`; nothing else of a report needs it.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

from bench.records.rows import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

MISSING: Final = "plots need matplotlib: pip install 'gguf-server[bench]', or `make bench` installs it"
_INK: Final = "#010203"  # becomes the colour of the page's text
_COLOURS: Final = ("#2b7fd4", "#d9730d", "#159a6c", "#c2479b", "#8a6fd6", "#a08400")
_MARKERS: Final = "osD^vP"
_DASHES: Final[tuple[tuple[float, tuple[float, ...] | None], ...]] = (
    (0, None), (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)), (0, (1, 1)), (0, (9, 3)),
)  # fmt: skip
_LONGEST_LABEL: Final = 30
_SHORT_LABEL: Final = 16
_LEGEND_COLUMNS: Final = 3
_WIDTH: Final = 4.6  # inches, as the two after it
_HEIGHT: Final = 2.9
_LEGEND_LINE: Final = 0.17
_STYLE: Final[dict[RcKeyType, Any]] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.2,
    "grid.color": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "text.color": _INK,
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "xtick.color": _INK,
    "ytick.color": _INK,
}


class PlotsMissingError(Exception):
    """matplotlib is not installed; the message tells how to."""


@dataclass(frozen=True, slots=True)
class Line:
    """`least` and `most` are drawn as bars where they are given. `index` decides colour, marker and dashes."""

    name: str
    index: int
    x: Sequence[float]
    y: Sequence[float]
    least: Sequence[float] = ()
    most: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """`key` is unique on the page. `y_from_zero` is for quantities whose size matters, not only their change."""

    key: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    kind: Literal["points", "line"] = "points"
    log_x: bool = False
    y_from_zero: bool = True
    x_ticks: tuple[float, ...] = ()

    @property
    def summary(self) -> str:
        """What is said in place of the picture."""
        told = [f"{printable(line.name)} {_range(line.y)}" for line in self.lines]
        return f"{self.y_label} over {self.x_label}: {'; '.join(told)}."


def svg(plot: Plot) -> str:
    """One `<svg>` element. Raises `PlotsMissingError`."""
    if find_spec("matplotlib") is None:
        raise PlotsMissingError(MISSING)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    out = io.StringIO()
    with rc_context(_STYLE), _any_glyph():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        _draw(axes, plot)
        if len(plot.lines) > 1:
            _legend(figure, axes, plot)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _inlined(out.getvalue(), plot)


@contextmanager
def _any_glyph() -> Iterator[None]:
    """The browser has the fonts: one that matplotlib measures with may lack a letter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _draw(axes: Axes, plot: Plot) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for line in plot.lines:
        _draw_line(axes, plot, line)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(visible=True)
    if plot.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if plot.x_ticks:
        axes.set_xticks(plot.x_ticks, [f"{tick:g}" for tick in plot.x_ticks])
        axes.minorticks_off()
    if plot.y_from_zero:
        axes.set_ylim(bottom=0)


def _legend(figure: Figure, axes: Axes, plot: Plot) -> None:
    """Above the axes: it would cover lines within them."""
    labels = [_label(line.name) for line in plot.lines]
    columns = _LEGEND_COLUMNS if max(map(len, labels)) <= _SHORT_LABEL else _LEGEND_COLUMNS - 1
    figure.legend(axes.get_lines(), labels, loc="outside upper left", ncols=columns, fontsize="small")
    figure.set_figheight(_HEIGHT + _LEGEND_LINE * math.ceil(len(labels) / columns))


def _draw_line(axes: Axes, plot: Plot, line: Line) -> None:
    style = line.index % len(_COLOURS)
    (drawn,) = axes.plot(
        line.x,
        line.y,
        color=_COLOURS[style],
        linestyle=_DASHES[style],
        linewidth=1.8,
        marker=_MARKERS[style] if plot.kind == "points" else None,
    )
    if line.least:
        axes.vlines(line.x, line.least, line.most, color=drawn.get_color(), linewidth=1.2, alpha=0.7)


def _label(name: str) -> str:
    """matplotlib hides what begins with an underscore."""
    shown = printable(name)
    short = shown if len(shown) <= _LONGEST_LABEL else shown[: _LONGEST_LABEL - 1] + "…"
    return f" {short}" if short.startswith("_") else short


def _range(values: Sequence[float]) -> str:
    if not values:
        return "has no value"
    first, last = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return f"from {first} to {last}" if len(values) > 1 else first


def _inlined(document: str, plot: Plot) -> str:
    """The element alone: without the rules for the whole page that matplotlib puts in, and with ids of its own."""
    element = document[document.index("<svg") :]
    element = re.sub(r"<(metadata|style)\b.*?</\1>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="([^"]+)"', rf'id="{plot.key}-\1"', element)
    element = re.sub(r'(href="#|url\(#)([^")]+)', rf"\1{plot.key}-\2", element)
    element = re.sub(r"font-family: [^;\"]+", "font-family: inherit", element.replace(_INK, "currentColor"))
    head = f'<svg role="img" aria-labelledby="{plot.key}-caption" aria-describedby="{plot.key}-summary"'
    return re.sub(r'<svg\b([^>]*?) width="[^"]*"', rf"{head}\1", re.sub(r' height="[^"]*pt"', "", element, count=1))
