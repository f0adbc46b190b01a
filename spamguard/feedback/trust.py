"""Who is believed: from all corrections on record to what may be learned. Pure functions.

Threat model. A reporter may be mistaken (calls a newsletter of his own spam), careless (empties
the inbox into Junk), or hostile: a mailbox taken over reports 200 good messages of one firm as
spam so that its mail is held everywhere, or the attacker's own campaign as ham so that it
passes. What nobody can do alone, then: decide about one sender or one campaign for everybody,
or make up more than a share of what is learned. What several reporters agree on, counts; what
they disagree on, does not; and the gate (`training.gate`) judges what was learned besides, on
mail that no reporter can reach.

Nothing here is stored: the record is append-only and every standing is worked out from it, so
that a rule that changes also changes what is past.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spamguard.report import Standing

UNDO = "undo"
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One row of the record; see `database.corrections` for the columns."""

    id: int
    reported_at: float
    label: str
    reporter: str
    source: str
    comment: str
    fingerprint: str
    campaign: str
    simhash: str
    message_id: str
    from_address: str
    is_bulk: bool
    is_original: bool
    is_recipient: bool | None
    verdict_id: str
    predicted: str
    spam_probability: float | None
    model_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What the administrator, or the retraining, decided about one correction."""

    correction_id: int
    decision: str  # accept, reject, hold
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The caps and quorums. They are few on purpose; none is a setting.

    Attributes:
        per_campaign: corrections of one campaign that are learned from; more add nothing.
        per_day: corrections of one reporter and day.
        per_sender: messages of one From address that one reporter alone may decide about.
        quorum: reporters who must agree before bulk mail is spam for everybody.
        share: of all that counts, what one reporter may make up …
        share_from: … once so many count at all.
        minimum_trust: below it a reporter's word waits for the administrator.
    """

    per_campaign: int = 10
    per_day: int = 100
    per_sender: int = 5
    quorum: int = 3
    share: float = 0.34
    share_from: int = 150
    minimum_trust: float = 0.5


Standings = Mapping[int, tuple[Standing, str]]


def standings(
    corrections: Sequence[Correction],
    reviews: Iterable[Review] = (),
    rules: Rules = Rules(),
) -> Standings:
    """Return each correction's standing and why, by id.

    Args:
        corrections: the whole record, in the order of their ids.
        reviews: all of them, oldest first; the newest of a correction counts.
        rules: see `Rules`.
    """
    found: dict[int, tuple[Standing, str]] = {}
    decided = {review.correction_id: review for review in reviews}
    newest = {(c.reporter, c.fingerprint): c for c in corrections}
    active: list[Correction] = []
    for correction in corrections:
        last = newest[correction.reporter, correction.fingerprint]
        if last.label == UNDO:
            found[correction.id] = Standing.UNDONE, "taken back by its reporter"
        elif last is not correction:
            found[correction.id] = Standing.SUPERSEDED, f"see {last.id}"
        else:
            active.append(correction)
    trust = reporters_trust(active, decided)
    opinions = _opinions(active, decided)
    counted: list[Correction] = []
    for correction in active:
        standing, reason = _judge(correction, decided, opinions, trust, rules)
        found[correction.id] = standing, reason
        if standing is Standing.COUNTED:
            counted.append(correction)
    found.update(_caps(counted, active, decided, rules))
    return found


def reporters_trust(
    active: Iterable[Correction], decided: Mapping[int, Review]
) -> dict[str, float]:
    """Return how far each reporter is believed, 0 to 1.

    The mean of a Beta distribution that starts at 4 agreements and 1 disagreement; each campaign
    on which others spoke too adds one to either side, an administrator's decision three.
    """
    agreed: Counter[str] = Counter()
    disagreed: Counter[str] = Counter()
    by_campaign: dict[str, dict[str, str]] = defaultdict(dict)
    reporters = set()
    for correction in active:
        reporters.add(correction.reporter)
        by_campaign[correction.campaign][correction.reporter] = correction.label
        review = decided.get(correction.id)
        if review is not None and review.decision == "accept":
            agreed[correction.reporter] += 3
        elif review is not None and review.decision == "reject":
            disagreed[correction.reporter] += 3
    for opinions in by_campaign.values():
        for reporter, label in opinions.items():
            others = [said for other, said in opinions.items() if other != reporter]
            same = others.count(label)
            agreed[reporter] += same > len(others) - same
            disagreed[reporter] += same < len(others) - same
    return {
        reporter: (agreed[reporter] + 4) / (agreed[reporter] + disagreed[reporter] + 5)
        for reporter in reporters
    }


