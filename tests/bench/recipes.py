"""Which choices of the training recipe pay: short runs side by side, and one source left out.

`python -m tests.bench.recipes DATASET… --out FILE` trains the small network once per row and
seed on the same messages, measures on sources that may only be evaluated (``use=eval``) and on
held-out groups, and writes each row when it is done: a run that was stopped goes on. With
``--leave-out`` a row is a source that no training message came from, measured on that source's
spam against ham that was held out, or its ham against held-out spam, beside the linear model.
"""

import copy
import json
import pickle
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from spamguard.model.linear import features
from spamguard.training import metrics
from spamguard.training.bases import find_base
from spamguard.training.corpus import corpus_examples
from spamguard.training.dataset import (
    load_examples,
    select,
    split_by_group,
    without_duplicates,
    without_leaks,
)
from spamguard.training.loop import Settings, network_logits, train_network
from spamguard.training.network import (
    SpamClassifier,
    load_encoder,
    load_tokenizer,
    prune_vocabulary,
    round_embeddings,
    small_encoder,
)
from spamguard.training.run import (
    SPLIT_SALT,
    Recipe,
    class_weights,
    fit_linear_model,
    oversampled,
    soft_targets,
)

CELL = 250  # messages of one corpus and label: a row takes three minutes of one idle core
MOST_LAYERS = 6
OWN_SHARE = 5  # one in so many of our own texts
EVALUATED = 400  # messages of one evaluation slice and label
SHORT = Recipe(
    layers=4,
    most_per_cell=CELL,
    linear_per_cell=CELL,
    corpus_copies=1,
    training=Settings(epochs=1, max_tokens=64),
)


_pruned = {}


def _training(**values):
    return replace(SHORT, training=replace(SHORT.training, **values))


ROWS = {
    "the recipe": SHORT,
    "trained on 128 tokens": _training(max_tokens=128),
    "[CLS] pooling": replace(SHORT, pooling="cls"),
    "attention pooling": replace(SHORT, pooling="attention"),
    "no class weights": replace(SHORT, class_weights="none"),
    "effective-number weights": replace(SHORT, class_weights="effective"),
    "oversampling": replace(SHORT, class_weights="none", oversample=True),
    "focal loss": _training(loss="focal"),
    "2 lower layers frozen": _training(freeze_layers=2),
    "no layer decay": _training(layer_decay=1.0),
    "half the learning rate": _training(learning_rate=1e-4),
    "no augmentation": _training(augmentation=0.0),
    "two epochs": _training(epochs=2.0),
    "without our own texts": replace(SHORT, corpus=False),
    "3 layers": replace(SHORT, layers=3),
    "6 layers": replace(SHORT, layers=6),
    "3 layers, taught by 6": replace(SHORT, layers=3, teacher="6 layers"),
    "4 layers, taught by 6": replace(SHORT, teacher="6 layers"),
}


def training_set(examples, recipe, seed, left_out=()):
    """Return what a row trains on and what is held out, without the sources left out."""
    usable = without_duplicates(
        without_leaks(e) for e in examples if e.use == "train" and e.corpus not in left_out
    )
    kept, held = split_by_group(usable, held_out=0.12, salt=SPLIT_SALT)
    if recipe.corpus:
        kept += corpus_examples(copies=recipe.corpus_copies, seed=seed)[::OWN_SHARE]
    return kept, held


def train_row(base, kept, recipe, seed):
    """Train one network; return it with its tokenizer and the linear model beside it."""
    settings = replace(recipe.training, seed=seed)
    chosen = select(kept, most_per_cell=recipe.most_per_cell, seed=seed)
    if recipe.oversample:
        chosen = oversampled(chosen, seed)
    if base not in _pruned:  # once for all rows: reading 50,000 texts takes minutes
        whole = small_encoder(load_encoder(base), MOST_LAYERS)
        pruned = prune_vocabulary(whole, load_tokenizer(base), [e.text for e in kept])
        round_embeddings(whole)
        _pruned[base] = whole, pruned
    whole, tokenizer = _pruned[base]
    encoder = small_encoder(copy.deepcopy(whole), recipe.layers)
    torch.manual_seed(seed)
    network = SpamClassifier(encoder, pooling=recipe.pooling)
    is_spam = np.array([e.is_spam for e in chosen])
    texts = [e.text for e in chosen]
    targets, weights = is_spam.astype(np.float32), class_weights(is_spam, recipe)
    if recipe.teacher:
        teacher, _, _, _ = train_row(base, kept, ROWS[recipe.teacher], seed)
        window = ROWS[recipe.teacher].training.max_tokens
        logits = network_logits(teacher, tokenizer, texts, max_tokens=window, exact=False)
        targets = soft_targets(targets, logits, recipe.teacher_share)
    for _ in train_network(network, tokenizer, texts, targets, weights, settings=settings):
        pass
    return network, tokenizer, fit_linear_model(kept, recipe), len(chosen)


