"""Settings: documented, typed, and wrong ones explained."""

import re
import tomllib
from pathlib import Path

import pytest

from spamguard.config import Config, all_keys, load_config, template
from spamguard.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (ROOT / "deploy" / "spamguard.toml").read_text()


def load(tmp_path, text, *, environment=None, **overrides):
    path = tmp_path / "spamguard.toml"
    path.write_text(text)
    return load_config(path, environment=environment or {}, overrides=overrides)


def uncommented():
    """The documented file with every setting switched on."""
    return tomllib.loads(re.sub(r"^#([a-z_]+ = )", r"\1", DOCUMENTED, flags=re.MULTILINE))


def flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_every_setting_is_documented_and_no_other():
    assert {key for key, _ in flat(uncommented())} == set(all_keys())


def test_documented_values_are_the_defaults():
    shown = dict(flat(uncommented()))
    for example in ("model.unsure_threshold", "model.spam_threshold"):
        shown.pop(example)  # their default is "those of the model", which TOML cannot say
    defaults = dict(flat(Config().model_dump(mode="json")))
    for key, value in shown.items():
        default = defaults[key]
        assert (
            (sorted(value), sorted(default)) == (value, default)
            if (isinstance(value, list) and len(value) < 2)
            else value == default
        ), key


def test_the_documented_file_loads_and_each_key_has_a_comment(tmp_path):
    assert load(tmp_path, template()) == Config()
    lines = DOCUMENTED.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#[a-z_]+ = ", line):
            above = lines[number - 1]
            assert above.startswith("# ") or re.match(r"\[|#[a-z_]+ = ", above) or "  # " in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[policy]\nspam = "hold"\n', ["policy.spam = 'hold'", "'quarantine'"]),
        ("[policy]\nsapm = 1\n", ["policy.sapm = 1", "did you mean policy.spam?"]),
        ("[model]\nworkers = -1\n", ["model.workers = -1", "greater than or equal to 0"]),
        ("[model]\nunsure_threshold = 0.5\n", ["expected both or neither"]),
        ("[model]\nunsure_threshold = 0.9\nspam_threshold = 0.5\n", ["at most spam_threshold"]),
        ("[model]\nhard_limit_seconds = 1\n", ["hard_limit_seconds", "deadline_seconds"]),
        ('[policy]\nspam = "redirect"\n', ["redirect_to: expected an address"]),
        ('[milter]\nlisten = ["nowhere"]\n', ["milter.listen.0 = 'nowhere'", "host:port"]),
        ('[milter]\nlisten = ["host:99999"]\n', ["host:99999"]),
        ('[policy.allow]\nnetworks = ["1.2.3"]\n', ["policy.allow.networks.0 = '1.2.3'"]),
        ('[policy.allow]\nreverse_paths = ["example.org"]\n', ["@example.org for a whole domain"]),
        ('[policy]\nsubject_prefix = "a\\nb"\n', ["policy.subject_prefix"]),
        (
            '[reports]\nspam_addresses = ["@example.org"]\n',
            ["reports.spam_addresses.0 = '@example.org'", "expected a mail address"],
        ),
        (
            '[reports]\nspam_addresses = ["A@b.example"]\nham_addresses = ["a@b.example"]\n',
            ["a@b.example: expected as spam or as ham address, not both"],
        ),
        ('[reports]\ndrop_directory = "drop"\n', ["reports.drop_directory", "an absolute path"]),
        ("[policy\n", ["not valid TOML"]),
        ('policy = "x"\n', ["policy = 'x'"]),
    ],
)
def test_a_mistake_is_explained_with_file_key_and_value(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    for word in [*words, str(tmp_path / "spamguard.toml")]:
        assert word in str(caught.value)


def test_all_mistakes_are_reported_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, '[model]\nworkers = -1\n[log]\nlevel = "loud"\n', environment={}, nope=1)
    assert len(str(caught.value).splitlines()) == 3


def test_the_command_line_beats_the_environment_beats_the_file(tmp_path):
    text = "[model]\nworkers = 1\nmax_waiting = 1\ndeadline_seconds = 1\n"
    environment = {"SPAMGUARD_MODEL__WORKERS": "2", "SPAMGUARD_MODEL__MAX_WAITING": "2"}
    loaded = load(tmp_path, text, environment=environment, **{"model.workers": 3})
    assert (loaded.model.workers, loaded.model.max_waiting) == (3, 2)
    assert loaded.model.deadline_seconds == 1


def test_a_mistake_in_the_environment_names_the_variable(tmp_path):
    with pytest.raises(ConfigError, match="environment variable SPAMGUARD_POLICY__SPAM"):
        load(tmp_path, "", environment={"SPAMGUARD_POLICY__SPAM": "hold"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml", environment={})
