"""What the daemon and a scorer process say to each other, over the process' standard streams.

To the scorer goes a raw message, with its length and the thresholds by which it will be judged
before it; back comes JSON behind eight bytes of length: whoever might take over a scorer by a
message gets no pickle into the daemon. Numbers are big-endian.
"""

import json
import struct
from dataclasses import fields
from typing import Any

from spamguard.verdict import Score, Thresholds

HEADER_BYTES = 8
MAX_ANSWER_BYTES = 1 << 20  # a score is a kilobyte; one that claims more is not ours
_REQUEST = struct.Struct(">Qdd")  # length of the message, thresholds: unsure, spam
REQUEST_BYTES = _REQUEST.size
_NAMES = tuple(field.name for field in fields(Score))
_TUPLES = ("authentication_results", "projection", "defects")


class ScorerBugError(RuntimeError):
    """Judging raised what it must not; the scorer logged it and goes on."""


def frame(body: bytes) -> bytes:
    """Return a body with its length before it."""
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def request(raw: bytes, thresholds: Thresholds) -> bytes:
    """Return a message as it is handed to a scorer."""
    return _REQUEST.pack(len(raw), thresholds.unsure, thresholds.spam) + raw


def decode_request(header: bytes) -> tuple[int, Thresholds]:
    """Read what stands before a message: its length, and how it will be judged."""
    length, unsure, spam = _REQUEST.unpack(header)
    return length, Thresholds(unsure=unsure, spam=spam)


def encode_score(score: Score) -> bytes:
    """Return an answer."""
    return json.dumps({name: getattr(score, name) for name in _NAMES}).encode()


def encode_bug(error: Exception) -> bytes:
    """Return the answer to a message at which judging raised."""
    return json.dumps({"bug": type(error).__name__}).encode()


def decode_answer(body: bytes) -> Score:
    """Read an answer.

    Raises:
        ScorerBugError: judging raised.
        ValueError: it is none of ours.
    """
    answer: Any = json.loads(body)
    if not isinstance(answer, dict):
        raise ValueError(f"not a scorer's answer: {type(answer).__name__}")  # noqa: TRY004 - of data
    if "bug" in answer:
        raise ScorerBugError(f"a scorer raised {answer['bug']}")
    try:
        return Score(**{**answer, **{name: tuple(answer[name]) for name in _TUPLES}})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a scorer's answer: {error}") from error


WARM_UP_MESSAGE = b"""From: Warm Up <warm-up@example.org>\r\nSubject: Warm up\r\n\r\n\
This message is judged once when a scorer starts, and again by the self-check.\r\n"""
