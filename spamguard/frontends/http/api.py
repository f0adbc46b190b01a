"""Our own JSON API: a verdict, a report. Described in `openapi.json`, which a test compares."""

import functools
import json
from importlib import resources
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from spamguard.filter import Outcome
from spamguard.frontends.http.requests import Site
from spamguard.verdict import Label

_ENVELOPE = ("from", "ip", "name", "helo", "user", "queue_id")
_UNDO = "undo"


def routes(site: Site) -> list[Route]:
    """Return the routes of the API."""

    async def check(request: Request) -> Response:
        site.require(request)
        raw = await site.body(request)
        known = {name: request.query_params.get(name, "") for name in _ENVELOPE}
        envelope = site.envelope(known, request.query_params.getlist("rcpt"))
        return JSONResponse(as_json(await site.judge(envelope, raw)))

    async def report(request: Request) -> Response:
        site.require(request, for_report=True)
        label = request.query_params.get("label", "")
        reporter = request.query_params.get("reporter", "")
        if label not in {Label.HAM, Label.SPAM, _UNDO}:
            raise HTTPException(400, "label: expected ham, spam or undo")
        raw = await site.body(request)
        if label == _UNDO:
            return JSONResponse({"undone": await site.undo(reporter, raw)})
        receipt = await site.report(Label(label), reporter, raw)
        return JSONResponse(
            {
                "correction_id": receipt.correction_id,
                "is_new": receipt.is_new,
                "standing": str(receipt.standing),
                "reason": receipt.reason,
            }
        )

    async def openapi(request: Request) -> Response:
        del request
        return JSONResponse(_document())

    return [
        Route("/v1/check", check, methods=["POST"]),
        Route("/v1/report", report, methods=["POST"]),
        Route("/report", report, methods=["POST"]),
        Route("/openapi.json", openapi),
    ]


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return verdict and action as the documented object."""
    verdict, action = outcome.verdict, outcome.action
    return {
        "id": verdict.id,
        "label": str(verdict.label),
        "spam_probability": verdict.spam_probability,
        "model_version": verdict.model_version,
        "reason": verdict.reason,
        "disposition": str(action.disposition),
        "delete_headers": list(action.delete_headers),
        "add_headers": [{"name": name, "value": value} for name, value in action.add_headers],
        "subject_prefix": action.subject_prefix,
        "smtp_reply": action.smtp_reply,
        "redirect_to": action.redirect_to,
    }


@functools.cache
def _document() -> dict[str, Any]:
    text = resources.files("spamguard.frontends.http").joinpath("openapi.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
