"""What can be fuzzed, by name, and the seeds of each."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import mail, wire

SEEDS = Path(__file__).parent / "seeds"
SAMPLE_MAIL = Path(__file__).resolve().parents[2] / "sample_mail"
READ_MAIL = {"parser", "headers", "reports"}  # targets whose input is a message
# For one input, in processor time. The slowest honest input takes a tenth; the fuzzer's
# instrumentation makes everything about four times slower.
SECONDS = 1.0
INSTRUMENTED_SECONDS = 4.0

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    "parser": mail.parser,
    "model-input": mail.model_input,
    "headers": mail.headers,
    "addresses": mail.addresses,
    "reports": mail.reports,
    "forwards": mail.forwards,
    "repeated": mail.repeated,
    "milter": wire.milter,
    "milter-session": wire.milter_session,
    "spamd": wire.spamd,
    "smtp": wire.smtp,
    "http": wire.http,
}


class TooSlowError(AssertionError):
    """An input cost more than any may."""


def timed(target: Target, limit_seconds: float) -> Target:
    """Return the target with a limit on its processor time."""

    def run(data: bytes) -> None:
        started = time.process_time()
        target(data)
        taken = time.process_time() - started
        if taken > limit_seconds:
            raise TooSlowError(f"{taken:.1f} s for {len(data)} bytes")

    return run


def seed_folders(name: str) -> list[Path]:
    """Return where a target's seeds are: written by us, or inputs that once broke it, cut down."""
    folders = [SEEDS / name, SAMPLE_MAIL] if name in READ_MAIL else [SEEDS / name]
    return [folder for folder in folders if folder.is_dir()]
