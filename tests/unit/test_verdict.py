"""From score to action: every label, every ceiling, both lists."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamguard.message import Envelope
from spamguard.verdict import (
    OUR_HEADERS,
    Disposition,
    Label,
    Policy,
    Score,
    SenderList,
    Thresholds,
    Verdict,
    apply_lists,
    authenticated_domains,
    decide,
    judge,
)

THRESHOLDS = Thresholds(unsure=0.5, spam=0.9)


def envelope(**changes):
    fields = {"reverse_path": "a@sender.example", "recipients": ("b@here.example",), **changes}
    return Envelope(frontend="test", **fields)


def score(probability=0.99, **changes):
    return Score(spam_probability=probability, model_version="m", fingerprint="f", **changes)


def verdict(label):
    probability = None if label is Label.UNSCORED else 0.7
    return Verdict(id="id1", label=label, spam_probability=probability, model_version="m")


@pytest.mark.parametrize(
    ("probability", "label"),
    [
        (0.0, Label.HAM),
        (0.4999, Label.HAM),
        (0.5, Label.UNSURE),
        (0.8999, Label.UNSURE),
        (0.9, Label.SPAM),
        (1.0, Label.SPAM),
    ],
)
def test_labels_begin_at_their_thresholds(probability, label):
    assert label == judge(score(probability), THRESHOLDS, "id1").label


@pytest.mark.parametrize(("unsure", "spam"), [(0.9, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_thresholds_out_of_order_are_refused(unsure, spam):
    with pytest.raises(ValueError, match="expected 0 <= unsure <= spam <= 1"):
        Thresholds(unsure=unsure, spam=spam)


@pytest.mark.parametrize("disposition", list(Disposition))
def test_an_unscored_message_is_delivered_whatever_policy_says(disposition):
    policy = Policy(ham=disposition, unsure=disposition, spam=disposition)
    action = decide(verdict(Label.UNSCORED), envelope(), policy)
    assert Disposition.DELIVER == action.disposition


@pytest.mark.parametrize("disposition", list(Disposition))
def test_spam_gets_what_policy_says(disposition):
    action = decide(verdict(Label.SPAM), envelope(), Policy(spam=disposition))
    assert disposition == action.disposition


ORDER = ["deliver", "tag", "redirect", "quarantine", "defer", "reject"]


@pytest.mark.parametrize("ceiling", ORDER)
@pytest.mark.parametrize("wanted", ORDER)
@pytest.mark.parametrize(
    "who",
    [
        {"authenticated_user": "ann"},
        {"client_ip": "127.0.0.9"},
        {"client_ip": "::ffff:127.0.0.9"},
        {"reverse_path": ""},
    ],
)
def test_ceilings_hold_for_our_own_users_and_for_bounces(wanted, ceiling, who):
    policy = Policy(
        spam=Disposition(wanted),
        outgoing=Disposition(ceiling),
        null_sender=Disposition(ceiling),
        local_networks=(ipaddress.ip_network("127.0.0.0/8"),),
    )
    expected = min(wanted, ceiling, key=ORDER.index)
    assert expected == decide(verdict(Label.SPAM), envelope(**who), policy).disposition


def test_rejecting_and_deferring_say_why_with_the_id():
    rejected = decide(verdict(Label.SPAM), envelope(), Policy(spam=Disposition.REJECT))
    deferred = decide(verdict(Label.SPAM), envelope(), Policy(spam=Disposition.DEFER))
    assert rejected.smtp_reply == "550 5.7.1 message refused as spam, id id1"
    assert deferred.smtp_reply.startswith("451 4.7.1 ")


def test_only_tagged_spam_gets_the_subject_prefix():
    policy = Policy(spam=Disposition.TAG, unsure=Disposition.TAG, subject_prefix="[SPAM] ")
    assert decide(verdict(Label.SPAM), envelope(), policy).subject_prefix == "[SPAM] "
    assert decide(verdict(Label.UNSURE), envelope(), policy).subject_prefix == ""


def test_all_our_header_fields_are_removed_from_what_comes_in():
    action = decide(verdict(Label.HAM), envelope(), Policy())
    assert set(OUR_HEADERS) == set(action.delete_headers)
    assert {name for name, _ in action.add_headers} <= set(OUR_HEADERS)


@given(st.text(), st.sampled_from(list(Label)))
def test_header_values_are_one_line_of_printable_ascii(reason, label):
    probability = None if label is Label.UNSCORED else 0.5
    found = Verdict(
        id="1", label=label, spam_probability=probability, model_version="m", reason=reason
    )
    for _, value in decide(found, envelope(), Policy()).add_headers:
        assert value.isascii()
        assert value.isprintable()


def test_the_flag_stands_on_spam_alone():
    for label in Label:
        names = {n for n, _ in decide(verdict(label), envelope(), Policy()).add_headers}
        assert ("X-Spam-Flag" in names) == (label is Label.SPAM)


ALLOW = Policy(
    trusted_authserv_ids=frozenset({"mx.here.example"}),
    allow=SenderList(
        reverse_paths=frozenset({"boss@sender.example", "@friends.example"}),
        from_domains=frozenset({"bank.example"}),
        networks=(ipaddress.ip_network("192.0.2.0/24"),),
    ),
)


@pytest.mark.parametrize(
    ("sent", "results", "from_domain", "label"),
    [
        ({"reverse_path": "BOSS@Sender.example"}, (), "", Label.HAM),
        ({"reverse_path": "any@friends.example"}, (), "", Label.HAM),
        ({"reverse_path": "any@notfriends.example"}, (), "", Label.SPAM),
        ({"client_ip": "192.0.2.77"}, (), "", Label.HAM),
        ({"client_ip": "192.0.3.77"}, (), "", Label.SPAM),
        ({"client_ip": "not an address"}, (), "", Label.SPAM),
        ({}, ("mx.here.example; dkim=pass header.d=bank.example",), "bank.example", Label.HAM),
        ({}, ("mx.here.example; dkim=pass header.d=bank.example",), "m.bank.example", Label.HAM),
        ({}, ("mx.here.example; dkim=fail header.d=bank.example",), "bank.example", Label.SPAM),
        ({}, ("evil.example; dkim=pass header.d=bank.example",), "bank.example", Label.SPAM),
        ({}, ("mx.here.example; dkim=pass header.d=evil.example",), "bank.example", Label.SPAM),
        ({}, (), "bank.example", Label.SPAM),
    ],
)
def test_the_allow_list_believes_only_what_it_may(sent, results, from_domain, label):
    given_score = score(from_domain=from_domain, authentication_results=results)
    judged = judge(given_score, THRESHOLDS, "id1")
    assert label == apply_lists(judged, given_score, envelope(**sent), ALLOW).label


def test_the_deny_list_needs_no_authentication_and_yields_to_the_allow_list():
    denied = SenderList(from_domains=frozenset({"bad.example"}))
    ham = judge(score(0.1, from_domain="x.bad.example"), THRESHOLDS, "id1")
    found = score(0.1, from_domain="x.bad.example")
    assert Label.SPAM == apply_lists(ham, found, envelope(), Policy(deny=denied)).label
    both = Policy(deny=denied, allow=SenderList(reverse_paths=frozenset({"a@sender.example"})))
    assert Label.HAM == apply_lists(ham, found, envelope(), both).label


@pytest.mark.parametrize(
    ("field", "domains"),
    [
        ("mx.example; dkim=pass header.d=a.example", {"a.example"}),
        ("mx.example 1; spf=pass smtp.mailfrom=u@b.example", {"b.example"}),
        ("mx.example (comment); dmarc=pass (p=none) header.from=c.example", {"c.example"}),
        (
            "mx.example; dkim=fail header.d=d.example; spf=pass smtp.mailfrom=e.example",
            {"e.example"},
        ),
        ("mx.example; none", set()),
        ("other.example; dkim=pass header.d=f.example", set()),
        ("x (mx.example; dkim=pass header.d=g.example)", set()),
        ('mx.example; dkim=pass header.d="h.example"', {"h.example"}),
        ('mx.example; spf=pass smtp.mailfrom="a b"@i.example', {"i.example"}),
        ("mx.example; dkim=none (a (b) ; dkim=pass header.d=bank.example )", set()),
        (r"mx.example; dkim=none (a \) ; dkim=pass header.d=bank.example )", set()),
        ('mx.example; dkim=none (a " ; dkim=pass header.d=bank.example )', set()),
        ("mx.example; dkim=none (; dkim=pass header.d=bank.example ", set()),
        ('mx.example; dkim=fail reason="; dkim=pass header.d=bank.example"', set()),
        (
            'mx.example; spf=pass smtp.mailfrom="; dkim=pass header.d=bank.example "@evil.test',
            {"evil.test"},
        ),
        (
            r'mx.example; spf=pass smtp.mailfrom="\"; dkim=pass header.d=bank.example "@evil.test',
            {"evil.test"},
        ),
        ('mx.example; spf=pass smtp.mailfrom="x header.d=bank.example"@evil.test', {"evil.test"}),
        ('mx.example; spf=pass smtp.mailfrom="x@bank.example"@evil.test', {"evil.test"}),
        (
            "mx.example; spf=pass smtp.mailfrom=a@evil.test smtp.helo=x/header.d=bank.example",
            {"evil.test"},
        ),
        ("mx.example; spf=pass smtp.mailfrom=header.d=bank.example@evil.test", {"evil.test"}),
        (
            "mx.example; spf=pass smtp.mailfrom=a@evil.test header.from=bank.example",
            {"evil.test"},
        ),
        (
            "mx.example; dkim=pass header.i=@k.example header.s=s header.b=AbC/d=; dmarc=fail"
            " header.from=bank.example",
            {"k.example"},
        ),
        ("mx.example.evil.test; dkim=pass header.d=bank.example", set()),
        ("MX.Example; DKIM=Pass header.d=J.Example.", {"j.example"}),
        ("", set()),
    ],
)
def test_authentication_results_are_read_as_rfc_8601_says(field, domains):
    assert domains == authenticated_domains([field], frozenset({"mx.example"}))


@given(st.text(alphabet=st.characters(exclude_characters='\\"', exclude_categories=["C"])))
def test_a_quoted_local_part_authenticates_nothing_but_its_own_domain(local_part):
    field = f'mx.example; spf=pass smtp.mailfrom="{local_part}"@evil.test'
    assert authenticated_domains([field], frozenset({"mx.example"})) == {"evil.test"}
