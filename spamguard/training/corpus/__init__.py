"""Our own training texts, and the renderer that dresses them as mail.

Public corpora have modern clothes (HTML, brands, other languages, "verify your account") on one
side only, and a model trained on them learns the clothes. `texts/*.jsonl` has each theme on both
sides; `story.py` draws who writes from where, so that layout, language, brand and vocabulary
carry no label and the mismatch of sender, links and request does.

The corpus trains; it never validates itself: its effect is measured on mail it was not written
from.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from spamguard.errors import DataError
from spamguard.message import ParsedMessage, fingerprint_of
from spamguard.model_input import build_model_input
from spamguard.training.corpus.story import Story, draw_story
from spamguard.training.dataset import LABELS, OWN_CORPUS, Example

TEXTS = Path(__file__).parent / "texts"
_FIELDS = frozenset({"label", "theme", "sender", "subject", "text", "link"})


def read_texts(directory: Path = TEXTS) -> list[dict[str, str]]:
    """Return all texts, each with its language from the file's name.

    Raises:
        DataError: a line is not what the corpus consists of; names file and line.
    """
    texts = []
    for path in sorted(directory.glob("*.jsonl")):
        language = path.stem.partition("-")[0]
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON: {error}") from error
            if not set(entry) >= _FIELDS or entry["label"] not in LABELS:
                raise DataError(f"{path}:{number}: expected {', '.join(sorted(_FIELDS))}")
            texts.append({**entry, "lang": language})
    return texts


def corpus_examples(*, copies: int, seed: int, directory: Path = TEXTS) -> list[Example]:
    """Render every text ``copies`` times, each time with another story."""
    examples = []
    for entry in read_texts(directory):
        # The text itself is the group: its renderings stay together.
        group = hashlib.sha256(entry["text"].encode()).hexdigest()[:16]
        for copy in range(copies):
            generator = np.random.default_rng([seed, copy, int(group[:8], 16)])
            message = render(entry, draw_story(entry, generator))
            built = build_model_input(message)
            examples.append(
                Example(
                    path=f"corpus/{entry['lang']}/{group}.{copy}",
                    label=entry["label"],
                    kind=entry["theme"],
                    lang=entry["lang"],
                    corpus=OWN_CORPUS,
                    group=group,
                    text=built.text,
                    fingerprint=built.fingerprint + f"{copy}",
                )
            )
    return examples


def render(entry: dict[str, str], story: Story) -> ParsedMessage:
    """Return the message that one text makes in one story."""
    subject = story.fill(entry["subject"])
    body = story.lay_out(story.fill(entry["text"]), story.fill(entry["link"]))
    headers = [("subject", subject), ("from", f'"{story.from_name}" <{story.from_address}>')]
    if story.reply_to:
        headers.append(("reply-to", f"<{story.reply_to}>"))
    return ParsedMessage(
        fingerprint=fingerprint_of(subject, body),
        message_id="",
        headers=tuple(headers),
        text="" if story.is_html else body,
        html_text=body if story.is_html else "",
        links=story.links,
        attachment_types=story.attachments,
        hidden_text=story.hidden_text,
        defects=(),
        truncated=False,
    )
