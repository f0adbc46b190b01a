"""The HTTP door on real sockets: API, rspamd's protocol, hooks, monitoring, tokens, limits."""

import asyncio
import base64
import json
from importlib import resources

import jsonschema
import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from spamguard.frontends.http.server import HttpServer
from spamguard.message import edit_headers
from spamguard.observe import Metrics
from spamguard.report import ReportSource
from spamguard.verdict import OUR_HEADERS, Disposition, Label, Policy
from tests.support.http_client import ask
from tests.support.mail import message
from tests.support.scorers import MemoryQuarantine, WordScorer, clock, word_filter
from tests.support.sinks import MemorySink

pytestmark = pytest.mark.timeout(60)

SPAM_MAIL = message("XSPAM")
HAM_MAIL = message("hello")
TOKEN = "0123456789abcdef0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
STATUS = {
    "version": "9.9",
    "model": "words-1",
    "uptime_seconds": 12.5,
    "scorers": [4711],
    "waiting": 3,
    "thresholds": {"unsure": 0.5, "spam": 0.9},
    "drift": {"psi": {"score": 0.02}},
    "retraining": {"running": False},
}
DOCUMENT = json.loads(
    resources.files("spamguard.frontends.http").joinpath("openapi.json").read_text("utf-8")
)


class Site:
    def __init__(self, *, tokens=(TOKEN,), policy=None, **options):
        self.metrics = Metrics()
        self.scorer = WordScorer()
        self.quarantine = MemoryQuarantine()
        self.sink = options.pop("sink", MemorySink())
        self.status = dict(STATUS)
        self.server = HttpServer(
            word_filter(
                policy or Policy(subject_prefix="[SPAM] ", spam=Disposition.TAG),
                scorer=self.scorer,
                quarantine=self.quarantine,
                metrics=self.metrics,
            ),
            self.sink,
            status=self._status,
            tokens=tuple(token.encode() for token in tokens),
            metrics=self.metrics,
            clock=clock,
            max_message_bytes=options.pop("max_message_bytes", 100_000),
            **options,
        )

    async def _status(self):
        return self.status

    async def __aenter__(self):
        _, self.port = await self.server.start_tcp("127.0.0.1", 0)
        return self

    async def __aexit__(self, *error):
        await self.server.drain(1)

    async def ask(self, method, path, body=None, headers=BEARER, where=None):
        return await asyncio.to_thread(ask, where or self.port, method, path, body, headers)


# -- our API ---------------------------------------------------------------------------------


async def test_check_gives_verdict_and_action():
    async with Site() as site:
        answer = (await site.ask("POST", "/v1/check?from=a@b.example&rcpt=c@d", SPAM_MAIL)).json()
    assert answer["label"] == "spam"
    assert answer["disposition"] == "tag"
    assert answer["subject_prefix"] == "[SPAM] "
    assert answer["delete_headers"] == list(OUR_HEADERS)
    fields = [(field["name"], field["value"]) for field in answer["add_headers"]]
    assert fields[0] == ("X-Spam-Flag", "YES")
    edited = edit_headers(SPAM_MAIL, add=fields)
    assert edited.startswith(b"X-Spam-Flag: YES\r\n")


async def test_check_passes_the_envelope_on():
    policy = Policy(spam=Disposition.REJECT, outgoing=Disposition.TAG)
    async with Site(policy=policy) as site:
        path = "/v1/check?from=a@b.example&rcpt=c@d.example&ip=192.0.2.7&helo=x"
        incoming = (await site.ask("POST", path, SPAM_MAIL)).json()
        outgoing = (await site.ask("POST", path + "&user=ann", SPAM_MAIL)).json()
        bounce = (await site.ask("POST", "/v1/check?rcpt=c@d.example", SPAM_MAIL)).json()
    assert incoming["disposition"] == "reject"
    assert incoming["smtp_reply"].startswith("550 5.7.1 ")
    assert outgoing["disposition"] == "tag"
    assert bounce["disposition"] == "tag"


async def test_what_could_not_be_judged_is_delivered_unscored():
    async with Site() as site:
        answer = (await site.ask("POST", "/v1/check", message("XCRASH"))).json()
    assert (answer["label"], answer["disposition"]) == ("unscored", "deliver")
    assert answer["spam_probability"] is None


async def test_nothing_is_held_since_the_client_keeps_the_message():
    async with Site(policy=Policy(spam=Disposition.QUARANTINE)) as site:
        answer = (await site.ask("POST", "/v1/check?from=a@b", SPAM_MAIL)).json()
    assert answer["disposition"] == "tag"
    assert site.quarantine.held == []


