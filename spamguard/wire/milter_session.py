"""The filter's side of a milter connection: which packet may come, which reply may go.

Sans-io like `milter.py`, which it feeds. The MTA's commands are checked against the order of
SMTP; our replies against what was negotiated, since one reply too many puts every later one in
the wrong place. A message is decided at its end alone; before it a recipient can be refused, and
every other event gets no reply or `Continue`.
"""

import enum
from collections.abc import Iterable
from typing import cast

from spamguard.errors import LocalProtocolError, PeerProtocolError
from spamguard.wire.milter import Codec, encode
from spamguard.wire.milter_packets import (
    OLDEST_VERSION,
    VERSION,
    Abort,
    Accept,
    ActionFlags,
    AddHeader,
    AddRecipient,
    Body,
    ChangeHeader,
    Connect,
    Continue,
    Data,
    DeleteRecipient,
    Discard,
    EndOfBody,
    EndOfHeaders,
    Event,
    Header,
    Helo,
    InsertHeader,
    Macros,
    Mail,
    Negotiate,
    Packet,
    Progress,
    Quarantine,
    Quit,
    QuitNewConnection,
    Rcpt,
    Reject,
    Reply,
    ReplyCode,
    Skip,
    StepFlags,
    Tempfail,
    Unknown,
)


class _Phase(enum.IntEnum):
    NEW = 0  # nothing was negotiated
    READY = 1  # no client
    CLIENT = 2  # a client, no mail
    ENVELOPE = 3
    HEADERS = 4
    BODY = 5


# Event: the first and the last phase in which it may come, and the phase it leads to. Lenient
# where MTAs differ: steps may be missing, a new MAIL or HELO ends the mail before it.
_ORDER: dict[type[Packet], tuple[_Phase, _Phase, _Phase]] = {
    Connect: (_Phase.READY, _Phase.READY, _Phase.CLIENT),
    Helo: (_Phase.READY, _Phase.ENVELOPE, _Phase.CLIENT),
    Mail: (_Phase.READY, _Phase.ENVELOPE, _Phase.ENVELOPE),
    Rcpt: (_Phase.ENVELOPE, _Phase.ENVELOPE, _Phase.ENVELOPE),
    Data: (_Phase.ENVELOPE, _Phase.ENVELOPE, _Phase.ENVELOPE),
    Header: (_Phase.ENVELOPE, _Phase.HEADERS, _Phase.HEADERS),
    EndOfHeaders: (_Phase.ENVELOPE, _Phase.HEADERS, _Phase.BODY),
    Body: (_Phase.ENVELOPE, _Phase.BODY, _Phase.BODY),
    EndOfBody: (_Phase.ENVELOPE, _Phase.BODY, _Phase.BODY),
}

# Event: the flag with which it gets no reply.
_NO_REPLY: dict[type[Packet], StepFlags] = {
    Connect: StepFlags.NO_REPLY_CONNECT,
    Helo: StepFlags.NO_REPLY_HELO,
    Mail: StepFlags.NO_REPLY_MAIL,
    Rcpt: StepFlags.NO_REPLY_RCPT,
    Data: StepFlags.NO_REPLY_DATA,
    Unknown: StepFlags.NO_REPLY_UNKNOWN,
    Header: StepFlags.NO_REPLY_HEADER,
    EndOfHeaders: StepFlags.NO_REPLY_END_OF_HEADERS,
    Body: StepFlags.NO_REPLY_BODY,
}

_NEEDED_ACTION: dict[type[Packet], ActionFlags] = {
    AddHeader: ActionFlags.ADD_HEADERS,
    InsertHeader: ActionFlags.ADD_HEADERS,
    ChangeHeader: ActionFlags.CHANGE_HEADERS,
    AddRecipient: ActionFlags.ADD_RECIPIENTS,
    DeleteRecipient: ActionFlags.DELETE_RECIPIENTS,
    Quarantine: ActionFlags.QUARANTINE,
}

_FINAL = (Continue, Accept, Reject, Tempfail, Discard, ReplyCode)


