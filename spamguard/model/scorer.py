"""What runs inside a scorer process: raw message to Score. Nothing else touches hostile bytes.

A scorer process judges one message at a time. If one takes longer than the hard limit the
process dumps its stack and ends itself (`faulthandler`), which works even inside native code;
the parent sees a dead worker and starts another.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from spamguard import gtube
from spamguard.campaign import simhash
from spamguard.message import parse_message
from spamguard.model.channel import (
    REQUEST_BYTES,
    WARM_UP_MESSAGE,
    decode_request,
    encode_bug,
    encode_score,
    frame,
)
from spamguard.model.classifier import Classifier
from spamguard.model.store import ModelVersion
from spamguard.model_input import build_model_input
from spamguard.observe import settle
from spamguard.verdict import Score, Thresholds

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class MessageScorer:
    """Parses and classifies; not bound to any process.

    Args:
        classifier: the model.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._version = classifier.version.name

    def score(self, raw: bytes, thresholds: Thresholds | None = None) -> Score:
        """Score one raw message, to be judged by these thresholds or the version's own."""
        started = time.perf_counter()
        message = parse_message(raw)
        model_input = build_model_input(message)
        judgement = self._classifier.judge(model_input.text, thresholds)
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


def serve(path: Path, hard_limit_seconds: float) -> None:
    """Judge messages from standard input until it ends; see `channel`.

    The parent has verified the checksums of ``path``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent decides
    requests = os.fdopen(os.dup(_STDIN), "rb")
    answers = os.fdopen(os.dup(_STDOUT), "wb")
    os.dup2(_STDERR, _STDOUT)  # what a library prints is no answer
    scorer = MessageScorer(Classifier(ModelVersion.read(path)))
    scorer.score(WARM_UP_MESSAGE)  # so that the first message is not slow
    settle()
    body = b""
    while True:
        answers.write(frame(body))
        answers.flush()
        header = requests.read(REQUEST_BYTES)
        if len(header) < REQUEST_BYTES:
            return
        length, thresholds = decode_request(header)
        raw = requests.read(length)
        body = _answer(scorer, raw, thresholds, hard_limit_seconds)


def _answer(
    scorer: MessageScorer, raw: bytes, thresholds: Thresholds, hard_limit_seconds: float
) -> bytes:
    """Score one message within the hard limit, or end the process."""
    faulthandler.dump_traceback_later(hard_limit_seconds, exit=True, file=_STDERR)
    try:
        return encode_score(scorer.score(raw, thresholds))
    except Exception as error:  # noqa: BLE001 - a bug; the next message may do better
        traceback.print_exc()
        return encode_bug(error)
    finally:
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the daemon is gone
        serve(Path(sys.argv[1]), float(sys.argv[2]))
