"""Spam caught before and after each disguise, at the same threshold.

Held-back spam of a data set (rows of use=eval unless told otherwise), or the spam of
`sample_mail/`. Both sides of a row are the same messages: those that the disguise changes.
"""

import random
from collections import defaultdict
from pathlib import Path

from rich import box
from rich.table import Table

from spamguard.message import parse_message
from spamguard.model.classifier import Classifier
from spamguard.model.store import ModelStore
from spamguard.model_input import build_model_input
from spamguard.training.dataset import raw_messages, read_index
from spamguard.training.metrics import wilson
from tests.bench.disguises import DISGUISES
from tests.bench.mail import SAMPLES
from tests.bench.report import console

MOST_LOST = {"all": 3.0, "one": 10.0}  # points; the targets
SEED = 20261123


def _spam(dataset, count, use):
    """Return (name, raw) pairs: as many of each corpus, the same ones every time."""
    if dataset is None:
        paths = [p for p in sorted(SAMPLES.glob("*.eml")) if p.name.startswith(("spam", "phish"))]
        return [(path.name, path.read_bytes()) for path in paths]
    by_corpus = defaultdict(list)
    for path, row in read_index(dataset).items():
        if row.is_spam and use in {row.use, "all"}:
            by_corpus[row.corpus].append((path, row))
    generator = random.Random(SEED)
    share = -(-count // max(1, len(by_corpus)))
    drawn = {}
    for rows in by_corpus.values():
        drawn |= dict(generator.sample(rows, min(share, len(rows))))
    return sorted((row.path, raw) for row, raw in raw_messages(dataset, drawn))


def _probability(classifier, raw):
    return classifier.spam_probability(build_model_input(parse_message(raw)).text)


def disguise(model, count=400, dataset=None, use="eval"):
    """Spam caught before and after each disguise, at the version's own thresholds."""
    version = ModelStore(Path("/nonexistent")).get(model or "default")
    classifier = Classifier(version)
    limits = {"spam": version.thresholds.spam, "spam or unsure": version.thresholds.unsure}
    mail = _spam(dataset and Path(dataset), count, use)
    honest = {name: _probability(classifier, raw) for name, raw in mail}
    rows = {}
    for label, apply in DISGUISES.items():
        pairs = []
        for name, raw in mail:
            try:
                changed = apply(raw, random.Random(f"{SEED} {name}"))
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # the standard library cannot write every broken message it reads
            if changed != raw:
                pairs.append((honest[name], _probability(classifier, changed)))
        rows[label] = pairs
    figures = {"model": version.name, "thresholds": limits, "messages": len(mail), "disguises": {}}
    everything = [pair for pairs in rows.values() for pair in pairs]
    for label, pairs in [*rows.items(), ("all together", everything)]:
        # Disguised copies of one message are no new messages: the interval counts originals.
        effective = min(len(pairs), len(mail))
        figures["disguises"][label] = {"n": len(pairs)} | {
            name: _before_and_after(pairs, limit, effective) for name, limit in limits.items()
        }
    _show(figures)
    return figures


def _before_and_after(pairs, limit, effective):
    n = max(1, len(pairs))
    before, after = (sum(pair[side] >= limit for pair in pairs) / n for side in (0, 1))
    return {
        "before": before,
        "after": after,
        "lost_points": 100 * (before - after),
        "after_interval": wilson(round(after * effective), effective),
    }


def _show(figures):
    limits = figures["thresholds"]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{figures['messages']} spam messages, model {figures['model']}: "
        "caught in percent, 95 % interval, points lost",
        title_justify="left",
    )
    table.add_column("disguise", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True, min_width=5)
    for name, limit in limits.items():
        for column in (f"{name}\nfrom {limit:.4g}", "after", "interval", "lost"):
            table.add_column(column, justify="right", no_wrap=True)
    for label, row in figures["disguises"].items():
        cells = []
        most = MOST_LOST["all" if label == "all together" else "one"]
        for name in limits:
            found = row[name]
            low, high = found["after_interval"]
            colour = "green" if found["lost_points"] <= most else "red"
            cells += [
                f"{100 * found['before']:.1f}",
                f"{100 * found['after']:.1f}",
                f"{100 * low:.0f}–{100 * high:.0f}",
                f"[{colour}]{found['lost_points']:+.1f}[/]",
            ]
        table.add_row(label, str(row["n"]), *cells)
    console.print(table)
