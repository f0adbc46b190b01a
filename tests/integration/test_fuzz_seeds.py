"""Every seed of the fuzzer through its target: what once broke one never does so again."""

import pytest

from tests.fuzz.targets import SECONDS, TARGETS, seed_folders, timed

pytestmark = pytest.mark.timeout(60)

SEEDS = [
    pytest.param(name, path, id=f"{name}-{path.name}")
    for name in TARGETS
    for folder in seed_folders(name)
    for path in sorted(folder.glob("*"))
]


@pytest.mark.parametrize(("name", "path"), SEEDS)
def test_what_a_target_promises_holds_for_every_seed(name, path):
    timed(TARGETS[name], SECONDS)(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_holds_for_nothing_and_for_noise(name):
    for data in (b"", b"\0", b"\xff" * 100, b"\n", bytes(range(256)) * 4):
        timed(TARGETS[name], SECONDS)(data)


def test_every_target_has_seeds():
    assert not [name for name in TARGETS if not seed_folders(name)]
