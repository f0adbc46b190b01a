"""What need not be computed: mail the linear model settles, and content that was seen before.

`cascade` asks both models about everything and compares: labels must be the same, and so must the
accuracy. `repeats` takes mail in its order of delivery and counts how often the BERT was asked the
same a moment ago, by one memory for each scorer and by one shared by all.
"""

import random
from collections import OrderedDict
from pathlib import Path

from spamguard.message import parse_message
from spamguard.model.classifier import REMEMBERED, Classifier
from spamguard.model.store import ModelStore
from spamguard.model_input import build_model_input
from spamguard.training.dataset import raw_messages, read_index
from spamguard.verdict import Label
from tests.bench.mail import SAMPLES
from tests.bench.report import Report, console

SCORERS = 2
STREAM = "trec07p"  # the corpus that is known in its order of delivery
LARGE = 16 * REMEMBERED


def labelled(dataset, count, corpus=""):
    """Yield (is spam, model input) of a data set, in order of delivery where it has one."""
    if dataset is None:
        for path in sorted(SAMPLES.glob("*.eml"))[:count]:
            yield path.name.startswith(("spam", "phish")), text_of(path.read_bytes())
        return
    rows = {p: e for p, e in read_index(dataset).items() if corpus in {"", e.corpus}}
    paths = sorted(rows)
    if not corpus:
        paths = random.Random(1).sample(paths, min(count, len(paths)))
    chosen = {path: rows[path] for path in paths[:count]}
    for example, raw in sorted(raw_messages(dataset, chosen), key=lambda pair: pair[0].path):
        yield example.is_spam, text_of(raw)


def text_of(raw):
    return build_model_input(parse_message(raw)).text


def cascade(model, count=2000, dataset=None):
    """The share of mail of which the BERT is not asked, and the labels with and without that."""
    classifier = Classifier(ModelStore(Path("/nonexistent")).get(model))
    thresholds = classifier.version.thresholds
    alone, total, changed = [0, 0], [0, 0], 0
    right = {"with": 0, "without": 0}
    for is_spam, text in labelled(dataset, count):
        judged = classifier.judge(text)
        both = thresholds.label(classifier.spam_probability(text))
        label = thresholds.label(judged.spam_probability)
        total[is_spam] += 1
        alone[is_spam] += judged.decided_by == "linear"
        changed += label is not both
        right["with"] += (label is Label.HAM) != is_spam
        right["without"] += (both is Label.HAM) != is_spam
    report = Report(f"the linear model alone, {sum(total)} messages")
    report.add("ham of which the BERT is not asked", 100 * alone[0] / max(1, total[0]), unit="%")
    report.add("spam of which it is not asked", 100 * alone[1] / max(1, total[1]), unit="%")
    report.add("labels changed by that", changed, target=0)
    for how, number in right.items():
        report.add(f"told apart, {how} the cascade", 100 * number / sum(total), unit="%")
    return report.show()


class Memory:
    """The last so many keys; counts how often one was there already."""

    def __init__(self, size):
        self._size = size
        self._keys = OrderedDict()
        self.hits = 0

    def ask(self, key):
        if key in self._keys:
            self.hits += 1
        else:
            self._keys[key] = None
            if len(self._keys) > self._size:
                self._keys.popitem(last=False)


def repeats(model, count=20_000, dataset=None):
    """How often content repeats in a stream, for the memories a scorer or all of them may have."""
    if dataset is None:
        console.print(f"[red]repeats: --dataset with the corpus {STREAM} is needed")
        return {}
    classifier = Classifier(ModelStore(Path("/nonexistent")).get(model))
    generator = random.Random(1)
    own = {size: [Memory(size) for _ in range(SCORERS)] for size in (REMEMBERED, LARGE)}
    shared = {size: Memory(size) for size in own}
    settled = asked = total = 0
    for _, text in labelled(dataset, count, STREAM):
        total += 1
        linear = classifier.linear_logit(text)
        if classifier.calibration.settles(linear, classifier.version.thresholds):
            settled += 1
            continue
        asked += 1
        key = classifier.token_ids(text).tobytes()
        scorer = generator.randrange(SCORERS)
        for size in own:
            own[size][scorer].ask(key)
            shared[size].ask(key)
    report = Report(f"{total} messages of {STREAM} in order of delivery, {SCORERS} scorers")
    report.add("settled by the linear model", 100 * settled / total, unit="%")
    for size in own:
        hits = sum(memory.hits for memory in own[size])
        report.add(f"of the rest seen before, {size} in each scorer", 100 * hits / asked, unit="%")
        report.add(
            f"of the rest seen before, {size} shared by all",
            100 * shared[size].hits / asked,
            unit="%",
        )
    return report.show()