def thinned(examples, seed=0):
    """Return at most so many of each corpus and label."""
    generator = np.random.default_rng(seed)
    cells = {}
    for example in examples:
        cells.setdefault((example.corpus, example.is_spam), []).append(example)
    return [
        members[i]
        for members in cells.values()
        for i in generator.permutation(len(members))[:EVALUATED]
    ]


def figures_of(scores, is_spam):
    """Return (1-ROCA)% and the shares caught at the three fixed rates, in percent."""
    caught = [
        100 * metrics.caught_at(scores[~is_spam], scores[is_spam], rate)
        for rate in metrics.FIXED_FALSE_POSITIVE_RATES
    ]
    return [metrics.one_minus_roca_percent(scores, is_spam), *caught]


def measure(network, tokenizer, linear, examples, max_tokens):
    """Return the network's and the linear model's logits."""
    texts = [e.text for e in examples]
    bert = network_logits(network, tokenizer, texts, max_tokens=max_tokens)
    return bert, np.array([linear.logit_of(features(text, linear.bits)) for text in texts])


def ablation(base, examples, seeds, done, save):
    """Fill in every row that is missing."""
    fresh = thinned([e for e in examples if e.use == "eval"])
    for seed in seeds:
        for name, recipe in ROWS.items():
            key = f"{name}|{seed}"
            if key in done:
                continue
            started = time.monotonic()
            kept, held = training_set(examples, recipe, seed)
            network, tokenizer, linear, count = train_row(base, kept, recipe, seed)
            seconds = time.monotonic() - started
            validation = [*fresh, *thinned(held)]
            bert, _ = measure(network, tokenizer, linear, validation, recipe.window)
            is_spam = np.array([e.is_spam for e in validation])
            foreign = np.array([e.lang not in {"en", ""} for e in validation])
            save(
                key,
                {
                    "messages": count,
                    "seconds": round(seconds),
                    "all": figures_of(bert, is_spam),
                    "not English": figures_of(bert[foreign], is_spam[foreign]),
                },
            )


def leave_out(base, examples, seeds, done, save):
    """Train without each source, and measure on it."""
    corpora = sorted({e.corpus for e in examples if e.use == "train"})
    families = {name.partition("_")[0] for name in corpora}
    for seed in seeds:
        for family in sorted(families):
            key = f"without {family}|{seed}"
            left_out = {name for name in corpora if name.partition("_")[0] == family}
            own = thinned([e for e in examples if e.corpus in left_out])
            if key in done or len(own) < 100:
                continue
            kept, held = training_set(examples, SHORT, seed, left_out)
            network, tokenizer, linear, count = train_row(base, kept, SHORT, seed)
            others = thinned(held)
            sides = {e.is_spam for e in own}
            against = [e for e in others if e.is_spam not in sides] if len(sides) < 2 else []
            measured = [*own, *against]
            bert, plain = measure(network, tokenizer, linear, [*measured, *others], SHORT.window)
            is_spam = np.array([e.is_spam for e in measured])
            n = len(measured)
            spread = [scores[n:].std() for scores in (bert, plain)]
            both = bert / spread[0] + plain / spread[1]
            save(
                key,
                {
                    "messages": count,
                    "ham": int((~is_spam).sum()),
                    "spam": int(is_spam.sum()),
                    "bert": figures_of(bert[:n], is_spam),
                    "linear": figures_of(plain[:n], is_spam),
                    "both": figures_of(both[:n], is_spam),
                },
            )


def show(rows):
    """Print what has been measured so far."""
    table = Table("row", "measured on", "(1-ROCA) %", "caught at 0.1 %", "0.5 %", "1 %")
    for key, row in rows.items():
        for name, values in row.items():
            if isinstance(values, list):
                table.add_row(key, name, f"{values[0]:.2f}", *(f"{v:.0f}" for v in values[1:]))
    Console().print(table)


@click.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--base", required=True, help="The pretrained encoder, as for `spamguard train`.")
@click.option("--seeds", type=int, multiple=True, default=[1])
@click.option("--leave-out", "is_leave_out", is_flag=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--cache", type=click.Path(path_type=Path), help="Keep the parsed data set here.")
def main(datasets, base, seeds, is_leave_out, out, cache):
    """Run the rows that are not in OUT yet, then print the table."""
    if cache and cache.exists():
        examples = pickle.loads(cache.read_bytes())  # noqa: S301 - our own file
    else:
        examples = [example for directory in datasets for example in load_examples(directory)]
        if cache:
            cache.write_bytes(pickle.dumps(examples))
    rows = json.loads(out.read_text()) if out.exists() else {}

    def save(key, row):
        rows[key] = row
        out.write_text(json.dumps(rows, indent=1) + "\n")
        show({key: row})

    run = leave_out if is_leave_out else ablation
    run(find_base(base), examples, seeds, rows, save)
    show(rows)


if __name__ == "__main__":
    main()