@pytest.mark.parametrize("path", ["/v1/report", "/report"])
async def test_a_report_is_recorded_once_and_taken_back(path):
    async with Site() as site:
        told = f"{path}?label=spam&reporter=ann@example.org"
        first = (await site.ask("POST", told, SPAM_MAIL)).json()
        again = (await site.ask("POST", told, SPAM_MAIL)).json()
        (report,) = site.sink.reports
        undo = f"{path}?label=undo&reporter=ann@example.org"
        assert (await site.ask("POST", undo, SPAM_MAIL)).json() == {"undone": True}
        assert (await site.ask("POST", undo, SPAM_MAIL)).json() == {"undone": False}
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert first["standing"] == "counted"
    assert (report.label, report.reporter, report.raw) == (Label.SPAM, "ann@example.org", SPAM_MAIL)
    assert report.source is ReportSource.HTTP


async def test_a_report_that_cannot_be_taken_says_why():
    async with Site(sink=MemorySink(refuses=b"XSPAM")) as site:
        refused = await site.ask("POST", "/report?label=ham&reporter=ann", SPAM_MAIL)
        no_label = await site.ask("POST", "/report?reporter=ann", HAM_MAIL)
    assert (refused.status, refused.json()) == (422, {"error": "not yours to report: é"})
    assert no_label.status == 400
    async with Site(sink=MemorySink(fails=True)) as site:
        failed = await site.ask("POST", "/report?label=ham&reporter=ann", SPAM_MAIL)
        undo = await site.ask("POST", "/report?label=undo&reporter=ann", SPAM_MAIL)
        assert site.metrics.snapshot()["report_failures"] == 2
    assert (failed.status, undo.status) == (503, 503)


# -- tokens ----------------------------------------------------------------------------------

