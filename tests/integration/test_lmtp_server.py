"""The LMTP door between two real sockets; what both doors share is in test_smtp_server.py."""

from contextlib import asynccontextmanager

import pytest

from spamguard.errors import DeliveryError
from spamguard.next_hop import LMTP_PREFIX, NextHop
from spamguard.verdict import Disposition, Policy
from tests.integration.test_smtp_server import HAM, TAG_ALL, Client, Door
from tests.support.next_hop_server import next_hop_server

pytestmark = pytest.mark.timeout(60)

BOTH = ("bob@here.example", "eve@here.example")
OK = "250 2.0.0 Ok: next hop"


@asynccontextmanager
async def door(policy=TAG_ALL, *, hop=None, **options):
    async with next_hop_server(is_lmtp=True, **(hop or {})) as server:
        made = Door(server, policy, endpoint=LMTP_PREFIX + server.endpoint, is_lmtp=True, **options)
        made.address = await made.server.start_tcp("127.0.0.1", 0)
        try:
            yield made
        finally:
            await made.server.drain(2)


class LmtpClient(Client):
    async def replies(self, raw, *recipients):
        """Return the replies to the data, one a recipient."""
        await self.begin(*recipients)
        first = await self.data(raw)
        return [first, *[await self.reply() for _ in recipients[1:]]]


@asynccontextmanager
async def client_of(made):
    async with made.client() as client:
        yield LmtpClient(client.reader, client.writer)


async def test_every_recipient_has_a_reply():
    async with door() as made, client_of(made) as client:
        assert [OK, OK] == await client.replies(HAM, *BOTH)
    [(_, recipients, sent)] = made.hop.messages
    assert [f"RCPT TO:<{recipient}>" for recipient in BOTH] == recipients
    assert b"X-Spam-Status: No" in sent


async def test_the_mail_stores_replies_are_passed_on_in_their_order():
    full = "452 4.2.2 mailbox full"
    async with door(hop={"replies": {".1": full}}) as made, client_of(made) as client:
        assert [full, OK] == await client.replies(HAM, *BOTH)


@pytest.mark.parametrize("dies", ["DATA", "."])
async def test_a_mail_store_that_dies_is_451_for_all(dies):
    async with door(hop={"dies": dies}) as made, client_of(made) as client:
        replies = await client.replies(HAM, *BOTH)
    assert [True, True] == [reply.startswith("451 ") for reply in replies]


async def test_a_message_that_is_too_large_is_refused_for_all():
    async with door(max_message_bytes=2000) as made, client_of(made) as client:
        replies = await client.replies(HAM + b"x\r\n" * 2000, *BOTH)
    assert ["552"] * 2 == [reply[:3] for reply in replies]


async def test_held_mail_is_taken_for_all():
    async with door(Policy(spam=Disposition.QUARANTINE)) as made, client_of(made) as client:
        replies = await client.replies(HAM + b"XSPAM\r\n", *BOTH)
    [(_, envelope, _)] = made.quarantine.held
    assert (BOTH, "lmtp") == (envelope.recipients, envelope.frontend)
    assert [True, True] == ["held as" in reply for reply in replies]


async def test_another_message_can_follow_on_the_connection():
    async with door() as made, client_of(made) as client:
        assert [OK, OK] == await client.replies(HAM, *BOTH)
        assert [OK] == await client.replies(HAM, BOTH[0])
    assert (2, 1) == (len(made.hop.messages), made.hop.connections)


async def test_delivery_names_who_did_not_get_it():
    full = "552 5.2.2 mailbox full"
    async with next_hop_server(is_lmtp=True, replies={".2": full}) as server:
        async with NextHop(LMTP_PREFIX + server.endpoint) as hop:
            refused = await hop.deliver(HAM, reverse_path="", recipients=BOTH)
    assert [(BOTH[1], full)] == [(who, str(reply)) for who, reply in refused]


async def test_delivery_that_everybody_refuses_is_an_error():
    async with next_hop_server(is_lmtp=True, replies={".": "452 4.2.2 full"}) as server:
        async with NextHop(LMTP_PREFIX + server.endpoint) as hop:
            with pytest.raises(DeliveryError, match="refused the message"):
                await hop.deliver(HAM, reverse_path="", recipients=BOTH)


async def test_a_server_that_knows_no_lhlo_is_no_mail_store():
    async with next_hop_server(replies={"LHLO": "502 5.5.1 unknown"}) as server:
        async with NextHop(LMTP_PREFIX + server.endpoint) as hop:
            with pytest.raises(DeliveryError, match="answers LHLO with 502"):
                await hop.deliver(HAM, reverse_path="", recipients=BOTH)