class FilterSession:
    """One connection, seen from the filter.

    Args:
        actions: what we would like to do to messages.
        steps: what we would like to be left out.
        macros: the macros we want, by stage; every stage that needs any must be named.

    Attributes:
        actions: what we may do, once negotiated.
        steps: what is left out, once negotiated.
    """

    def __init__(
        self,
        *,
        actions: ActionFlags,
        steps: StepFlags,
        macros: tuple[tuple[int, bytes], ...] = (),
    ) -> None:
        self._wanted = Negotiate(version=VERSION, actions=actions, steps=steps, macros=macros)
        self.actions = ActionFlags(0)
        self.steps = StepFlags(0)
        self._codec = Codec()
        self._phase = _Phase.NEW
        self._unanswered: type[Packet] | None = None
        self._without_reply: frozenset[type[Packet]] = frozenset()

    @property
    def is_negotiated(self) -> bool:
        """Whether the MTA has made its offer."""
        return self._phase is not _Phase.NEW

    @property
    def is_reply_due(self) -> bool:
        """Whether the MTA waits for our reply to the last event."""
        return self._unanswered is not None

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came, in pieces of any size."""
        self._codec.receive_data(data)

    def next_event(self) -> Event | None:
        """Return what the MTA said next, or None when more bytes are needed.

        Raises:
            PeerProtocolError: it broke the protocol; the connection is of no more use.
        """
        packet = self._codec.next_event()
        if packet is None:
            return None
        order = _ORDER.get(type(packet))
        if order and self._phase is not _Phase.NEW and self._unanswered is None:
            self._step(packet, order)  # at once: they are nearly all that is said
            return cast("Event", packet)
        match packet:
            case Negotiate():
                if self._phase is not _Phase.NEW:
                    raise PeerProtocolError("a second option negotiation")
                if packet.version < OLDEST_VERSION:
                    raise PeerProtocolError(f"protocol version {packet.version}")
                self._phase = _Phase.READY
                self._unanswered = Negotiate
                return packet
            case Quit():
                self._unanswered = None
                return packet
        if self._phase is _Phase.NEW or self._unanswered is Negotiate:
            raise PeerProtocolError(f"{type(packet).__name__} before option negotiation")
        match packet:
            case Abort() | QuitNewConnection():
                # Allowed even while a reply is due: then nobody waits for it any more.
                is_new = isinstance(packet, QuitNewConnection) or self._phase is _Phase.READY
                self._phase = _Phase.READY if is_new else _Phase.CLIENT
                self._unanswered = None
            case Macros():
                pass
            case Unknown():
                self._expect_reply(packet)
            case _ if order:
                self._step(packet, order)
            case _:
                raise PeerProtocolError(f"{type(packet).__name__} from an MTA")
        return cast("Event", packet)

    def _step(self, packet: Packet, order: tuple[_Phase, _Phase, _Phase]) -> None:
        first, last, following = order
        if not first <= self._phase <= last:
            raise PeerProtocolError(f"{type(packet).__name__} in phase {self._phase.name}")
        self._expect_reply(packet)
        self._phase = following

    def _expect_reply(self, packet: Packet) -> None:
        if self._unanswered is not None:
            raise PeerProtocolError(
                f"{type(packet).__name__} before our reply to {self._unanswered.__name__}"
            )
        if type(packet) not in self._without_reply:
            self._unanswered = type(packet)

    def answer_offer(self, offer: Negotiate) -> bytes:
        """Return our answer to option negotiation: what we want of what is offered.

        Asking for more makes Postfix log a conflict and apply its default action.
        """
        if self._unanswered is not Negotiate:
            raise LocalProtocolError("an answer to no offer")
        self._unanswered = None
        self.actions = self._wanted.actions & offer.actions
        self.steps = self._wanted.steps & offer.steps
        if not self._wanted.macros:
            self.actions &= ~ActionFlags.SET_MACRO_LISTS
        self._without_reply = frozenset(
            kind for kind, flag in _NO_REPLY.items() if flag in self.steps
        )
        can_set_macros = ActionFlags.SET_MACRO_LISTS in self.actions
        answer = Negotiate(
            version=min(VERSION, offer.version),
            actions=self.actions,
            steps=self.steps,
            macros=self._wanted.macros if can_set_macros else (),
        )
        return encode(answer)

    def send(self, replies: Iterable[Reply]) -> bytes:
        """Return replies as they go over the wire, in one piece.

        Raises:
            LocalProtocolError: one is not allowed now, or has a value that cannot be sent.
        """
        return b"".join([self._send(reply) for reply in replies])

    def _send(self, reply: Reply) -> bytes:
        asked, kind = self._unanswered, type(reply)
        if kind is Progress:
            is_legal = asked is not None
        elif kind is Continue:
            is_legal = asked not in (None, Negotiate)
        elif kind is Skip:
            is_legal = asked is Body and StepFlags.SKIP in self.steps
        elif kind is ReplyCode and asked is Rcpt:
            is_legal = True
        else:
            is_legal = asked is EndOfBody and (
                kind in _FINAL or _NEEDED_ACTION[kind] in self.actions
            )
        if not is_legal:
            to = asked.__name__ if asked else "nothing"
            raise LocalProtocolError(f"{kind.__name__} in reply to {to}")
        data = encode(reply)
        if kind in _FINAL or kind is Skip:
            self._unanswered = None
            if asked is EndOfBody:
                self._phase = _Phase.CLIENT
        return data
