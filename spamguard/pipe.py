"""One message for a delivery agent (procmail, maildrop, Sieve's `filter`): in, and out with fields.

The running daemon is asked; without one the model is loaded here, which takes a second a message.
"""

import time

from spamguard.client import Client
from spamguard.config import Config
from spamguard.errors import ConfigError, DaemonError
from spamguard.filter import new_id
from spamguard.handover import read_envelope
from spamguard.message import Envelope, edit_headers
from spamguard.verdict import Action, apply_lists, decide, judge


def judged(config: Config, raw: bytes) -> bytes:
    """Return a message with our header fields.

    Raises:
        SpamGuardError: neither the daemon nor a model can judge it.
    """
    reverse_path, recipients = read_envelope(raw)
    envelope = Envelope(
        frontend="pipe", reverse_path=reverse_path, recipients=recipients, received_at=time.time()
    )
    try:
        action = Client.of(config).check(envelope, raw)
    except (ConfigError, DaemonError):
        action = _judge_here(config, envelope, raw)
    return edit_headers(
        raw,
        delete=action.delete_headers,
        add=action.add_headers,
        subject_prefix=action.subject_prefix,
    )


def _judge_here(config: Config, envelope: Envelope, raw: bytes) -> Action:
    from spamguard.model.classifier import Classifier
    from spamguard.model.scorer import MessageScorer
    from spamguard.model.store import ModelStore

    version = ModelStore(config.paths.models).get(config.model.version)
    thresholds = config.model.thresholds or version.thresholds
    score = MessageScorer(Classifier(version)).score(raw, thresholds)
    policy = config.policy.as_policy()
    verdict = judge(score, thresholds, new_id(envelope.received_at))
    return decide(apply_lists(verdict, score, envelope, policy), envelope, policy)