def _opinions(
    active: Iterable[Correction], decided: Mapping[int, Review]
) -> dict[str, Counter[str]]:
    """Return how many reporters say what of each campaign."""
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for correction in active:
        review = decided.get(correction.id)
        if review is None or review.decision != "reject":
            said[correction.campaign][correction.reporter] = correction.label
    return {campaign: Counter(opinions.values()) for campaign, opinions in said.items()}


def _judge(
    correction: Correction,
    decided: Mapping[int, Review],
    opinions: Mapping[str, Counter[str]],
    trust: Mapping[str, float],
    rules: Rules,
) -> tuple[Standing, str]:
    """Judge one active correction without looking at caps."""
    said = opinions.get(correction.campaign, Counter())
    same = said[correction.label]
    if (review := decided.get(correction.id)) is not None:
        match review.decision:
            case "accept":
                return Standing.COUNTED, f"accepted by {review.by}"
            case "reject":
                return Standing.REJECTED, f"by {review.by}: {review.reason}"
            case _ if same < 2:  # a second reporter outweighs what was held a lone one
                return Standing.REVIEW, review.reason
    others = said.total() - same
    if others and not (same >= rules.quorum and same >= 2 * others):
        return Standing.CONFLICT, f"{same} say {correction.label}, {others} the opposite"
    if correction.is_recipient is False:
        return Standing.REVIEW, "its reporter was not a recipient"
    if not correction.is_original and not correction.verdict_id:
        return Standing.REVIEW, "a forwarded text whose original is not on record"
    if trust[correction.reporter] < rules.minimum_trust:
        return Standing.REVIEW, "its reporter was contradicted more often than not"
    if correction.label == "spam" and correction.is_bulk and same < rules.quorum:
        return Standing.PERSONAL, f"list mail: {same} of {rules.quorum} reporters needed"
    return Standing.COUNTED, "" if same < 2 else f"{same} reporters agree"


def _caps(
    counted: Sequence[Correction],
    active: Sequence[Correction],
    decided: Mapping[int, Review],
    rules: Rules,
) -> dict[int, tuple[Standing, str]]:
    """Return what does not count because too much like it does already."""
    supporters: dict[tuple[str, str], set[str]] = defaultdict(set)
    for correction in active:
        supporters[correction.from_address, correction.label].add(correction.reporter)
    per_campaign: Counter[str] = Counter()
    per_day: Counter[tuple[str, int]] = Counter()
    per_sender: Counter[tuple[str, str, str]] = Counter()
    per_reporter: Counter[str] = Counter()
    share = max(rules.share_from * rules.share, rules.share * len(counted))
    capped: dict[int, tuple[Standing, str]] = {}
    for correction in counted:
        if correction.id in decided:
            continue
        day = correction.reporter, int(correction.reported_at // _DAY_SECONDS)
        sender = correction.reporter, correction.from_address, correction.label
        is_alone = len(supporters[sender[1:]]) < 2
        if per_campaign[correction.campaign] >= rules.per_campaign:
            capped[correction.id] = Standing.CAPPED, "enough of this campaign"
        elif correction.from_address and is_alone and per_sender[sender] >= rules.per_sender:
            capped[correction.id] = Standing.PERSONAL, "one reporter alone about this sender"
        elif per_day[day] >= rules.per_day:
            capped[correction.id] = Standing.CAPPED, f"beyond {rules.per_day} a day"
        elif per_reporter[correction.reporter] >= share:
            capped[correction.id] = Standing.CAPPED, "beyond one reporter's share"
        else:
            per_campaign[correction.campaign] += 1
            per_day[day] += 1
            per_sender[sender] += 1
            per_reporter[correction.reporter] += 1
    return capped
