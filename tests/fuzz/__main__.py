"""``python -m tests.fuzz TARGET… --seconds N``: look for inputs that break a target.

Coverage-guided by atheris (libFuzzer), one process a target. New inputs that reach new code are
kept in ``--corpus``, so that a later run goes on from there. An input that breaks a target is
written there too: cut it down (``--minimise FILE``), put it into ``tests/fuzz/seeds/TARGET`` under a
name that says what it shows, and the unit tests run it for ever.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MAX_BYTES = 4096  # of an input; structure, not size, is what finds paths
MEMORY_MEGABYTES = 2048
SLACK_SECONDS = 120  # to start and to end
INSIDE = "--inside"  # the engine's own arguments follow, in its own syntax


def main() -> int:
    """Run each target in a process of its own; return how many broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="[default: all]")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--corpus", type=Path, help="directory kept between runs")
    parser.add_argument("--minimise", type=Path, metavar="FILE", help="cut one input down")
    known = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    names = known.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory() as fresh:
        corpus = (known.corpus or Path(fresh)).resolve()
        seconds = max(1, known.seconds // len(names))
        broken = [name for name in names if not run(name, corpus / name, seconds, known.minimise)]
    if broken:
        print("broken:", ", ".join(broken))
    return len(broken)


def run(name: str, corpus: Path, seconds: int, minimise: Path | None) -> bool:
    """Fuzz one target; print a line on it; return whether it held."""
    from tests.fuzz.targets import INSTRUMENTED_SECONDS, seed_folders

    corpus.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz", INSIDE, name),
        f"-max_total_time={seconds}",
        f"-artifact_prefix={corpus}/broken-",
        f"-max_len={MAX_BYTES}",
        f"-timeout={round(5 * INSTRUMENTED_SECONDS)}",
        f"-rss_limit_mb={MEMORY_MEGABYTES}",
        "-print_final_stats=1",
    ]
    if minimise:
        command += ["-minimize_crash=1", str(minimise.resolve())]
    else:
        command += [str(corpus), *map(str, seed_folders(name))]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=seconds + SLACK_SECONDS
    )
    executed = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    covered = re.findall(r"\bcov: (\d+)", done.stderr)
    runs = int(executed[1]) if executed else 0
    print(f"{name}: {runs:,} inputs, {covered[-1] if covered else '?'} edges", end="")
    print("" if done.returncode == 0 else ", BROKEN", flush=True)
    if done.returncode:
        print(done.stderr[-3000:])
    return done.returncode == 0


def fuzz(name: str, engine: list[str]) -> None:
    """Fuzz in this process; never returns."""
    import atheris

    with atheris.instrument_imports(include=["spamguard", "email"], enable_loader_override=False):
        from tests.fuzz.targets import INSTRUMENTED_SECONDS, TARGETS, timed

    atheris.Setup([sys.argv[0], *engine], timed(TARGETS[name], INSTRUMENTED_SECONDS))
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main())
