"""The token file, which endpoints need one, and the histogram that /metrics shows."""

import math

import pytest

from spamguard.config import Http
from spamguard.doors import read_tokens
from spamguard.errors import ConfigError
from spamguard.observe import LATENCY_BUCKETS, Metrics

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "tokens"
    made.write_text(f"{TOKEN}\n\n  second-{TOKEN}  \n")
    made.chmod(0o600)
    return made


def test_each_line_is_a_token(file):
    assert (TOKEN.encode(), f"second-{TOKEN}".encode()) == read_tokens(str(file))


def test_without_a_file_there_are_none():
    assert read_tokens("") == ()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_refused(file, mode):
    file.chmod(mode)
    with pytest.raises(ConfigError, match="expected 0600"):
        read_tokens(str(file))


@pytest.mark.parametrize("text", ["", "\n", "short\n", f"{TOKEN}\nshort\n"])
def test_short_tokens_are_refused(file, text):
    file.write_text(text)
    with pytest.raises(ConfigError, match="16 characters"):
        read_tokens(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_tokens(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/x", "127.9.9.9:1"]
)
def test_loopback_needs_no_token_file(endpoint):
    assert Http(listen=(endpoint,)).listen == (endpoint,)


@pytest.mark.parametrize("endpoint", ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "mail.example:1"])
def test_other_addresses_need_one(endpoint):
    with pytest.raises(ValueError, match="token_file: expected one"):
        Http(listen=("127.0.0.1:1", endpoint))
    assert Http(listen=(endpoint,), token_file="/etc/tokens").listen == (endpoint,)


def test_the_histogram_is_cumulative_and_its_ends_belong_to_their_bucket():
    metrics = Metrics()
    for milliseconds in (1, 5, 6, 99_999):
        metrics.observe_latency(milliseconds)
    buckets, total = metrics.latency_histogram()
    assert dict(buckets)[0.005] == 2
    assert dict(buckets)[0.01] == 3
    assert dict(buckets)[math.inf] == 4
    assert [end for end, _ in buckets] == list(LATENCY_BUCKETS)
    assert round(total, 3) == 100.011
