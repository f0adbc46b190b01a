"""The messages that are measured with: the honest samples, and longer ones made of them."""

import random
import re
from pathlib import Path

from spamguard.training.dataset import raw_messages, read_index

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_mail"
# Each gets a Subject of its own: a server that remembers texts shall not gain by our repeating.
_NUMBERED = re.compile(rb"^Subject: ", re.IGNORECASE | re.MULTILINE)
TAUGHT = 300  # messages of each kind that Bayes filters are taught
_TARGET_BYTES = (3_000, 6_000, 12_000, 30_000)


def renumbered(mail, number):
    """Return the messages with another number in each Subject: new ones, for what remembers."""
    return [_NUMBERED.sub(rb"\g<0>%d " % (number * 104_729 + n), m, 1) for n, m in enumerate(mail)]


def messages(count, *, seed=1):
    """Return ``count`` messages of 3 to 30 KB, made of the non-hostile samples; X-Number counts."""
    generator = random.Random(seed)
    samples = [p.read_bytes() for p in sorted(SAMPLES.glob("*.eml")) if "hostile" not in p.name]
    made = []
    for number in range(count):
        raw = generator.choice(samples)
        if b"multipart" not in raw and b"base64" not in raw:
            head, _, body = raw.partition(b"\r\n\r\n")
            target = generator.choice(_TARGET_BYTES)
            body = (body * (target // max(1, len(body)) + 1))[:target]
            raw = head + b"\r\n\r\n" + body.rstrip(b"\r\n") + b"\r\n"
        raw = _NUMBERED.sub(rb"\g<0>%d " % (number * 7919), raw, count=1)
        made.append(b"X-Number: %d\r\n" % number + raw)
    return made


def mixed(dataset, count, seed=1):
    """Return (messages, ham to teach, spam to teach): of a data set, or of our samples."""
    if dataset is None:
        mail = messages(count, seed=seed)
        return mail, mail[:TAUGHT], mail[:TAUGHT]
    generator = random.Random(seed)
    rows = read_index(dataset)
    paths = generator.sample(sorted(rows), min(len(rows), count + 6 * TAUGHT))
    pairs = list(raw_messages(dataset, {path: rows[path] for path in paths}))
    generator.shuffle(pairs)
    taught = {is_spam: [raw for e, raw in pairs[count:] if e.is_spam == is_spam][:TAUGHT] for is_spam in (False, True)}  # fmt: skip
    # What smtplib makes of line ends it also makes of what is sent.
    return [raw for _, raw in pairs[:count]], taught[False], taught[True]
