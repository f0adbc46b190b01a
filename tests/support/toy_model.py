"""A version directory whose verdicts a test can foresee: the linear model alone, set by hand.

It is a real version, read and run by the real classifier in real scorer processes; only its
weights are ours: "viagra", "casino", "lottery" are spam, "maybe" is unsure, the rest is ham.
"""

from pathlib import Path

import numpy as np

from spamguard.model.calibration import Calibration
from spamguard.model.linear import DEFAULT_BITS, LinearModel, ngrams
from spamguard.model.store import CALIBRATION_FILE, LINEAR_FILE, write_manifest

SPAM_WORDS = ("viagra", "casino", "lottery")


def write_toy_model(path: Path, *, name="toy-1", spam_words=SPAM_WORDS):
    path.mkdir(parents=True, exist_ok=True)
    weights = np.zeros(1 << DEFAULT_BITS, dtype=np.float32)
    for word in spam_words:
        weights[ngrams(f"\n{word}")] = 60.0
    weights[ngrams("\nmaybe")] = 36.0
    LinearModel(weights, -4.0).save(path / LINEAR_FILE)
    Calibration(bert=0.0, linear=1.0, bias=0.0).save(path / CALIBRATION_FILE)
    write_manifest(
        path,
        {
            "version": name,
            "created": "2026-11-23",
            "max_tokens": 128,
            "thresholds": {"unsure": 0.3, "spam": 0.98},
        },
    )
    return path
