"""The whole examination, in the order in which one would mend: files first, mail last."""

from collections.abc import Callable, Iterator
from pathlib import Path

from spamguard.config import Config
from spamguard.doctor import exim, machine, service
from spamguard.doctor.findings import Finding, note
from spamguard.doctor.findings import error as failure
from spamguard.doctor.mail_server import PostfixDoctor
from spamguard.errors import MailServerError
from spamguard.wiring.postfix import PostfixConfig


def examine(
    config: Config,
    settings: Path,
    *,
    clock: Callable[[], float],
    postfix_directory: Path | None = None,
) -> Iterator[Finding]:
    """Look at everything that needs no mail to be sent.

    Args:
        config: the settings.
        settings: the file they come from.
        clock: seconds since the epoch.
        postfix_directory: of main.cf; None for the default instance's, which need not be there.
    """
    yield from machine.versions()
    yield from machine.settings_file(settings)
    yield from machine.state(config)
    yield from machine.secrets(config)
    yield from machine.disk(config)
    yield from machine.time_of_day(config, clock=clock)
    yield from machine.database(config)
    yield from machine.model(config)
    found, status = service.daemon(config)
    yield from found
    yield from service.at_boot()
    yield from service.doors(config, status)
    try:
        yield from PostfixDoctor(config, PostfixConfig(postfix_directory)).examine()
    except MailServerError as error:
        if postfix_directory is not None:
            yield failure("postfix", str(error), "see the message")
        elif exim.program() is None:
            advice = "--postfix-config where it is elsewhere; --send proves any server's wiring"
            yield note("postfix", f"not looked at: {error}", advice)
    if name := exim.program():
        yield from exim.examine(config, name)
