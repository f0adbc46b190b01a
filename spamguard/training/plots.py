"""Figures as pictures: what reports embed and what `models thresholds --plot` writes.

matplotlib on its own canvas, without pyplot: no global state, no display. Colours are those of
Okabe and Ito, told apart by people who see colours differently, and lines differ in dash too.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from spamguard.training.metrics import (
    calibration_bins,
    precision_recall_points,
    roc_points,
    wilson,
)
from spamguard.verdict import Thresholds

Scores = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]

LOWEST_RATE = 1e-4  # of ham flagged: 0.01 %, left end of the ROC
MOST_POINTS = 600  # of one curve in a file
_SPAM, _HAM, _GREY = "#d55e00", "#0072b2", "#6b7280"
_LINES: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "linewidth": 2.2},
    {"color": "#d55e00", "linewidth": 1.5, "linestyle": (0, (5, 2))},
    {"color": "#009e73", "linewidth": 1.5, "linestyle": (0, (1.5, 1.5))},
)
_LOG_ODDS_END = 9.2  # of histograms: 0.0001 and 0.9999
_STYLE: Any = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "spamguard",  # the same figures give the same file
    "text.parse_math": False,
}


def write_trade_off(
    path: Path, scores: Scores, is_spam: Truth, *, chosen: Thresholds, title: str
) -> None:
    """Write ham flagged and spam caught over the threshold; the suffix says SVG or PNG."""
    path.write_bytes(trade_off(scores, is_spam, chosen=chosen, title=title, kind=path.suffix[1:]))


def trade_off(
    scores: Scores, is_spam: Truth, *, chosen: Thresholds, title: str, kind: str = "svg"
) -> bytes:
    """Draw ham flagged (log scale, with its 95 % interval) and spam caught by threshold."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        places = np.linspace(-3, _LOG_ODDS_END, 200)
        thresholds = 1 / (1 + np.exp(-places))
        ham, spam = np.sort(scores[~is_spam]), np.sort(scores[is_spam])
        above = ham.size - np.searchsorted(ham, thresholds)
        bounds = np.array([wilson(int(count), ham.size) for count in above])
        rates = np.where(above, above / max(1, ham.size), np.nan)
        low = np.maximum(bounds[:, 0], LOWEST_RATE)
        axes.fill_between(
            places, low, np.maximum(bounds[:, 1], LOWEST_RATE), color=_HAM, alpha=0.15
        )
        axes.plot(places, rates, color=_HAM, linewidth=2, label="ham flagged (left)")
        axes.set_yscale("log")
        axes.set_ylim(LOWEST_RATE, 1)
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_ylabel("of the ham")
        other = axes.twinx()
        other.grid(visible=False)
        other.spines["right"].set_visible(True)
        caught = 1 - np.searchsorted(spam, thresholds) / max(1, spam.size)
        line: dict[str, Any] = {"color": _SPAM, "linewidth": 2, "linestyle": (0, (5, 2))}
        other.plot(places, caught, label="spam caught (right)", **line)
        other.set_ylim(0, 1.02)
        other.yaxis.set_major_formatter(PercentFormatter(1))
        other.set_ylabel("of the spam")
        _thresholds(axes, chosen, height=0.55)
        axes.set_title(title)
        _probability_axis(axes, -3)
        axes.set_xlabel("threshold: spam probability from which a message is flagged")
        handles = [*axes.get_lines()[:1], *other.get_lines()]
        axes.legend(handles=handles, loc="lower left")
        return _rendered(figure, kind)


def roc(models: Mapping[str, Scores], is_spam: Truth, *, marks: Thresholds, kind: str) -> bytes:
    """Draw spam caught over ham flagged, the latter on a log scale from `LOWEST_RATE`.

    Args:
        models: name -> scores; of the first the thresholds are marked.
        is_spam: the truth.
        marks: thresholds of the first model.
        kind: svg or png.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _square()
        for number, (name, scores) in enumerate(models.items()):
            ham, spam = roc_points(scores, is_spam)
            ham, spam = np.r_[LOWEST_RATE, np.maximum(ham, LOWEST_RATE)], np.r_[0, spam]
            axes.step(*_thinned(ham, spam), where="post", label=name, **_LINES[number % 3])
        first = next(iter(models.values()))
        for threshold, label in ((marks.spam, "spam"), (marks.unsure, "unsure")):
            x = max(float((first[~is_spam] >= threshold).mean()), LOWEST_RATE)
            y = float((first[is_spam] >= threshold).mean())
            axes.plot([x], [y], "o", color=_LINES[0]["color"], markersize=7, clip_on=False)
            axes.annotate(label, (x, y), (7, -12), textcoords="offset points", fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(LOWEST_RATE, 1)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("ham flagged")
        axes.set_ylabel("spam caught")
        axes.set_title("Spam caught by ham flagged (ROC)")
        axes.legend(loc="lower right")
        return _rendered(figure, kind)


def precision_recall(models: Mapping[str, Scores], is_spam: Truth, *, kind: str) -> bytes:
    """Draw precision over recall, with this set's own share of spam."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square()
        lowest = 1.0
        for number, (name, scores) in enumerate(models.items()):
            recall, precision = precision_recall_points(scores, is_spam)
            axes.plot(*_thinned(recall, precision), label=name, **_LINES[number % 3])
            lowest = min(lowest, float(precision[recall > 0.02].min(initial=1.0)))
        axes.set_xlim(0, 1.01)
        axes.set_ylim(max(0.0, lowest - 0.03), 1.01)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("recall: spam caught")
        axes.set_ylabel("precision: spam among what is flagged")
        axes.set_title(f"Precision and recall, {100 * is_spam.mean():.0f} % spam")
        axes.legend(loc="lower left")
        return _rendered(figure, kind)


