"""From a score to what is done with the message: pure functions, no I/O.

`judge` turns a probability into a label, `apply_lists` lets the administrator's allow and
deny lists overrule it, `decide` turns label and policy into an `Action` that frontends only
render. What a message looks like is `message.py`; when all this runs is `filter.py`.
"""

import enum
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from spamguard import gtube
from spamguard.message import Envelope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The header fields we add. Incoming ones are removed first: senders forge them.
FLAG_HEADER = "X-Spam-Flag"
SCORE_HEADER = "X-Spam-Score"
STATUS_HEADER = "X-Spam-Status"
ID_HEADER = "X-SpamGuard-ID"
OUR_HEADERS = (FLAG_HEADER, SCORE_HEADER, STATUS_HEADER, ID_HEADER)


class Label(enum.StrEnum):
    """What we think of a message. UNSCORED is our own failure, never the message's fault."""

    HAM = "ham"
    UNSURE = "unsure"
    SPAM = "spam"
    UNSCORED = "unscored"


class Disposition(enum.StrEnum):
    """What is done with a message."""

    DELIVER = "deliver"
    TAG = "tag"
    QUARANTINE = "quarantine"
    REDIRECT = "redirect"
    REJECT = "reject"
    DEFER = "defer"


# Whatever is likelier ham than spam is ham: no unsure threshold of an administrator is lower.
LOWEST_UNSURE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where unsure and spam begin, as spam probabilities; ``0 <= unsure <= spam <= 1``."""

    unsure: float
    spam: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.unsure <= self.spam <= 1.0:
            raise ValueError(
                f"thresholds unsure={self.unsure} spam={self.spam}: "
                "expected 0 <= unsure <= spam <= 1"
            )

    def label(self, spam_probability: float) -> Label:
        """Return what a message of that probability is called."""
        if spam_probability >= self.spam:
            return Label.SPAM
        return Label.UNSURE if spam_probability >= self.unsure else Label.HAM


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a scorer process found out about one message.

    Attributes:
        spam_probability: calibrated, 0 to 1.
        model_version: name of the version that scored.
        fingerprint: hash of the normalised content (`message.fingerprint_of`).
        message_id: the Message-ID field, or "".
        from_domain: domain of the From field in lower case, or "".
        authentication_results: the topmost Authentication-Results fields (RFC 8601), bounded.
        truncated: whether the model saw only a part of the message.
        simhash: 64 bits that near-duplicates share (`campaign.simhash`), or None.
        decided_by: which part of the model, see `model.classifier.Judgement`; or `gtube.REASON`.
        unknown_share, projection: for seeing drift, see there too.
        defects: what was wrong with the message's form.
        milliseconds: time in the scorer, without waiting.
    """

    spam_probability: float
    model_version: str
    fingerprint: str
    message_id: str = ""
    from_domain: str = ""
    authentication_results: tuple[str, ...] = ()
    truncated: bool = False
    simhash: int | None = None
    decided_by: str = "linear"
    unknown_share: float | None = None
    projection: tuple[float, ...] = ()
    defects: tuple[str, ...] = ()
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What we think of one message, and why.

    Attributes:
        id: the id in the X-SpamGuard-ID field, in the log and in the quarantine.
        label: see `Label`.
        spam_probability: 0 to 1, or None when unscored.
        model_version: the version that scored, or None when unscored.
        reason: a few words for the administrator.
        is_overload: whether it is unscored because there was more mail than can be judged.
    """

    id: str
    label: Label
    spam_probability: float | None = None
    model_version: str | None = None
    reason: str = ""
    is_overload: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderList:
    """Senders the administrator allows or denies.

    Attributes:
        reverse_paths: whole addresses (``a@example.org``) or domains (``@example.org``).
        from_domains: domains of the From field; subdomains are included.
        networks: client networks.
    """

    reverse_paths: frozenset[str] = frozenset()
    from_domains: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the administrator wants done.

    Attributes:
        ham, unsure, spam: the disposition of each label, for incoming mail.
        overloaded: the disposition of mail that was not judged for there was too much of it:
            DELIVER, or DEFER, which the sender tries again. What crashes a scorer is never
            deferred: it would do so again.
        outgoing: the strictest disposition for mail of authenticated or local clients.
        null_sender: the strictest disposition for mail with the null reverse path
            (delivery reports); a lost bounce is a lost message (RFC 5321 section 6.1).
        local_networks: clients whose mail counts as outgoing.
        subject_prefix: put before the Subject of tagged spam; "" leaves it alone.
        redirect_to: the address for REDIRECT.
        trusted_authserv_ids: whose Authentication-Results are believed.
        allow, deny: see `SenderList`; allow wins.
        mark_ham: whether mail judged ham gets our header fields too.
    """

    ham: Disposition = Disposition.DELIVER
    unsure: Disposition = Disposition.TAG
    spam: Disposition = Disposition.QUARANTINE
    overloaded: Disposition = Disposition.DELIVER
    outgoing: Disposition = Disposition.TAG
    null_sender: Disposition = Disposition.TAG
    local_networks: tuple[Network, ...] = ()
    subject_prefix: str = ""
    redirect_to: str = ""
    trusted_authserv_ids: frozenset[str] = frozenset()
    allow: SenderList = field(default_factory=SenderList)
    deny: SenderList = field(default_factory=SenderList)
    mark_ham: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What a frontend renders: it decides nothing.

    Attributes:
        disposition: see `Disposition`; QUARANTINE means that the message is already held.
        delete_headers: names to remove wherever they stand, compared without case.
        add_headers: (name, value) pairs to put on top, in this order; values are one line.
        subject_prefix: to put before the Subject, or "".
        smtp_reply: for REJECT and DEFER, the whole reply line.
        redirect_to: for REDIRECT, the only recipient left.
    """

    disposition: Disposition
    delete_headers: tuple[str, ...] = OUR_HEADERS
    add_headers: tuple[tuple[str, str], ...] = ()
    subject_prefix: str = ""
    smtp_reply: str = ""
    redirect_to: str = ""


def judge(score: Score, thresholds: Thresholds, verdict_id: str) -> Verdict:
    """Turn a probability into ham, unsure or spam."""
    probability = score.spam_probability
    label = thresholds.label(probability)
    match label:
        case Label.SPAM:
            reason = f"score at least {thresholds.spam:.4g}"
        case Label.UNSURE:
            reason = f"score at least {thresholds.unsure:.4g}"
        case _:
            reason = f"score below {thresholds.unsure:.4g}"
    if score.decided_by == gtube.REASON:
        label, reason = Label.SPAM, gtube.REASON
    return Verdict(
        id=verdict_id,
        label=label,
        spam_probability=probability,
        model_version=score.model_version,
        reason=reason,
    )


def apply_campaign(verdict: Verdict, found: tuple[Label, str]) -> Verdict:
    """Let what users reported of the same campaign overrule the model.

    Args:
        verdict: the model's.
        found: a label and a reason. UNSURE makes ham unsure and leaves spam alone.
    """
    label, reason = found
    if label is Label.UNSURE and verdict.label is Label.SPAM:
        return verdict
    return replace(verdict, label=label, reason=reason)


def apply_lists(verdict: Verdict, score: Score, envelope: Envelope, policy: Policy) -> Verdict:
    """Let the allow and deny lists overrule a label; allow wins over deny.

    A From domain is allowed only when a trusted Authentication-Results field shows that it
    was authenticated (`authenticated_domains`), since anybody can write any From field; it
    is denied whether authenticated or not.
    """
    authenticated = authenticated_domains(score.authentication_results, policy.trusted_authserv_ids)
    from_is_authentic = any(_is_or_is_under(score.from_domain, {d}) for d in authenticated)
    allowed = _match(policy.allow, envelope, score.from_domain if from_is_authentic else "")
    if allowed:
        return replace(verdict, label=Label.HAM, reason=_one_line(f"allow list: {allowed}"))
    denied = _match(policy.deny, envelope, score.from_domain)
    if denied:
        return replace(verdict, label=Label.SPAM, reason=_one_line(f"deny list: {denied}"))
    return verdict


def decide(verdict: Verdict, envelope: Envelope, policy: Policy) -> Action:
    """Turn a verdict into what the frontend does.

    An unscored message is delivered: our failure never holds or refuses mail. Under more load
    than there are scorers for it may be deferred, where the administrator wants that.
    """
    match verdict.label:
        case Label.UNSCORED:
            disposition = policy.overloaded if verdict.is_overload else Disposition.DELIVER
        case Label.HAM:
            disposition = policy.ham
        case Label.UNSURE:
            disposition = policy.unsure
        case Label.SPAM:
            disposition = policy.spam
    if is_outgoing(envelope, policy):
        disposition = _at_most(policy.outgoing, disposition)
    if envelope.reverse_path == "":
        disposition = _at_most(policy.null_sender, disposition)
    reply = ""
    if disposition is Disposition.REJECT:
        reply = f"550 5.7.1 message refused as spam, id {verdict.id}"
    elif disposition is Disposition.DEFER:
        code = "4.3.2" if verdict.is_overload else "4.7.1"  # RFC 3463: system not accepting mail
        reply = f"451 {code} message deferred, id {verdict.id}"
    is_tagged_spam = disposition is Disposition.TAG and verdict.label is Label.SPAM
    return Action(
        disposition=disposition,
        add_headers=headers_for(verdict, policy),
        subject_prefix=policy.subject_prefix if is_tagged_spam else "",
        smtp_reply=reply,
        redirect_to=policy.redirect_to if disposition is Disposition.REDIRECT else "",
    )


def headers_for(verdict: Verdict, policy: Policy) -> tuple[tuple[str, str], ...]:
    """Return our header fields for a message, in the order in which they appear.

    ``X-Spam-Flag: YES`` stands on spam alone, as Sieve scripts expect. The score is the spam
    probability with four digits.
    """
    if verdict.label is Label.UNSCORED or verdict.spam_probability is None:
        return (
            (STATUS_HEADER, f"Unknown, unscored ({_one_line(verdict.reason)})"),
            (ID_HEADER, verdict.id),
        )
    if verdict.label is Label.HAM and not policy.mark_ham:
        return ((ID_HEADER, verdict.id),)
    answer = {Label.SPAM: "Yes", Label.UNSURE: "Unsure"}.get(verdict.label, "No")
    status = (
        f"{answer}, score={verdict.spam_probability:.4f} model={verdict.model_version}"
        f" ({_one_line(verdict.reason)})"
    )
    flag = ((FLAG_HEADER, "YES"),) if verdict.label is Label.SPAM else ()
    return (
        *flag,
        (SCORE_HEADER, f"{verdict.spam_probability:.4f}"),
        (STATUS_HEADER, status),
        (ID_HEADER, verdict.id),
    )


def is_outgoing(envelope: Envelope, policy: Policy) -> bool:
    """Whether one of ours sends this: logged in, or from a local network."""
    return bool(envelope.authenticated_user) or _in_networks(
        envelope.client_ip, policy.local_networks
    )


# Strictness, mildest first; a ceiling in `Policy` is compared by this order.
_STRICTNESS = (
    Disposition.DELIVER,
    Disposition.TAG,
    Disposition.REDIRECT,
    Disposition.QUARANTINE,
    Disposition.DEFER,
    Disposition.REJECT,
)


def _at_most(ceiling: Disposition, wanted: Disposition) -> Disposition:
    return min(ceiling, wanted, key=_STRICTNESS.index)


# RFC 8601 section 2.2: "authserv-id [version]; method=result ptype.property=value …; …".
_RESULT = re.compile(r"^\s*(dkim|spf|dmarc)\s*=\s*pass\b", re.IGNORECASE)
# What each method vouches for (sections 2.7.1, 2.7.2; RFC 7489 section 11.1). Other properties,
# such as smtp.helo, hold the sender's own words and must not pass for these.
_VOUCHED = {
    "dkim": re.compile(r"(?<!\S)header\.[di]\s*=\s*([^\s;]+)", re.IGNORECASE),
    "spf": re.compile(r"(?<!\S)smtp\.mailfrom\s*=\s*([^\s;]+)", re.IGNORECASE),
    "dmarc": re.compile(r"(?<!\S)header\.from\s*=\s*([^\s;]+)", re.IGNORECASE),
}


def authenticated_domains(fields: Iterable[str], trusted: frozenset[str]) -> set[str]:
    """Return the domains that a trusted Authentication-Results field says passed.

    Args:
        fields: field bodies, unfolded, topmost first.
        trusted: authserv-ids of our own border servers, in lower case.

    Comments and quoted strings (RFC 8601 section 2.2) are made harmless first: the local part
    of a reverse path is the sender's own words and stands quoted in ``smtp.mailfrom``. The MTA
    must remove foreign fields with our authserv-id (section 5), as opendkim and opendmarc do; of
    several trusted fields each counts.
    """
    domains: set[str] = set()
    for text in fields:
        authserv_id, *results = _without_comments_and_quotes(text).split(";")
        words = authserv_id.split()
        if not words or words[0].lower() not in trusted:
            continue
        for result in results:
            if matched := _RESULT.match(result):
                for value in _VOUCHED[matched.group(1).lower()].findall(result):
                    domains.add(value.rpartition("@")[2].lower().strip("."))
    return domains - {""}


def _without_comments_and_quotes(text: str) -> str:
    """Drop comments, which nest, and turn what is special inside quoted strings into "_".

    A comment or quoted string that never ends takes the rest with it (RFC 5322 section 3.2).
    """
    kept = []
    depth, is_quoted, is_escaped = 0, False, False
    for character in text:
        if is_escaped:
            is_escaped = False
        elif character == "\\" and (depth or is_quoted):
            is_escaped = True
        elif depth:
            depth += (character == "(") - (character == ")")
        elif character == '"':
            is_quoted = not is_quoted
        elif is_quoted:
            kept.append(character if character.isalnum() or character in "-.@" else "_")
        elif character == "(":
            depth = 1
            kept.append(" ")
        else:
            kept.append(character)
    return "".join(kept)


def _match(senders: SenderList, envelope: Envelope, from_domain: str) -> str:
    """Return which entry matched, in words, or ""."""
    reverse_path = envelope.reverse_path.lower()
    domain = reverse_path.rpartition("@")[2]
    if reverse_path and reverse_path in senders.reverse_paths:
        return f"reverse path {reverse_path}"
    if reverse_path and f"@{domain}" in senders.reverse_paths:
        return f"reverse path @{domain}"
    if from_domain and _is_or_is_under(from_domain, senders.from_domains):
        return f"From domain {from_domain}"
    if _in_networks(envelope.client_ip, senders.networks):
        return f"client {envelope.client_ip}"
    return ""


def _is_or_is_under(domain: str, parents: Iterable[str]) -> bool:
    return any(domain == parent or domain.endswith(f".{parent}") for parent in parents)


def _in_networks(client_ip: str | None, networks: tuple[Network, ...]) -> bool:
    if client_ip is None or not networks:
        return False
    try:
        address = ipaddress.ip_address(client_ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _one_line(text: str) -> str:
    """Keep printable ASCII only: what quotes a sender goes to headers, logs and other programs."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:200]