CLOSED = [
    ("POST", "/v1/check"),
    ("POST", "/v1/report?label=spam&reporter=ann"),
    ("POST", "/report?label=spam&reporter=ann"),
    ("POST", "/checkv2"),
    ("POST", "/learnspam"),
    ("POST", "/learnham"),
    ("POST", "/stalwart"),
    ("GET", "/stat"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_without_a_valid_token_the_door_is_closed(method, path):
    basic = base64.b64encode(b"user:" + TOKEN[:-1].encode()).decode()
    bad = [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer \u00e9\u00e9".encode().decode("latin-1")},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": "Basic ?"},
        {"Password": ""},
    ]
    async with Site() as site:
        for headers in bad:
            answer = await site.ask(method, path, HAM_MAIL, headers)
            assert answer.status == 401, headers
            assert "error" in answer.json()
    assert site.sink.reports == []
    assert site.scorer.scored == []


async def test_a_token_may_come_in_three_ways_and_one_of_several_is_enough():
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    ways = [BEARER, {"Authorization": f"Basic {basic}"}, {"Password": TOKEN}]
    async with Site(tokens=("f" * 32, TOKEN)) as site:
        for headers in ways:
            answer = await site.ask("POST", "/learnspam", SPAM_MAIL, headers)
            assert answer.status in {200, 208}


async def test_without_tokens_verdicts_are_free_and_reports_are_not_taken():
    async with Site(tokens=()) as site:
        for method, path in CLOSED:
            is_report = "report" in path or "learn" in path
            body = b"{}" if path == "/stalwart" else HAM_MAIL
            answer = await site.ask(method, path, body, {"Authorization": "Bearer "})
            assert answer.status == (401 if is_report else 200), path
    assert site.sink.reports == []


async def test_a_unix_socket_gives_verdicts_and_takes_reports_with_a_token(tmp_path):
    path = tmp_path / "http.sock"
    async with Site() as site:
        await site.server.start_unix(path, 0o660)
        check = await site.ask("POST", "/v1/check", SPAM_MAIL, {}, where=path)
        report = await site.ask("POST", "/learnspam", SPAM_MAIL, {}, where=path)
        with_token = await site.ask("POST", "/learnspam", SPAM_MAIL, where=path)
        assert path.stat().st_mode & 0o777 == 0o660
    assert (check.status, report.status, with_token.status) == (200, 401, 200)
    assert not path.exists()


# -- limits ----------------------------------------------------------------------------------


async def test_a_body_larger_than_allowed_is_refused_before_it_is_read():
    async with Site(max_message_bytes=1000) as site:
        declared = await site.ask("POST", "/v1/check", b"x" * 1001)
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v1/check HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n")
        writer.write(f"Authorization: Bearer {TOKEN}\r\n\r\n".encode())
        writer.write(b"258\r\n" + b"x" * 600 + b"\r\n258\r\n" + b"x" * 600 + b"\r\n")
        chunked = await reader.readline()
        writer.close()
        small = await site.ask("POST", "/v1/check", b"x" * 1000)
    assert declared.status == 413
    assert chunked.startswith(b"HTTP/1.1 413")
    assert small.status == 200


async def test_a_body_that_does_not_come_is_not_waited_for():
    async with Site(read_seconds=0.1) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        writer.write(f"Authorization: Bearer {TOKEN}\r\n\r\nx".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_client_that_goes_away_leaves_no_error_behind(caplog):
    async with Site() as site:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        writer.write(f"Authorization: Bearer {TOKEN}\r\n\r\nx".encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_compressed_bodies_are_not_taken():
    async with Site() as site:
        for name in ("Content-Encoding", "Compression"):
            answer = await site.ask("POST", "/checkv2", b"x", {**BEARER, name: "zstd"})
            assert answer.status == 415


async def test_what_is_not_http_ends_its_connection_alone():
    async with Site() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"EHLO x\r\n\r\n" + b"\xff" * 100)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()
        assert (await site.ask("GET", "/ping")).body == b"pong\r\n"
        assert (await site.ask("GET", "/nothing")).status == 404
        assert (await site.ask("GET", "/v1/check")).status == 405


async def test_a_drain_answers_what_is_being_judged_and_says_not_ready():
    site = Site()
    async with site:
        asked = asyncio.create_task(site.ask("POST", "/v1/check", message("XSLOW XSPAM")))
        while not site.scorer.waiting:
            await asyncio.sleep(0.01)
        await site.server.drain(5)
        assert (await asked).json()["label"] == "spam"


async def test_a_drain_cuts_what_does_not_end():
    async with Site() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        writer.write(f"Authorization: Bearer {TOKEN}\r\n\r\nx".encode())
        await asyncio.sleep(0.1)
        await asyncio.wait_for(site.server.drain(1), 10)
        try:
            assert b"200" not in await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            pass
        writer.close()


# -- rspamd ----------------------------------------------------------------------------------


async def test_checkv2_says_what_rspamds_clients_act_on():
    async with Site() as site:
        headers = [*BEARER.items(), ("From", "<a@b.example>"), ("Rcpt", "c@d"), ("Rcpt", "e@f")]
        answer = (await site.ask("POST", "/checkv2", SPAM_MAIL, headers)).json()
        ham = (await site.ask("POST", "/checkv2", HAM_MAIL, headers)).json()
    assert answer["action"] == "rewrite subject"
    assert answer["subject"] == "[SPAM] A test"
    assert (answer["score"], answer["required_score"]) == (9.9, 5.0)
    assert list(answer["symbols"]) == ["SPAMGUARD_SPAM"]
    assert answer["milter"]["add_headers"]["X-Spam-Flag"] == {"value": "YES", "order": 0}
    assert answer["milter"]["remove_headers"] == dict.fromkeys(OUR_HEADERS, 0)
    assert (ham["action"], ham["is_skipped"]) == ("no action", False)


@pytest.mark.parametrize(
    ("spam", "word", "action"),
    [
        (Disposition.REJECT, "XSPAM", "reject"),
        (Disposition.TAG, "XSPAM", "add header"),
        (Disposition.QUARANTINE, "XSPAM", "add header"),
        (Disposition.TAG, "XUNSURE", "no action"),
        (Disposition.TAG, "XCRASH", "no action"),
    ],
)
async def test_checkv2_names_actions_as_rspamd_does(spam, word, action):
    async with Site(policy=Policy(spam=spam)) as site:
        headers = {**BEARER, "From": "a@b.example"}
        answer = (await site.ask("POST", "/checkv2", message(word), headers)).json()
    assert answer["action"] == action
    assert answer["is_skipped"] == (word == "XCRASH")
    assert ("smtp_message" in answer["messages"]) == (action == "reject")


async def test_learning_says_success_and_then_already_learned():
    async with Site() as site:
        headers = {**BEARER, "User": "ann@example.org"}
        assert (await site.ask("POST", "/learnham", HAM_MAIL, headers)).json() == {"success": True}
        again = await site.ask("POST", "/learnham", HAM_MAIL, headers)
        (report,) = site.sink.reports
    assert again.status == 208
    assert "already learned" in again.json()["error"]
    assert (report.label, report.reporter) == (Label.HAM, "ann@example.org")


async def test_stat_counts():
    async with Site(policy=Policy(spam=Disposition.REJECT)) as site:
        for mail in (SPAM_MAIL, HAM_MAIL, HAM_MAIL):
            await site.ask("POST", "/checkv2", mail, {**BEARER, "From": "a@b"})
        stat = (await site.ask("GET", "/stat")).json()
    assert (stat["scanned"], stat["spam_count"], stat["ham_count"]) == (3, 1, 2)
    assert stat["actions"] == {"reject": 1, "add header": 0, "no action": 2}
    assert stat["version"] == "9.9"


# -- Stalwart --------------------------------------------------------------------------------


def hook_request(mail, **envelope):
    """What Stalwart sends at its stage DATA; values come with their blank and line end."""
    header, _, body = mail.decode().partition("\r\n\r\n")
    fields = [line.partition(":")[::2] for line in header.split("\r\n")]
    return {
        "context": {
            "stage": "data",
            "client": {"ip": "192.0.2.7", "port": 4711, "ptr": "c.example.", "helo": "c.example", "activeConnections": 1},
            "tls": {"version": "TLSv1.3", "cipher": "AES"},
            "server": {"name": "Stalwart", "port": 25, "ip": "127.0.0.1"},
            "queue": {"id": "2b3c"},
            "protocol": {"version": 1},
        },
        "envelope": {"from": {"address": "ann@a.example"}, "to": [{"address": "bob@b.example"}], **envelope},
        "message": {"headers": [[n, f"{v}\r\n"] for n, v in fields], "contents": body, "size": len(mail)},
    }  # fmt: skip


def applied(request, answer):
    """Do to the header what Stalwart does: indices count from 1 among the fields of a name."""
    fields = [tuple(pair) for pair in request["message"]["headers"]]
    for change in answer["modifications"]:
        name = change.get("name", "").lower()
        places = [n for n, (field, _) in enumerate(fields) if field.lower() == name]
        match change["type"]:
            case "deleteHeader":
                del fields[places[change["index"] - 1]]
            case "changeHeader":
                fields[places[change["index"] - 1]] = (change["name"], change["value"])
            case "insertHeader":
                assert change["index"] == 0
                fields.insert(0, (change["name"], change["value"]))
    return [(name, value.strip()) for name, value in fields]


async def hook(site, request):
    return (await site.ask("POST", "/stalwart", json.dumps(request))).json()


async def test_a_hook_judges_the_message_as_it_was():
    async with Site() as site:
        await hook(site, hook_request(SPAM_MAIL))
    assert site.scorer.scored == [SPAM_MAIL]


async def test_a_hook_puts_our_fields_on_top_for_those_that_were_forged():
    forged = b"X-Spam-Flag: NO\r\nx-spam-flag: NO\r\n" + SPAM_MAIL
    request = hook_request(forged)
    async with Site() as site:
        answer = await hook(site, request)
    fields = applied(request, answer)
    assert answer["action"] == "accept"
    assert [name for name, _ in fields[:4]] == [
        "X-Spam-Flag", "X-Spam-Score", "X-Spam-Status", "X-SpamGuard-ID"
    ]  # fmt: skip
    assert fields[0] == ("X-Spam-Flag", "YES")
    assert ("Subject", "[SPAM] A test") in fields
    assert ("X-Spam-Flag", "NO") not in fields
    assert ("x-spam-flag", "NO") not in fields


async def test_a_hook_rejects_where_policy_says_so():
    async with Site(policy=Policy(spam=Disposition.REJECT)) as site:
        answer = await hook(site, hook_request(SPAM_MAIL))
    assert answer["action"] == "reject"
    assert answer["response"]["status"] == 550
    assert answer["response"]["enhanced_status"] == "5.7.1"


async def test_a_hook_redirects_and_knows_who_logged_in():
    policy = Policy(spam=Disposition.REDIRECT, redirect_to="junk@b.example")
    async with Site(policy=policy) as site:
        answer = await hook(site, hook_request(SPAM_MAIL))
        request = hook_request(SPAM_MAIL)
        request["context"]["sasl"] = {"login": "ann"}
        outgoing = await hook(site, request)
    assert {"type": "deleteRecipient", "value": "bob@b.example"} in answer["modifications"]
    assert {"type": "addRecipient", "value": "junk@b.example"} in answer["modifications"]
    assert "addRecipient" not in [change["type"] for change in outgoing["modifications"]]


async def test_a_hook_at_another_stage_or_unscored_accepts():
    request = hook_request(HAM_MAIL)
    del request["message"]
    async with Site() as site:
        assert await hook(site, request) == {"action": "accept"}
        assert (await hook(site, hook_request(message("XCRASH"))))["action"] == "accept"


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"7", b'{"message": 1}', b'{"message": {"headers": [1], "contents": ""}}', b"[" * 50_000]
)  # fmt: skip
async def test_what_is_no_hook_is_refused(body):
    async with Site() as site:
        assert (await site.ask("POST", "/stalwart", body)).status == 400


