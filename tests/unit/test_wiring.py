"""The lines for each mail server: those of the administrator's page, fitted to the settings."""

import re
from pathlib import Path, PurePosixPath

import pytest

from spamguard.config import Config
from spamguard.errors import ConfigError, MailServerError
from spamguard.wiring import lines
from spamguard.wiring.lines import Way
from spamguard.wiring.postfix import (
    is_our_milter,
    is_same_socket,
    parse_milter,
    seconds,
    split_milters,
    with_milter,
)

README = (Path(__file__).resolve().parents[2] / "deploy" / "README.md").read_text()
QUEUE = PurePosixPath("/var/spool/postfix")
OURS = "{ inet:127.0.0.1:11332, default_action=accept, content_timeout=30s }"


def section(heading):
    return re.split(r"\n#{2,4} ", README.split(f"\n{heading}\n", 1)[1], maxsplit=1)[0]


def blocks(heading):
    return re.findall(r"```\w*\n(.*?)```", section(heading), re.DOTALL)


def config(**sections):
    return Config.model_validate(sections)


def postfix(way, **sections):
    return lines.postfix(config(**sections), way, queue_directory=QUEUE)


def test_the_page_shows_the_milters_line():
    assert f"smtpd_milters = {postfix(Way.MILTER).milter}\n" == blocks("### As a milter")[0]


def test_the_page_shows_the_content_filters_lines():
    wanted = postfix(Way.CONTENT_FILTER)
    assert f"`content_filter = {wanted.content_filter}`" in section("### As a content filter")
    shown = "".join(f"{entry.text}\n" for entry in wanted.entries)
    assert shown == blocks("### As a content filter")[0]


def test_the_page_shows_the_proxy_filters_option():
    shown = f"`-o smtpd_proxy_filter={postfix(Way.BEFORE_QUEUE).proxy_filter}`"
    assert shown in section("### Before the queue")


@pytest.mark.parametrize(
    ("heading", "number", "render"),
    [
        ("### Exim", 0, lines.exim),
        ("### OpenSMTPD", 1, lambda c: lines.opensmtpd_filter(c, "/opt/spamguard/bin/spamguard")),
        ("### OpenSMTPD", 2, lines.opensmtpd_relay),
        ("### Sendmail", 0, lines.sendmail),
    ],
)
def test_the_page_shows_the_lines_of_other_servers(heading, number, render):
    doors = {"spamd": ["unix:/run/spamguard/spamd.sock"], "http": ["unix:/run/spamguard/http.sock"]}
    settings = config(**{name: {"listen": listen} for name, listen in doors.items()})
    assert render(settings) == blocks(heading)[number]


def test_the_milter_comes_with_the_listener_for_released_mail():
    (entry,) = postfix(Way.MILTER, quarantine={"release_hop": "127.0.0.1:10099"}).entries
    assert "127.0.0.1:10099/inet" == entry.key
    assert ("smtpd_milters", "") in entry.options


@pytest.mark.parametrize("hop", ["mx2.example.org:25", "unix:/run/lmtp.sock"])
def test_a_release_hop_elsewhere_needs_no_listener_here(hop):
    assert () == postfix(Way.MILTER, quarantine={"release_hop": hop}).entries


def test_a_listener_on_ipv6_believes_ipv6():
    (entry,) = postfix(Way.MILTER, quarantine={"release_hop": "[::1]:10026"}).entries
    assert "[::1]:10026/inet" == entry.key
    assert ("mynetworks", "[::1]/128") in entry.options


@pytest.mark.parametrize(
    ("listen", "where"),
    [
        ("127.0.0.1:1", "inet:127.0.0.1:1"),
        ("0.0.0.0:1", "inet:127.0.0.1:1"),
        ("[::]:1", "inet:[::1]:1"),
        ("unix:/run/spamguard/milter.sock", "unix:/run/spamguard/milter.sock"),
        ("unix:/var/spool/postfix/spamguard/milter.sock", "unix:spamguard/milter.sock"),
    ],
)
def test_postfix_is_told_how_our_door_is_reached(listen, where):
    element = postfix(Way.MILTER, milter={"listen": [listen]}).milter
    assert where == parse_milter(element).where
    assert is_our_milter(where, listen, QUEUE)


def test_postfix_waits_longer_than_our_deadline():
    model = {"deadline_seconds": 40.5, "hard_limit_seconds": 60}
    assert "content_timeout=61s" in postfix(Way.MILTER, model=model).milter


@pytest.mark.parametrize(
    ("way", "sections", "said"),
    [
        (Way.MILTER, {"milter": {"listen": []}}, "milter.listen = []"),
        (Way.MILTER, {"milter": {"listen": ["127.0.0.1:0"]}}, "fixed port"),
        (Way.CONTENT_FILTER, {"smtp": {"listen": []}}, "smtp.listen = []"),
        (Way.CONTENT_FILTER, {"smtp": {"listen": ["unix:/x"]}}, "smtp.listen"),
        (Way.CONTENT_FILTER, {"smtp": {"next_hop": "mx.example:25"}}, "smtp.next_hop"),
    ],
)
def test_a_door_that_postfix_cannot_use_is_named(way, sections, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        postfix(way, **sections)


def test_exim_and_sendmail_are_told_of_other_addresses():
    settings = config(
        spamd={"listen": ["127.0.0.1:1783"]}, milter={"listen": ["unix:/run/spamguard/m.sock"]}
    )
    assert "spamd_address = 127.0.0.1 1783\n" in lines.exim(settings)
    assert "spamd_address = <; ::1 7\n" in lines.exim(config(spamd={"listen": ["[::1]:7"]}))
    assert "S=unix:/run/spamguard/m.sock," in lines.sendmail(settings)
    assert "S=inet6:7@::1," in lines.sendmail(config(milter={"listen": ["[::1]:7"]}))
    with pytest.raises(ConfigError, match="spamd.listen = "):
        lines.exim(config())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", OURS),
        ("inet:localhost:8891", f"inet:localhost:8891, {OURS}"),
        ("$dkim,local:dmarc/sock", f"$dkim,local:dmarc/sock, {OURS}"),
        ("inet:localhost:11332", OURS),
        ("{inet:[::1]:11332,default_action=tempfail}, unix:x", f"{OURS}, unix:x"),
        (OURS, OURS),
        (f"{OURS}, inet:127.0.0.1:11332", OURS),
    ],
)
def test_our_milter_is_added_to_those_that_are_there(before, after):
    assert after == with_milter(before, OURS)


def test_elements_are_split_outside_of_braces():
    assert ["a:1", "{ b:2, c=3 }", "$x"] == split_milters("a:1 { b:2, c=3 },$x")
    assert {"c": "3"} == dict(parse_milter("{ b:2, c=3 }").options)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("inet:localhost:1", "inet:127.0.0.1:1", True),
        ("inet:localhost:1", "inet:localhost:2", False),
        ("inet:mx.example:1", "inet:127.0.0.1:1", False),
        ("local:a/b", "unix:a/b", True),
        ("unix:a", "inet:a:1", False),
    ],
)
def test_one_socket_has_several_names(one, other, expected):
    assert expected == is_same_socket(one, other)


def test_times_of_postfix():
    assert [30, 300, 100, 86_400] == [seconds(text) for text in ("30s", "5m", "100", "1d")]
    with pytest.raises(MailServerError, match="expected a time"):
        seconds("soon")
