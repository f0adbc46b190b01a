"""What a retraining would do, and what came of one: numbers for people and for `gate.json`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from spamguard.training.feedback_data import FeedbackData, counts
from spamguard.training.gate import Decision

# How much so many corrections to train on may change. Below the first nothing is learned that
# the gate could tell from chance; the linear model learns from few; the BERT's head has 385
# weights, its upper layers millions.
LINEAR_FROM, HEAD_FROM, UPPER_FROM, WHOLE_FROM = 10, 40, 100, 1000

Stage = Literal["none", "linear", "head", "upper", "whole"]


def stage_for(count: int) -> Stage:
    """Return how much of the model so many corrections to train on may change."""
    if count >= WHOLE_FROM:
        return "whole"
    if count >= UPPER_FROM:
        return "upper"
    if count >= HEAD_FROM:
        return "head"
    return "linear" if count >= LINEAR_FROM else "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a retraining would do, and with how much.

    Attributes:
        stage: how much of the model learns; "none" when there is too little.
        data: all of it.
        reason: why not more, in words.
    """

    stage: Stage
    data: FeedbackData
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the numbers of messages by part and class."""
        own = self.data.corrections
        return {
            "stage": self.stage,
            "reason": self.reason,
            "standings": self.data.standings,
            "corrections": counts(own),
            **{
                part: counts(e for e in self.data.part(part) if e.corpus == "corrections")
                for part in ("train", "validation", "holdout")
            },
            "replayed": counts(self.data.replay),
            "never_flag": len(self.data.never_flag),
            "held": [{"correction": number, "reason": why} for number, why in self.data.held],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a retraining.

    Attributes:
        plan: see `Plan`.
        version: name of the candidate, or "" when none was made.
        decision: the gate's, or None.
        promoted: whether the candidate is now the current version.
        seconds: of each part of the work.
    """

    plan: Plan
    version: str = ""
    decision: Decision | None = None
    promoted: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    def in_words(self) -> str:
        """Return one sentence for the administrator."""
        if self.decision is None:
            return f"nothing to learn yet: {self.plan.reason}, {LINEAR_FROM} are needed"
        if self.promoted:
            return f"{self.version} is promoted; `spamguard models rollback` goes back"
        if self.decision.promoted:
            return f"{self.version} passed and waits: spamguard models promote {self.version}"
        return f"{self.version} is refused: " + "; ".join(self.decision.reasons)

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "version": self.version,
            "promoted": self.promoted,
            "plan": self.plan.as_json(),
            "gate": self.decision.as_json() if self.decision else None,
            "seconds": {key: round(value, 1) for key, value in self.seconds.items()},
        }

    def as_fields(self) -> dict[str, Any]:
        """Return what a log line says of it."""
        return {
            "version": self.version,
            "promoted": self.promoted,
            "stage": self.plan.stage,
            "result": self.in_words(),
            "seconds": round(sum(self.seconds.values())),
        }
