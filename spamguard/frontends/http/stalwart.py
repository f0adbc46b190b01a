"""Stalwart's MTA hooks: its JSON in, an action and modifications out.

Stalwart sends the message as JSON text, in which every byte that is not UTF-8 has been replaced:
good enough to judge, not to keep. So nothing is held; what policy holds is tagged.
"""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spamguard.filter import Outcome
from spamguard.frontends.http.requests import Site
from spamguard.verdict import Disposition

# JSON text of a message is at most six times its size (every byte a \u escape); mail is not.
_JSON_FACTOR = 2
TAB, CRLF = "\t", "\r\n"
_ACCEPT: dict[str, Any] = {"action": "accept"}


def routes(site: Site) -> list[Route]:
    """Return the hook's route."""

    async def hook(request: Request) -> Response:
        site.require(request)
        data = await site.body(request, site.max_message_bytes * _JSON_FACTOR)
        try:
            asked = json.loads(data)
            if asked.get("message") is None:  # a stage before the message
                return JSONResponse(_ACCEPT)
            fields = [(_text(name), _text(value)) for name, value in asked["message"]["headers"]]
            raw = message_of(fields, str(asked["message"]["contents"]))
            envelope = site.envelope(*_envelope_of(asked))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HTTPException(400, "expected a request of an MTA hook") from error
        return JSONResponse(as_json(await site.judge(envelope, raw), fields, envelope.recipients))

    return [Route("/stalwart", hook, methods=["POST"])]


def _text(value: Any) -> str:
    """Return a string that UTF-8 can carry: JSON may hold half a surrogate pair."""
    return str(value).encode("utf-8", "replace").decode()


def message_of(fields: list[tuple[str, str]], contents: str) -> bytes:
    """Put a message together again: values come as they stood, blank and line end included."""
    header = "".join(
        f"{name}:{'' if value[:1] in {' ', TAB} else ' '}{value.rstrip(CRLF)}{CRLF}"
        for name, value in fields
    )
    return f"{header}{CRLF}{contents}".encode("utf-8", "replace")


def _envelope_of(asked: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    context, envelope = asked["context"], asked.get("envelope") or {}
    client = context["client"]
    known = {
        "from": (envelope.get("from") or {}).get("address"),
        "ip": client.get("ip"),
        "name": client.get("ptr"),
        "helo": client.get("helo"),
        "user": (context.get("sasl") or {}).get("login"),
        "queue_id": (context.get("queue") or {}).get("id"),
    }
    recipients = [str(to["address"]) for to in envelope.get("to") or []]
    return {name: str(value or "") for name, value in known.items()}, recipients


def as_json(
    outcome: Outcome, fields: list[tuple[str, str]], recipients: tuple[str, ...]
) -> dict[str, Any]:
    """Return action and modifications; indices count from 1 among the fields of one name."""
    action = outcome.action
    if action.smtp_reply:
        status, enhanced, text = action.smtp_reply.split(" ", 2)
        reply = {"status": int(status), "enhanced_status": enhanced, "message": text}
        return {"action": "reject", "response": {**reply, "disconnect": False}}
    changes: list[dict[str, Any]] = []
    for ours in action.delete_headers:
        count = sum(name.lower() == ours.lower() for name, _ in fields)
        # From the last: each deletion would move those behind it.
        changes += [
            {"type": "deleteHeader", "index": index, "name": ours} for index in range(count, 0, -1)
        ]
    if action.subject_prefix:
        changes.append(_subject(action.subject_prefix, fields))
    changes += [
        {"type": "insertHeader", "index": 0, "name": name, "value": value}
        for name, value in reversed(action.add_headers)
    ]
    if action.disposition is Disposition.REDIRECT:
        changes += [{"type": "deleteRecipient", "value": old} for old in recipients]
        changes.append({"type": "addRecipient", "value": action.redirect_to})
    return {"action": "accept", "modifications": changes}


def _subject(prefix: str, fields: list[tuple[str, str]]) -> dict[str, Any]:
    for name, value in fields:
        if name.lower() == "subject":
            return {
                "type": "changeHeader",
                "index": 1,
                "name": name,
                "value": prefix + value.strip(),
            }
    return {"type": "insertHeader", "index": 0, "name": "Subject", "value": prefix.strip()}
