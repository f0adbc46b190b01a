"""Does it learn from its users? A source the model has not seen, corrected as it comes.

`python -m tests.bench.learning DATASET --source trec07p` takes one source in its order of
delivery, starts from a model that was not trained on it, and lets users report every mistake:
spam that came through, ham that was called spam. After every so many corrections it retrains,
through the same code and gate as `spamguard retrain`. What is measured on later mail of the
source: misses at the false-positive rate that the first model had there, and good mail of all
other sources called spam.

With ``--noise`` one reporter labels one message in ten wrongly. With ``--poison`` one reporter
calls 200 good messages of one sender spam; what becomes of that sender's later mail is printed.
"""

import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from spamguard.database import migrate
from spamguard.feedback.corrections import CorrectionStore
from spamguard.message import parse_message
from spamguard.model.classifier import Classifier
from spamguard.model.store import ModelStore
from spamguard.model_input import build_model_input
from spamguard.report import Report, ReportSource
from spamguard.training.dataset import raw_messages, read_index
from spamguard.training.metrics import wilson
from spamguard.training.retrain import Retraining
from spamguard.verdict import Label

REPORTERS = 25
START = 1_790_000_000.0
SECONDS_A_MESSAGE = 120.0

console = Console(width=130)


def read_source(directory, corpus, limit, generator):
    """Return (example, raw) pairs of one corpus; in order of delivery where it has one."""
    rows = {p: e for p, e in read_index(directory).items() if e.corpus == corpus}
    wanted = set(generator.sample(sorted(rows), min(limit, len(rows))))
    chosen = {path: example for path, example in rows.items() if path in wanted}
    found = list(raw_messages(directory, chosen))
    return sorted(found, key=lambda pair: pair[0].path)


def read_others(directory, corpus, limit, generator):
    """Return texts of other sources' ham."""
    rows = {p: e for p, e in read_index(directory).items() if e.corpus != corpus and not e.is_spam}
    wanted = set(generator.sample(sorted(rows), min(limit, len(rows))))
    chosen = {path: example for path, example in rows.items() if path in wanted}
    return [text_of(raw) for _, raw in raw_messages(directory, chosen)]


def text_of(raw):
    return build_model_input(parse_message(raw)).text


class Site:
    """One server: its model, its record, its users."""

    def __init__(self, root, model, threads):
        self.now = START
        self.store = ModelStore(root / "models")
        target = root / "models" / "start"
        shutil.copytree(self.store.get(model).path, target)
        manifest = json.loads((target / "manifest.json").read_text())
        (target / "manifest.json").write_text(json.dumps({**manifest, "version": "start"}))
        (root / "models" / "current").write_text("start\n")
        migrate(root / "spamguard.db")
        self.corrections = CorrectionStore(
            root / "spamguard.db", root / "corrections", clock=lambda: self.now
        )
        self.threads = threads
        self.load()

    def load(self):
        version = self.store.current()
        self.classifier = Classifier(version)
        self.thresholds = version.thresholds

    def scores(self, texts):
        return np.array([self.classifier.spam_probability(text) for text in texts])

    def report(self, raw, label, reporter):
        self.corrections.record(
            Report(label=label, reporter=reporter, source=ReportSource.IMAP, raw=raw)
        )

    def retrain(self):
        started = time.monotonic()
        result = Retraining(
            self.store,
            self.corrections,
            threads=self.threads,
            clock=lambda: self.now,
            say=lambda _: None,
        ).run()
        self.load()
        return result, time.monotonic() - started


def measure(site, test, others, level):
    """Return misses at the fixed level, what would be let through, and ham of others flagged."""
    scores = site.scores([text for _, text in test])
    is_spam = np.array([example.is_spam for example, _ in test])
    ham = np.sort(scores[~is_spam])[::-1]
    threshold = ham[min(len(ham) - 1, level)]
    missed = float((scores[is_spam] <= threshold).mean())
    flagged = int((site.scores(others) >= site.thresholds.spam).sum())
    return {
        "misses at unchanged FPR": missed,
        "called ham": float((scores[is_spam] < site.thresholds.unsure).mean()),
        "ham called spam": int((scores[~is_spam] >= site.thresholds.spam).sum()),
        "ham unsure+": int((scores[~is_spam] >= site.thresholds.unsure).sum()),
        "other sources' ham called spam": flagged,
    }


