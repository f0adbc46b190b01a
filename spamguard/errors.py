"""Every exception SpamGuard raises on purpose, in one tree.

A function either returns or raises; it never logs and raises. Each class carries the exit
code (sysexits.h) with which the command line ends when the error reaches it.
"""

from typing import ClassVar


class SpamGuardError(Exception):
    """Root of the tree; anything else that escapes is a bug."""

    exit_code: ClassVar[int] = 70  # EX_SOFTWARE


class ConfigError(SpamGuardError):
    """The configuration cannot be used; the text names file, key and what was expected."""

    exit_code = 78  # EX_CONFIG


class AddressError(SpamGuardError):
    """An address to listen on is taken, or not on this machine (yet)."""

    exit_code = 71  # EX_OSERR


class DataError(SpamGuardError):
    """Input that was given by path (a message, a data set) is not what was expected."""

    exit_code = 65  # EX_DATAERR


class ReportError(SpamGuardError):
    """A report cannot be taken: unreadable, unknown, or not its reporter's to make."""

    exit_code = 65  # EX_DATAERR


class ProtocolError(SpamGuardError):
    """A wire protocol was broken."""

    exit_code = 76  # EX_PROTOCOL


class PeerProtocolError(ProtocolError):
    """The other side broke the protocol: close that connection, no other."""


class LocalProtocolError(ProtocolError):
    """We tried to send what the protocol forbids at this point: a bug of ours."""


class StoreError(SpamGuardError):
    """A message or record could not be written or read back: disk, permissions, database."""

    exit_code = 74  # EX_IOERR


class StoreBusyError(StoreError):
    """Another process kept the database for longer than one waits; nothing was written."""

    exit_code = 75  # EX_TEMPFAIL


class StoreAccessError(StoreError):
    """The state is there, but owner or mode keep us from using it."""

    exit_code = 77  # EX_NOPERM


class SchemaError(StoreError):
    """The database was written by a newer version of ours."""

    exit_code = 78  # EX_CONFIG


class ClockError(StoreError):
    """The clock stands before what has already been written: it has not been set yet."""

    exit_code = 75  # EX_TEMPFAIL


class ModelError(SpamGuardError):
    """A model version cannot be used."""

    exit_code = 78  # EX_CONFIG


class ModelLoadError(ModelError):
    """A version directory is missing, incomplete or of an unknown layout."""


class ModelFormatError(ModelLoadError):
    """A version was made by a release whose models are others."""


class ModelCorruptError(ModelError):
    """A file of a version does not have the checksum that its manifest states."""


class TrainingError(SpamGuardError):
    """Training cannot go on; no model was changed."""


class TrainingBusyError(TrainingError):
    """Another run holds the training lock."""

    exit_code = 75  # EX_TEMPFAIL


class DeliveryError(SpamGuardError):
    """The next hop did not take a message: the caller keeps it.

    Attributes:
        reply: the SMTP reply line to relay, e.g. ``451 4.3.0 try again``.
    """

    exit_code = 75  # EX_TEMPFAIL

    def __init__(self, text: str, reply: str = "451 4.4.1 next hop not available") -> None:
        super().__init__(text)
        self.reply = reply


class ScoringError(SpamGuardError):
    """This message has no score; it is delivered unscored."""

    exit_code = 75  # EX_TEMPFAIL


class ScoringTimeoutError(ScoringError):
    """The score did not come before the deadline."""


class OverloadedError(ScoringError):
    """Too many messages were waiting; this one was not queued."""


class WorkerCrashedError(ScoringError):
    """The scorer process died while it had this message."""


class DaemonError(SpamGuardError):
    """The running daemon could not be asked; the message goes on unjudged."""

    exit_code = 75  # EX_TEMPFAIL


class MailServerError(SpamGuardError):
    """A mail server is not there, cannot be asked, or its files are not what they were."""

    exit_code = 69  # EX_UNAVAILABLE
