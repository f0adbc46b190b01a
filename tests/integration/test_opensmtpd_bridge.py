"""The filter program between two pipes, with a judge that answers, refuses, fails or waits."""

import io
import threading

import pytest

from spamguard.errors import DaemonError
from spamguard.opensmtpd import Bridge
from spamguard.verdict import Action, Disposition
from tests.unit.test_wire_opensmtpd import SESSION, TOKEN, data, line, report

pytestmark = pytest.mark.timeout(60)
HEAD = b"filter-dataline|" + SESSION + b"|" + TOKEN + b"|"
TAGGED = Action(
    disposition=Disposition.TAG, delete_headers=("X-Spam-Flag",), add_headers=(("X-Spam-Flag", "YES"),)
)  # fmt: skip
LINES = (b"X-Spam-Flag: no, says the sender", b"Subject: x", b"", b"..dot")


class Judge:
    def __init__(self, answer):
        self._answer = answer
        self.asked = []

    def check(self, envelope, raw):
        self.asked.append((envelope, raw))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def answers(judge, *told):
    output = io.BytesIO()
    Bridge(judge, output, max_message_bytes=10_000).run(io.BytesIO(b"".join(told)))
    return output.getvalue()


def message(*texts):
    return [
        report(b"tx-begin", b"1ef1c203"),
        report(b"tx-mail", b"1ef1c203", b"ok", b"ann@sender.example"),
        *map(data, (*texts, b".")),
    ]


def test_the_fields_of_the_verdict_stand_before_the_message():
    judge = Judge(TAGGED)
    expected = (b"X-Spam-Flag: YES", b"Subject: x", b"", b"..dot", b".")
    assert b"".join(HEAD + text + b"\n" for text in expected) == answers(judge, *message(*LINES))
    [(envelope, raw)] = judge.asked
    assert ("ann@sender.example", "opensmtpd") == (envelope.reverse_path, envelope.frontend)
    assert raw.endswith(b"\r\n\r\n.dot\r\n")


@pytest.mark.parametrize("failure", [DaemonError("away"), RuntimeError("a bug")])
def test_without_a_verdict_a_message_goes_back_as_it_came(failure):
    expected = b"".join(HEAD + text + b"\n" for text in (*LINES, b"."))
    assert expected == answers(Judge(failure), *message(*LINES))


def test_a_line_that_is_not_understood_does_not_end_the_program():
    assert HEAD + b".\n" in answers(Judge(DaemonError("away")), b"nonsense\n", *message())


def test_spam_is_refused_at_the_commit():
    refused = Action(disposition=Disposition.REJECT, smtp_reply="550 5.7.1 spam")
    gone = threading.Event()

    class Source:
        """Asks for the commit as smtpd does: once all lines are back."""

        def __iter__(self):
            yield from message(b"Subject: x")
            assert gone.wait(10)
            yield line(b"filter", b"commit", SESSION, TOKEN)

    class Output(io.BytesIO):
        def write(self, written):
            if written.endswith(b"|.\n"):
                gone.set()
            return super().write(written)

    output = Output()
    Bridge(Judge(refused), output, max_message_bytes=10_000).run(Source())
    result = b"filter-result|" + SESSION + b"|" + TOKEN + b"|reject|550 5.7.1 spam\n"
    assert output.getvalue().endswith(result)


def test_a_session_that_went_away_gets_no_answer():
    away = threading.Event()

    class Slow(Judge):
        def check(self, envelope, raw):
            assert away.wait(10)
            return super().check(envelope, raw)

    class Source:
        def __iter__(self):
            yield from message(b"Subject: x")
            yield report(b"link-disconnect")
            away.set()

    output = io.BytesIO()
    Bridge(Slow(TAGGED), output, max_message_bytes=10_000).run(Source())
    assert b"" == output.getvalue()
