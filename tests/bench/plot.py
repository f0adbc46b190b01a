"""The figures of one run as a picture: a panel for each bench and unit, targets as marks."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from tests.bench.report import measured

ROW_INCHES, PANEL_INCHES, WIDTH_INCHES = 0.28, 0.9, 11


def panels(figures):
    """Return {(bench, unit): [(what, value, target)]} in the order of the run."""
    found = {}
    for bench, what, figure in measured(figures):
        row = (what, figure["value"], figure["target"])
        found.setdefault((bench, figure["unit"]), []).append(row)
    return found


def draw(figures, path):
    """Write a PNG or SVG."""
    found = panels(figures)
    heights = [PANEL_INCHES + ROW_INCHES * len(rows) for rows in found.values()]
    figure, axes = plt.subplots(
        len(found), figsize=(WIDTH_INCHES, sum(heights)), height_ratios=heights, squeeze=False
    )
    for axis, ((bench, unit), rows) in zip(axes[:, 0], found.items(), strict=True):
        names, values = [row[0] for row in rows], [row[1] for row in rows]
        bars = axis.barh(names, values, color="#4878a8")
        axis.bar_label(bars, fmt="%.4g", padding=3, fontsize=8)
        for place, (_, _, target) in enumerate(rows):
            if target is not None:
                axis.plot([target] * 2, [place - 0.4, place + 0.4], color="#c44", linewidth=2)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(f"{bench}, {unit}" if unit else bench, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(figures["machine"], fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
