"""How a bench shows what it found: one table, one verdict a figure, and where it was measured."""

import os
import platform
import statistics
import time

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, width=120)


def machine():
    """Say on what and when."""
    with open("/proc/cpuinfo") as lines:
        model = next(
            (line.partition(":")[2].strip() for line in lines if "model name" in line), "?"
        )
    day = time.strftime("%Y-%m-%d")
    return f"{day}, {len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}"


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def median(values):
    return statistics.median(values)


def measured(figures):
    """Yield (bench, what, figure) of a run's JSON; a bench may have tables of its own besides."""
    for bench, found in figures.items():
        if isinstance(found, dict):
            for what, figure in found.items():
                if isinstance(figure, dict) and "value" in figure:
                    yield bench, what, figure


class Report:
    """Figures of one bench, with their units and targets; each has a name of its own."""

    def __init__(self, title):
        self.table = Table("what", "measured", "target", "", title=title, title_justify="left")
        self.figures = {}

    def add(self, what, value, *, unit="", target=None, at_most=True):
        assert what not in self.figures, what
        self.figures[what] = {"value": value, "unit": unit, "target": target}
        shown = f"{value:.2f} {unit}".strip() if isinstance(value, float) else f"{value} {unit}"
        verdict = ""
        if target is not None:
            is_met = value <= target if at_most else value >= target
            verdict = "[green]met[/]" if is_met else "[red]not met[/]"
        wanted = "" if target is None else f"{'at most' if at_most else 'at least'} {target} {unit}"
        self.table.add_row(what, shown, wanted, verdict)

    def show(self):
        console.print(self.table)
        return self.figures