# -- monitoring ------------------------------------------------------------------------------


def metrics_of(answer):
    samples = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation
        for sample in family.samples:
            samples[sample.name, *sorted(sample.labels.items())] = sample.value
    return samples


async def test_metrics_are_readable_and_hold_no_mail():
    async with Site() as site:
        for mail in (SPAM_MAIL, HAM_MAIL, message("XSLOW")):
            await site.ask("POST", "/v1/check?from=secret@a.example", mail)
        answer = await site.ask("GET", "/metrics")
    samples = metrics_of(answer)
    assert samples["spamguard_messages_total",] == 3
    assert samples["spamguard_verdict_total", ("label", "spam")] == 1
    assert samples["spamguard_disposition_total", ("label", "tag")] == 1
    assert samples["spamguard_latency_seconds_count",] == 3
    assert samples["spamguard_latency_seconds_bucket", ("le", "0.25")] == 2
    assert samples["spamguard_latency_seconds_bucket", ("le", "+Inf")] == 3
    assert samples["spamguard_latency_seconds_sum",] > 0.3
    assert samples["spamguard_scorers",] == 1
    assert samples["spamguard_waiting",] == 3
    assert samples["spamguard_threshold", ("label", "spam")] == 0.9
    assert samples["spamguard_drift_psi", ("signal", "score")] == 0.02
    assert samples["spamguard_info", ("model", "words-1"), ("version", "9.9")] == 1
    assert samples["spamguard_http_responses_total", ("label", "200")] == 3
    assert b"secret" not in answer.body
    assert answer.headers["content-type"].startswith("text/plain")


