"""The part of rspamd's HTTP protocol that its clients use: check, learn, ping, stat.

A client keeps the message and acts on ``action``; points are those of the spamd door. What names
a file of ours (``File``, ``Path``) is not there and never will be: it let any client read it.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from spamguard.filter import Outcome
from spamguard.frontends.http.requests import Site
from spamguard.frontends.http.status import Status
from spamguard.frontends.points import SPAM_POINTS, points_of
from spamguard.message import parse_message
from spamguard.verdict import Disposition, Label

# Header of the request: part of the envelope.
_ENVELOPE = {
    "from": "from",
    "ip": "ip",
    "hostname": "name",
    "helo": "helo",
    "user": "user",
    "queue-id": "queue_id",
}
_MAX_HEADER_BYTES = 64 * 1024  # looked at for a Subject to rewrite


def routes(site: Site, status: Status) -> list[Route]:
    """Return rspamd's routes, of its worker and its controller alike."""

    async def check(request: Request) -> Response:
        site.require(request)
        raw = await site.body(request)
        known = {ours: request.headers.get(theirs, "") for theirs, ours in _ENVELOPE.items()}
        recipients = request.headers.getlist("rcpt") or request.headers.getlist("deliver-to")
        return JSONResponse(as_json(await site.judge(site.envelope(known, recipients), raw), raw))

    async def learn(request: Request) -> Response:
        site.require(request, for_report=True)
        label = Label.SPAM if request.url.path == "/learnspam" else Label.HAM
        # Whose word it is: who may use the token may say so.
        reporter = request.headers.get("user") or request.headers.get("deliver-to") or "rspamc"
        receipt = await site.report(label, reporter, await site.body(request))
        if not receipt.is_new:
            # As rspamd does; its clients take it for done.
            return JSONResponse({"error": f"the message was already learned as {label}"}, 208)
        return JSONResponse({"success": True})

    async def ping(request: Request) -> Response:
        del request
        return PlainTextResponse("pong\r\n")

    async def stat(request: Request) -> Response:
        site.require(request)
        return JSONResponse(stat_of(await status(), site.metrics.snapshot()))

    return [
        Route("/checkv2", check, methods=["POST", "GET"]),
        Route("/learnspam", learn, methods=["POST"]),
        Route("/learnham", learn, methods=["POST"]),
        Route("/ping", ping),
        Route("/stat", stat),
    ]


def as_json(outcome: Outcome, raw: bytes) -> dict[str, Any]:
    """Return the answer to /checkv2; what has no score is skipped, not refused."""
    verdict, action = outcome.verdict, outcome.action
    name = f"SPAMGUARD_{verdict.label.upper()}"
    points = points_of(verdict)
    answer: dict[str, Any] = {
        "is_skipped": verdict.label is Label.UNSCORED,
        "score": points,
        "required_score": SPAM_POINTS,
        "action": _action(outcome),
        "thresholds": {"add header": SPAM_POINTS},
        "symbols": {
            name: {
                "name": name,
                "score": points,
                "metric_score": points,
                "description": verdict.reason,
                "options": [f"{verdict.spam_probability or 0:.4f}", verdict.model_version or ""],
            }
        },
        "messages": {},
        "milter": {
            "remove_headers": dict.fromkeys(action.delete_headers, 0),
            "add_headers": {
                name: {"value": value, "order": 0} for name, value in action.add_headers
            },
        },
    }
    if action.smtp_reply:
        answer["messages"]["smtp_message"] = action.smtp_reply
    if action.subject_prefix:
        subject = parse_message(raw[:_MAX_HEADER_BYTES]).header("subject")
        answer["subject"] = action.subject_prefix + subject
    return answer


def _action(outcome: Outcome) -> str:
    match outcome.action.disposition:
        case Disposition.REJECT:
            return "reject"
        case Disposition.DEFER:
            return "soft reject"
        case Disposition.DELIVER:
            return "no action"
    if outcome.verdict.label is not Label.SPAM:
        return "no action"  # "add header" files mail as junk: too much for what is unsure
    return "rewrite subject" if outcome.action.subject_prefix else "add header"


def stat_of(status: dict[str, Any], counters: dict[str, float]) -> dict[str, Any]:
    """Return the answer to /stat, in the fields that rspamc prints."""
    scanned = int(counters.get("messages", 0))
    spam = int(counters.get("verdict.spam", 0))
    rejected = int(counters.get("disposition.reject", 0))
    return {
        "version": status["version"],
        "uptime": int(status["uptime_seconds"]),
        "read_only": False,
        "scanned": scanned,
        "learned": 0,  # learned from is what `spamguard corrections` shows, in its own time
        "spam_count": spam,
        "ham_count": scanned - spam,
        "connections": 0,
        "control_connections": 0,
        "actions": {
            "reject": rejected,
            "add header": max(0, spam - rejected),
            "no action": scanned - max(spam, rejected),
        },
        "pools_allocated": 0,
        "pools_freed": 0,
        "bytes_allocated": 0,
        "chunks_allocated": 0,
        "shared_chunks_allocated": 0,
        "chunks_freed": 0,
        "chunks_oversized": 0,
        "fragmented": 0,
        "total_learns": 0,
        "statfiles": [],
        "fuzzy_hashes": {},
    }