def run(directory, corpus, model, *, steps, each, noise, poison, seed, threads, root):
    """Play one scenario; return its rows."""
    generator = random.Random(seed)
    mail = read_source(directory, corpus, 5000, generator)
    cut = len(mail) * 3 // 5
    stream, later = mail[:cut], mail[cut:]
    test = [(example, text_of(raw)) for example, raw in later]
    others = read_others(directory, corpus, 1500, generator)
    site = Site(root, model, threads)
    is_spam = np.array([example.is_spam for example, _ in test])
    first = site.scores([text for _, text in test])
    level = int((first[~is_spam] >= site.thresholds.unsure).sum())
    rows = [{"corrections": 0, **measure(site, test, others, level)}]
    victim = None
    if poison:
        senders = {}
        for example, raw in stream:
            if not example.is_spam:
                address = parse_message(raw).address("from")[1]
                senders.setdefault(address, []).append(raw)
        victim = max(senders, key=lambda name: len(senders[name]))
        for number in range(200):
            raw = senders[victim][number % len(senders[victim])]
            extra = f"\r\n{generator.random()} {'abcdefghij'[number % 10] * 3}\r\n".encode()
            site.now += 60
            site.report(raw + extra, Label.SPAM, "mallory@site.example")
    reported = done = 0
    for number, (example, raw) in enumerate(stream):
        site.now += SECONDS_A_MESSAGE
        probability = site.classifier.spam_probability(text_of(raw))
        truth = Label.SPAM if example.is_spam else Label.HAM
        is_missed = example.is_spam and probability < site.thresholds.unsure
        is_flagged = not example.is_spam and probability >= site.thresholds.unsure
        reporter = f"user{number % REPORTERS}@site.example"
        if noise and number % REPORTERS == 0 and generator.random() < 0.1:
            wrong = Label.HAM if example.is_spam else Label.SPAM
            site.report(raw, wrong, reporter)
        elif is_missed or is_flagged:
            site.report(raw, truth, reporter)
            reported += 1
        if reported // each > done:
            done = reported // each
            result, seconds = site.retrain()
            row = {
                "corrections": reported,
                **measure(site, test, others, level),
                "promoted": result.promoted,
                "stage": result.plan.stage,
                "why not": "; ".join(result.decision.reasons) if result.decision else "",
                "seconds": round(seconds),
                "parts": {k: round(v, 1) for k, v in result.seconds.items()},
            }
            rows.append(row)
            console.print(row)
            if done == steps:
                break
    answer = {"rows": rows, "test": {"ham": int((~is_spam).sum()), "spam": int(is_spam.sum())}}
    answer["others"] = len(others)
    if victim is not None:
        later_mail = [
            text_of(raw)
            for example, raw in later
            if not example.is_spam and parse_message(raw).address("from")[1] == victim
        ]
        held = int((site.scores(later_mail) >= site.thresholds.spam).sum())
        answer["victim"] = {"later messages": len(later_mail), "called spam": held}
    return answer


def show(title, answer):
    table = Table(
        "corrections",
        "misses at unchanged FPR",
        "spam called ham",
        "ham called spam",
        "ham unsure+",
        "others' ham called spam (95 %)",
        "stage",
        "promoted",
        "seconds",
        title=f"{title}: {answer['test']} later messages, {answer['others']} of other sources",
    )
    for row in answer["rows"]:
        flagged = row["other sources' ham called spam"]
        low, high = wilson(flagged, answer["others"])
        table.add_row(
            str(row["corrections"]),
            f"{row['misses at unchanged FPR']:.1%}",
            f"{row['called ham']:.1%}",
            str(row["ham called spam"]),
            str(row["ham unsure+"]),
            f"{flagged} ({low:.2%}-{high:.2%})",
            row.get("stage", ""),
            str(row.get("promoted", "")),
            str(row.get("seconds", "")),
        )
    console.print(table)
    if "victim" in answer:
        console.print(f"the poisoned sender: {answer['victim']}")


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="The corpus that is held out.")
@click.option("--model", default="default", show_default=True)
@click.option("--steps", default=3, show_default=True, help="Retrainings.")
@click.option("--each", default=100, show_default=True, help="Corrections between them.")
@click.option("--noise", is_flag=True)
@click.option("--poison", is_flag=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path))
def main(dataset, source, model, steps, each, noise, poison, seed, threads, output):
    """Play one scenario and print its table."""
    with tempfile.TemporaryDirectory() as scratch:
        answer = run(
            dataset,
            source,
            model,
            steps=steps,
            each=each,
            noise=noise,
            poison=poison,
            seed=seed,
            threads=threads,
            root=Path(scratch),
        )
    title = f"{source}{', noise' if noise else ''}{', poison' if poison else ''}, seed {seed}"
    show(title, answer)
    if output:
        output.write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
