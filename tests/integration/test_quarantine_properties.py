"""The quarantine against a dictionary: whatever is done in whatever order, nothing gets lost."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from spamguard.database import migrate
from spamguard.errors import DeliveryError, StoreError
from spamguard.message import Envelope
from spamguard.quarantine import ORPHAN_SECONDS, NotHeldError, QuarantineStore
from spamguard.verdict import Label, Verdict

bodies = st.binary(max_size=300)
names = st.text(max_size=20)


class Quarantine(RuleBasedStateMachine):
    """Holds, releases, deletes, expires and recovers; `held` is what must be there."""

    ids = Bundle("ids")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1_000_000.0
        self.held = {}
        self.sent = []
        self.gone = set()
        migrate(self.folder / "spamguard.db")
        self.store = QuarantineStore(
            self.folder / "quarantine", self.folder / "spamguard.db", clock=lambda: self.now
        )

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(target=ids, raw=bodies, sender=names, recipients=st.lists(names, min_size=1, max_size=3))
    def hold(self, raw, sender, recipients):
        self.now += 1
        message_id = f"{len(self.held) + len(self.gone):021x}"
        self.store.hold(
            raw,
            envelope=Envelope(
                frontend="test", reverse_path=sender, recipients=tuple(recipients), helo=sender
            ),
            verdict=Verdict(id=message_id, label=Label.SPAM, spam_probability=0.9, reason=sender),
        )
        self.held[message_id] = (raw, sender, tuple(recipients), self.now)
        return message_id

    @rule(message_id=ids)
    def release(self, message_id):
        def send(raw, reverse_path, recipients):
            self.sent.append((message_id, raw, reverse_path, tuple(recipients)))
            return []

        if message_id not in self.held:
            with pytest.raises(NotHeldError):
                self.store.release(message_id, send)
            return
        raw, sender, recipients, _ = self.held[message_id]
        self.store.release(message_id, send)
        _, sent, reverse_path, to = self.sent[-1]
        assert sent.endswith(raw.partition(b"\n")[2])
        assert (sender, recipients) == (reverse_path, to)
        self._forget(message_id)

    @rule(message_id=ids)
    def fail_to_release(self, message_id):
        def refuse(raw, reverse_path, recipients):
            raise DeliveryError("no")

        with pytest.raises((DeliveryError, NotHeldError)):
            self.store.release(message_id, refuse)

    @rule(message_id=ids)
    def delete(self, message_id):
        if message_id not in self.held:
            with pytest.raises(NotHeldError):
                self.store.delete(message_id)
            return
        self.store.delete(message_id)
        with pytest.raises(StoreError):
            self.store.raw(message_id)
        self._forget(message_id)

    @rule(seconds=st.integers(0, 5))
    def expire(self, seconds):
        before = self.now - seconds
        self.store.expire(before=before)
        for message_id in [i for i, (*_, at) in self.held.items() if at < before]:
            self._forget(message_id)

    @rule()
    def recover(self):
        self.now += ORPHAN_SECONDS
        self.store.recover()

    def _forget(self, message_id):
        del self.held[message_id]
        self.gone.add(message_id)

    @invariant()
    def all_that_is_held_is_there_with_its_bytes(self):
        found = {row.id: row for row in self.store.find()}
        assert set(self.held) == set(found)
        for message_id, (raw, _, recipients, _) in self.held.items():
            assert raw == self.store.raw(message_id)
            assert recipients == found[message_id].recipients

    @invariant()
    def nothing_was_sent_twice(self):
        assert len(self.sent) == len({message_id for message_id, *_ in self.sent})


TestQuarantine = Quarantine.TestCase
TestQuarantine.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestQuarantine = pytest.mark.timeout(120)(TestQuarantine)
