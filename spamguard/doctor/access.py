"""Whether a mail server's user may open our socket, by the modes of it and of what is above it."""

import grp
import pwd
from pathlib import Path


def closed_to(user: str, path: Path) -> Path | None:
    """Return what of a path a user may not pass or write to, or None; root's ways are not asked."""
    try:
        account = pwd.getpwnam(user)
        groups = {account.pw_gid} | {g.gr_gid for g in grp.getgrall() if user in g.gr_mem}
        for part, needed in [*((p, 1) for p in reversed(path.parents)), (path, 2)]:
            status = part.stat()
            shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid in groups else 0
            if not status.st_mode >> shift & needed:
                return part
    except (KeyError, OSError):
        return None  # the door's own check says what is wrong with it
    return None