def calibration(scores: Scores, is_spam: Truth, weights: Scores, *, title: str, kind: str) -> bytes:
    """Draw how often messages of each score were spam, with Wilson's intervals."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square()
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
        for found in calibration_bins(scores, is_spam, weights):
            low, high = wilson(round(found.frequency * found.messages), found.messages)
            axes.plot([found.score] * 2, [low, high], color=_HAM, linewidth=1.3, alpha=0.55)
            size = 18 + 160 * found.weight**0.5
            axes.scatter([found.score], [found.frequency], s=size, color=_HAM, zorder=3)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("score: spam probability promised")
        axes.set_ylabel("share that was spam")
        axes.set_title(title)
        return _rendered(figure, kind)


def histogram(scores: Scores, is_spam: Truth, *, marks: Thresholds, kind: str) -> bytes:
    """Draw how many messages have each score, by log-odds, ham and spam apart."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square()
        clipped = np.clip(scores, 1e-9, 1 - 1e-9)
        odds = np.clip(np.log(clipped / (1 - clipped)), -_LOG_ODDS_END, _LOG_ODDS_END)
        bins = np.linspace(-_LOG_ODDS_END, _LOG_ODDS_END, 47).tolist()
        for members, color, label in ((~is_spam, _HAM, "ham"), (is_spam, _SPAM, "spam")):
            axes.hist(odds[members], bins=bins, color=color, alpha=0.28)
            axes.hist(
                odds[members], bins=bins, color=color, label=label, histtype="step", linewidth=1.6
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("messages")
        _probability_axis(axes, -_LOG_ODDS_END)
        axes.set_xlabel("score: spam probability")
        _thresholds(axes, marks, height=0.97)
        axes.set_title("Scores")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        return _rendered(figure, kind)


# -- pieces --------------------------------------------------------------------------------------


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 4.3), layout="constrained")
    return figure, figure.subplots()


def _rendered(figure: Figure, kind: str) -> bytes:
    stream = BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(stream, format=kind, dpi=160, metadata=metadata)
    return stream.getvalue()


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.10f}".rstrip("0").rstrip(".") + " %"


def _probability_axis(axes: Axes, lowest: float) -> None:
    """Label log-odds by probability: 0.1 %, 1 %, … 99.9 %."""
    marks: Sequence[float] = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
    kept = [p for p in marks if np.log(p / (1 - p)) >= lowest]
    axes.xaxis.set_major_locator(FixedLocator([float(np.log(p / (1 - p))) for p in kept]))
    axes.xaxis.set_minor_locator(NullLocator())
    labels = [_percent(p) for p in kept]
    axes.set_xticklabels(labels)
    axes.set_xlim(lowest, _LOG_ODDS_END)


def _thresholds(axes: Axes, marks: Thresholds, *, height: float) -> None:
    for threshold, label in ((marks.unsure, "unsure"), (marks.spam, "spam")):
        bounded = min(max(threshold, 1e-4), 1 - 1e-4)
        place = float(np.log(bounded / (1 - bounded)))
        axes.axvline(place, color="#374151", linewidth=1, linestyle=(0, (3, 2)))
        axes.text(
            place, height, f" {label} ", rotation=90, va="top", ha="right", fontsize=9,
            color="#374151", transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _thinned(x: Scores, y: Scores) -> tuple[Scores, Scores]:
    """Keep at most `MOST_POINTS` points, more where few messages decide."""
    if x.size <= MOST_POINTS:
        return x, y
    kept = np.unique(np.geomspace(1, x.size, MOST_POINTS).astype(int) - 1)
    return x[kept], y[kept]
