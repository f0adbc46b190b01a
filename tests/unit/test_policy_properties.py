"""What policy never does, whatever it says and whoever writes: over all verdicts and envelopes."""

import ipaddress

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
    apply_campaign,
    apply_lists,
    decide,
    judge,
)

STRICTNESS = ["deliver", "tag", "redirect", "quarantine", "defer", "reject"]
LOCAL = (ipaddress.ip_network("10.0.0.0/8"),)

probabilities = st.floats(0, 1)
dispositions = st.sampled_from(Disposition)
addresses = st.sampled_from(["", "a@x.example", "b@sub.y.example", "a@", "@", '"@"@x.example'])
senders = st.builds(
    SenderList,
    reverse_paths=st.frozensets(st.sampled_from(["a@x.example", "@sub.y.example"])),
    from_domains=st.frozensets(st.sampled_from(["x.example", "y.example"])),
    networks=st.sampled_from([(), LOCAL]),
)
policies = st.builds(
    Policy,
    ham=dispositions,
    unsure=dispositions,
    spam=dispositions,
    outgoing=dispositions,
    null_sender=dispositions,
    local_networks=st.sampled_from([(), LOCAL]),
    redirect_to=st.just("junk@here.example"),
    mark_ham=st.booleans(),
    subject_prefix=st.sampled_from(["", "[SPAM] "]),
    allow=senders,
    deny=senders,
    trusted_authserv_ids=st.sampled_from([frozenset(), frozenset({"mx.example"})]),
)
envelopes = st.builds(
    Envelope,
    frontend=st.just("test"),
    reverse_path=addresses,
    recipients=st.just(("bob@here.example",)),
    client_ip=st.sampled_from([None, "10.1.2.3", "192.0.2.7", "::ffff:10.0.0.1", "bogus"]),
    authenticated_user=st.sampled_from(["", "ann"]),
)
scores = st.builds(
    Score,
    spam_probability=probabilities,
    model_version=st.just("m"),
    fingerprint=st.just("f"),
    from_domain=st.sampled_from(["", "x.example", "sub.y.example", "notx.example"]),
    authentication_results=st.sampled_from(
        [
            (),
            ("mx.example; dmarc=pass header.from=x.example",),
            ("evil; dkim=pass header.d=x.example",),
        ]
    ),
)
verdicts = st.sampled_from(Label).flatmap(
    lambda label: st.builds(
        Verdict,
        id=st.just("1"),
        label=st.just(label),
        spam_probability=st.none() if label is Label.UNSCORED else probabilities,
        model_version=st.just("m"),
    )
)


@given(verdicts, envelopes, policies)
def test_an_action_is_whole(verdict, envelope, policy):
    action = decide(verdict, envelope, policy)
    assert set(OUR_HEADERS) == set(action.delete_headers)
    refuses = action.disposition in {Disposition.REJECT, Disposition.DEFER}
    assert refuses == bool(action.smtp_reply)
    assert (action.disposition is Disposition.REDIRECT) == bool(action.redirect_to)
    names = [name for name, _ in action.add_headers]
    assert len(names) == len(set(names))


@given(envelopes, policies)
def test_a_failure_of_ours_never_costs_a_message(envelope, policy):
    verdict = Verdict(id="1", label=Label.UNSCORED, reason="ScoringTimeout")
    action = decide(verdict, envelope, policy)
    assert Disposition.DELIVER == action.disposition
    assert not action.subject_prefix


@given(verdicts, envelopes, policies)
def test_no_ceiling_makes_anything_stricter_and_each_one_holds(verdict, envelope, policy):
    found = STRICTNESS.index(decide(verdict, envelope, policy).disposition)
    wanted = {Label.HAM: policy.ham, Label.UNSURE: policy.unsure, Label.SPAM: policy.spam}
    assert found <= STRICTNESS.index(wanted.get(verdict.label, Disposition.DELIVER))
    if envelope.reverse_path == "":
        assert found <= STRICTNESS.index(policy.null_sender)
    if envelope.authenticated_user:
        assert found <= STRICTNESS.index(policy.outgoing)


@given(probabilities, probabilities, probabilities, probabilities)
def test_a_higher_probability_is_never_a_milder_label(one, two, unsure, spam):
    thresholds = Thresholds(unsure=min(unsure, spam), spam=max(unsure, spam))
    order = [Label.HAM, Label.UNSURE, Label.SPAM]
    low, high = (
        judge(Score(spam_probability=p, model_version="m", fingerprint="f"), thresholds, "1").label
        for p in sorted([one, two])
    )
    assert order.index(low) <= order.index(high)


@given(verdicts, scores, envelopes, policies)
def test_a_sender_gets_onto_the_allow_list_by_nothing_he_can_write(
    verdict, score, envelope, policy
):
    listed = apply_lists(verdict, score, envelope, policy)
    assert (verdict.id, verdict.spam_probability) == (listed.id, listed.spam_probability)
    if listed.reason.startswith("allow list: From domain"):
        assert policy.trusted_authserv_ids
        assert score.authentication_results[0].startswith("mx.example;")
        assert "x.example" in policy.allow.from_domains
    if listed.reason.startswith("deny list"):
        assert Label.SPAM == listed.label


@given(verdicts, st.sampled_from([Label.HAM, Label.UNSURE, Label.SPAM]))
def test_users_reports_of_one_kind_never_make_spam_unsure(verdict, label):
    found = apply_campaign(verdict, (label, "like reported"))
    if label is Label.UNSURE and verdict.label is Label.SPAM:
        assert verdict == found
    else:
        assert label == found.label
