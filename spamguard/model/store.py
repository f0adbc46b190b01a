"""Model versions on disk: what a version is made of, which one is current, is it intact.

A version is a directory with a `manifest.json` that names every other file and its SHA-256.
Weights are ONNX or safetensors, never pickles. `models/current` holds the name of the version
in use, one line, replaced atomically; without it the version shipped in the package serves.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spamguard.errors import ModelCorruptError, ModelFormatError, ModelLoadError, StoreError
from spamguard.verdict import Thresholds

log = logging.getLogger(__name__)

FORMAT = 2  # of the version directory; raised when an older daemon could not read a newer one
MANIFEST = "manifest.json"
NETWORK_FILE = "model.int8.onnx"
TOKENIZER_FILE = "tokenizer.json"
CALIBRATION_FILE = "calibration.json"
LINEAR_FILE = "linear.safetensors"
WEIGHTS_FILE = "model.safetensors"  # what retraining starts from; not needed to judge
ENCODER_FILE = "config.json"  # the encoder's shape, for retraining
CANDIDATES = "candidates"  # directory of what is not promoted, beside the versions
GATE_FILE = "gate.json"  # what the gate said of a version that retraining made
ROLLBACK = "rollback"  # how a reason begins in the history when a version was given up
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "default"

_VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version directory, its manifest read.

    Attributes:
        name: the version's name; it stands in header fields and logs.
        path: its directory.
        max_tokens: the BERT's window.
        thresholds: where unsure and spam begin for this version's scores.
        manifest: everything else as written, for people and for the gate.
    """

    name: str
    path: Path
    max_tokens: int
    thresholds: Thresholds
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ModelVersion":
        """Read a version's manifest; `verify` checks the other files.

        Raises:
            ModelLoadError: it is missing, malformed, or of a newer format.
        """
        manifest_path = path / MANIFEST
        try:
            manifest = json.loads(manifest_path.read_text("utf-8"))
            if manifest["format"] != FORMAT:
                raise ModelFormatError(
                    f"{manifest_path}: format {manifest['format']!r}, of another release: expected "
                    f"{FORMAT}; `spamguard models promote default` uses the version that ships"
                )
            name = manifest["version"]
            if not _VERSION_NAME.fullmatch(name):
                raise ModelLoadError(f"{manifest_path}: version {name!r}: not a plain name")
            return cls(
                name=name,
                path=path,
                max_tokens=int(manifest["max_tokens"]),
                thresholds=Thresholds(**manifest["thresholds"]),
                manifest=manifest,
            )
        except OSError as error:
            raise ModelLoadError(f"{manifest_path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(f"{manifest_path}: expected a model manifest: {error}") from error

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            ModelCorruptError: a file differs.
            ModelLoadError: a file is missing or unreadable.
        """
        for name, expected in self.manifest["files"].items():
            path = self.path / name
            try:
                found = _sha256(path)
            except OSError as error:
                raise ModelLoadError(f"{path}: {error.strerror or error}") from error
            if found != expected:
                raise ModelCorruptError(
                    f"{path}: SHA-256 {found[:16]}…, the manifest says {expected[:16]}…"
                )


class ModelStore:
    """The versions of one state directory, and the one that ships with the package.

    Args:
        directory: usually ``/var/lib/spamguard/models``; need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def current_file(self) -> Path:
        """The file whose replacement promotes a version; watch its directory."""
        return self.directory / "current"

    def current(self) -> ModelVersion:
        """Return the version in use.

        That is the shipped one too where the version was made by another release: after an
        upgrade mail is judged, and the next retraining goes on from what judges it.

        Raises:
            ModelLoadError: `current` names a version that cannot be read.
        """
        try:
            name = self.current_file.read_text("utf-8").strip()
        except FileNotFoundError:
            return ModelVersion.read(SHIPPED)
        except OSError as error:
            raise ModelLoadError(f"{self.current_file}: {error.strerror or error}") from error
        try:
            return self.get(name)
        except ModelFormatError as error:
            log.warning("the shipped model judges", extra={"error": str(error)})
            return ModelVersion.read(SHIPPED)

    def get(self, name: str) -> ModelVersion:
        """Return a version.

        Args:
            name: of a version, a directory's path, "default" for the shipped one, or "" for
                the one in use.

        Raises:
            ModelLoadError: there is none.
        """
        if not name:
            return self.current()
        if name == "default":
            return ModelVersion.read(SHIPPED)
        if "/" in name:
            return ModelVersion.read(Path(name))
        if not _VERSION_NAME.fullmatch(name):
            raise ModelLoadError(f"{self.current_file}: {name!r} is not a version's name")
        shipped = self._shipped()
        if shipped is not None and shipped.name == name and not (self.directory / name).exists():
            return shipped
        candidate = self.directory / CANDIDATES / name
        if candidate.is_dir() and not (self.directory / name).exists():
            return ModelVersion.read(candidate)
        return ModelVersion.read(self.directory / name)

    def candidates(self) -> list[ModelVersion]:
        """Return what retraining made and did not promote, oldest first."""
        found = []
        for manifest in sorted(self.directory.glob(f"{CANDIDATES}/*/{MANIFEST}")):
            with suppress(ModelLoadError):
                found.append(ModelVersion.read(manifest.parent))
        return found

    def versions(self) -> list[ModelVersion]:
        """Return all readable versions, the shipped one first, then by name."""
        shipped = self._shipped()
        found = [shipped] if shipped is not None else []
        if self.directory.is_dir():
            for manifest in sorted(self.directory.glob(f"*/{MANIFEST}")):
                try:
                    found.append(ModelVersion.read(manifest.parent))
                except ModelLoadError:
                    continue
        return found

    def adopt(self, path: Path, name: str) -> ModelVersion:
        """Move a candidate's directory to where versions are.

        Raises:
            ModelError: it is not intact.
            StoreError: it cannot be moved, or the name is taken.
        """
        ModelVersion.read(path).verify()
        target = self.directory / name
        try:
            path.rename(target)
        except OSError as error:
            raise StoreError(f"{target}: {error.strerror or error}") from error
        return ModelVersion.read(target)

    def promote(self, name: str, *, by: str = "", reason: str = "") -> None:
        """Make a version the current one: verified, written, synced, renamed.

        Args:
            name: of a version.
            by: who wants it, for the history.
            reason: why.

        Raises:
            ModelError: the version is not intact.
            StoreError: the history or the file cannot be written.
        """
        self.get(name).verify()
        before = ""  # a current version that cannot be read is no reason to stay with it
        with suppress(ModelLoadError):
            before = self.current().name
        step = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "from": before,
            "to": name,
            "by": by,
            "reason": reason,
        }
        part = self.current_file.with_suffix(".part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._history_file.open("a", encoding="utf-8") as history:
                history.write(json.dumps(step, ensure_ascii=False) + "\n")
            with part.open("w", encoding="utf-8") as stream:
                stream.write(f"{name}\n")
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self.current_file)
            directory = os.open(self.directory, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise StoreError(f"{self.current_file}: {error.strerror or error}") from error

    def history(self) -> list[dict[str, str]]:
        """Return every promotion and rollback, oldest first."""
        try:
            lines = self._history_file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self._history_file}: {error.strerror or error}") from error
        steps = []
        for line in lines:
            try:
                steps.append(json.loads(line))
            except ValueError:
                continue  # the last line of a run that was killed while writing it
        return steps

    def note_retraining(self, result: str, *, at: float) -> None:
        """Keep what came of a retraining, whoever started it, for `spamguard status`.

        Raises:
            StoreError: it cannot be written.
        """
        stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="minutes")
        part = self._retraining_file.with_suffix(".part")
        try:
            part.write_text(json.dumps({"last": stamp, "result": result}), "utf-8")
            part.replace(self._retraining_file)
        except OSError as error:
            raise StoreError(f"{self._retraining_file}: {error.strerror or error}") from error

    def last_retraining(self) -> dict[str, str]:
        """Return when the last one ended and what came of it; nothing when none is known."""
        try:
            noted = json.loads(self._retraining_file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: str(value) for key, value in noted.items()}

    @property
    def _retraining_file(self) -> Path:
        return self.directory / "last-retraining.json"

    def roll_back(self, *, by: str, reason: str) -> str:
        """Go back to the version before the current one; return its name.

        Raises:
            ModelLoadError: there is none, or it is gone.
        """
        current = self.current().name
        # A rollback to it is not how it came: from there one goes back further, not to and fro.
        came_from = [
            step["from"]
            for step in self.history()
            if step["to"] == current and step["from"] and not step["reason"].startswith(ROLLBACK)
        ]
        if not came_from:
            raise ModelLoadError(f"{self._history_file}: nothing was before {current}")
        self.promote(came_from[-1], by=by, reason=f"{ROLLBACK}: {reason}")
        return came_from[-1]

    def prune(self, *, keep: int) -> list[str]:
        """Delete old versions but the newest ``keep``, the current and the one before it."""
        steps = self.history()
        current = self.current().name
        needed = {current, *(s["from"] for s in steps if s["to"] == current)}
        own = [v for v in self.versions() if v.path.parent == self.directory]
        doomed = [v for v in own[: max(0, len(own) - keep)] if v.name not in needed]
        for version in doomed:
            shutil.rmtree(version.path)
        return [version.name for version in doomed]

    @property
    def _history_file(self) -> Path:
        return self.directory / "history.jsonl"

    def set_thresholds(
        self, version: ModelVersion, thresholds: Thresholds, *, chosen: Mapping[str, Any]
    ) -> None:
        """Store other thresholds with a version; the manifest is replaced atomically.

        Args:
            version: whose manifest.
            thresholds: the new ones.
            chosen: how and on what, for `models show`.

        Raises:
            StoreError: the manifest cannot be written (the shipped version is not yours).
        """
        manifest = {
            **version.manifest,
            "thresholds": asdict(thresholds),
            "thresholds_chosen": dict(chosen),
        }
        part = version.path / f"{MANIFEST}.part"
        try:
            part.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
            part.replace(version.path / MANIFEST)
        except OSError as error:
            raise StoreError(f"{part}: {error.strerror or error}") from error

    def _shipped(self) -> ModelVersion | None:
        try:
            return ModelVersion.read(SHIPPED)
        except ModelLoadError:
            return None


def write_manifest(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a version's manifest last, with the checksum of every file that is there."""
    files = {
        file.name: _sha256(file)
        for file in sorted(path.iterdir())
        if file.is_file() and file.name not in {MANIFEST, "CARD.md"}
    }
    for name in files:
        (path / name).chmod(0o644)  # safetensors writes 0600; a version holds no secrets
    manifest = {"format": FORMAT, **fields, "files": files}
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=False)
    (path / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