async def test_health_and_readiness_need_no_token():
    async with Site() as site:
        assert (await site.ask("GET", "/healthz", headers={})).body == b"ok\n"
        ready = await site.ask("GET", "/readyz", headers={})
        site.status["scorers"] = []
        without_scorers = await site.ask("GET", "/readyz", headers={})
    assert (ready.status, ready.json()["ready"]) == (200, True)
    assert (without_scorers.status, without_scorers.json()["ready"]) == (503, False)


# -- the document ----------------------------------------------------------------------------


def test_the_openapi_document_is_one():
    validate(DOCUMENT)


async def test_the_openapi_document_names_every_route_and_no_other():
    async with Site() as site:
        served = (await site.ask("GET", "/openapi.json", headers={})).json()
    assert served == DOCUMENT
    application = site.server._application(is_unix=False).__closure__
    (starlette,) = [c.cell_contents for c in application if hasattr(c.cell_contents, "routes")]
    routes = {(route.path, method) for route in starlette.routes for method in route.methods}
    documented = set()
    for path, item in DOCUMENT["paths"].items():
        if "$ref" in item:
            item = DOCUMENT["components"]["pathItems"][item["$ref"].rsplit("/", 1)[1]]
        documented |= {(path, method.upper()) for method in item}
    assert {(path, method) for path, method in routes if method != "HEAD"} - {
        ("/checkv2", "GET")
    } == documented


def fits(name, value):
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    jsonschema.validate(value, schema)


async def test_answers_are_what_the_document_says():
    async with Site() as site:
        for word in ("XSPAM", "XUNSURE", "hello", "XCRASH"):
            fits("Verdict", (await site.ask("POST", "/v1/check", message(word))).json())
        told = "/report?reporter=ann&label="
        fits("Receipt", (await site.ask("POST", told + "spam", SPAM_MAIL)).json())
        fits("Undone", (await site.ask("POST", told + "undo", SPAM_MAIL)).json())
        fits("Error", (await site.ask("POST", told, SPAM_MAIL)).json())
        fits("Readiness", (await site.ask("GET", "/readyz")).json())
