"""What runs inside a scorer process: raw message to Score. Nothing else touches hostile bytes.

A scorer process judges one message at a time. If one takes longer than the hard limit the
process dumps its stack and ends itself (`faulthandler`), which works even inside native code;
the parent sees a dead worker and starts another.
"""

import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from pathlib import Path

from spamguard import gtube
from spamguard.campaign import simhash
from spamguard.message import parse_message
from spamguard.model.classifier import Classifier
from spamguard.model.store import ModelVersion
from spamguard.model_input import build_model_input
from spamguard.verdict import Score


class MessageScorer:
    """Parses and classifies; not bound to any process.

    Args:
        classifier: the model.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._version = classifier.version.name

    def score(self, raw: bytes) -> Score:
        """Score one raw message."""
        started = time.perf_counter()
        message = parse_message(raw)
        model_input = build_model_input(message)
        judgement = self._classifier.judge(model_input.text)
        is_test = gtube.has_gtube(message.text) or gtube.has_gtube(message.html_text)
        return Score(
            spam_probability=1.0 if is_test else judgement.spam_probability,
            model_version=self._version,
            fingerprint=message.fingerprint,
            message_id=message.message_id,
            from_domain=message.from_domain,
            authentication_results=message.authentication_results,
            truncated=model_input.truncated,
            simhash=simhash(model_input.text),
            decided_by=gtube.REASON if is_test else judgement.decided_by,
            unknown_share=judgement.unknown_share,
            projection=judgement.projection,
            defects=message.defects,
            milliseconds=(time.perf_counter() - started) * 1000,
        )


# The process's own scorer: set once by `start`, used by `score` (both run in the child).
_scorer: MessageScorer | None = None
_hard_limit_seconds = 0.0
_STDERR = 2  # the descriptor: where the stack of a scorer that hangs is written


def start(path: str, hard_limit_seconds: float) -> None:
    """Load a version in this process and judge one message, so that the first is not slow.

    The parent has verified the checksums.
    """
    global _scorer, _hard_limit_seconds  # noqa: PLW0603 - a process pool's initializer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _hard_limit_seconds = hard_limit_seconds
    _scorer = MessageScorer(Classifier(ModelVersion.read(Path(path))))
    _scorer.score(WARM_UP_MESSAGE)


def _end_with_parent() -> None:
    """End this process when the daemon is gone, however it went: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(0)


def score(raw: bytes) -> Score:
    """Score one message within the hard limit, or end the process."""
    assert _scorer is not None
    faulthandler.dump_traceback_later(_hard_limit_seconds, exit=True, file=_STDERR)
    try:
        return _scorer.score(raw)
    finally:
        faulthandler.cancel_dump_traceback_later()


def ready() -> int:
    """Return the process id, once `start` is through."""
    return os.getpid()


WARM_UP_MESSAGE = b"""From: Warm Up <warm-up@example.org>\r\nSubject: Warm up\r\n\r\n\
This message is judged once when a scorer starts, and again by the self-check.\r\n"""
