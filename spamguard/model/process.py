"""One scorer process, seen from the daemon: started, asked, ended."""

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import Callable
from typing import cast

from spamguard.errors import ModelLoadError, WorkerCrashedError
from spamguard.model.channel import HEADER_BYTES, MAX_ANSWER_BYTES, request
from spamguard.model.store import ModelVersion
from spamguard.verdict import Thresholds

START_TIMEOUT_SECONDS = 60.0  # loading takes 0.3 s; a busy machine may take seconds
END_TIMEOUT_SECONDS = 10.0  # from SIGKILL on; the kernel may be busy too
_PIPE_BYTES = 1 << 20  # Linux' limit for everybody: nearly every message goes over in one write
_STDIN, _STDOUT = 0, 1
# numpy's OpenBLAS keeps a thread for each core, which spins while it waits for work that our
# short vectors never give it, and has a buffer.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


class ScorerProcess(asyncio.SubprocessProtocol):
    """Judges one message at a time. Make it with `start`.

    Args:
        version: what it judges with.
    """

    def __init__(self, version: ModelVersion) -> None:
        self.version = version
        self.process_id = 0
        self._on_death: Callable[[ScorerProcess], None] | None = None  # while it starts
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] = self._loop.create_future()  # the first: it is up
        self._ended = asyncio.Event()
        self._is_over = False

    @classmethod
    async def start(
        cls,
        version: ModelVersion,
        hard_limit_seconds: float,
        on_death: Callable[["ScorerProcess"], None],
    ) -> "ScorerProcess":
        """Start a process and wait until it has judged a message.

        Args:
            version: what it judges with.
            hard_limit_seconds: for one message; then it ends itself.
            on_death: called once when it ends later on, unless by `end` or `kill`.

        Raises:
            ModelLoadError: it does not come up.
        """
        made = cls(version)
        # -P: whatever lies in the current directory is none of our modules.
        await made._loop.subprocess_exec(
            lambda: made,
            *(sys.executable, "-P", "-m", "spamguard.model.scorer"),
            *(str(version.path), str(hard_limit_seconds)),
            stderr=None,
            env={**ONE_THREAD, **os.environ},
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await made._answer
        except (WorkerCrashedError, TimeoutError) as error:
            await made.kill()
            raise ModelLoadError(f"{version.path}: no scorer came up: {error}") from error
        except asyncio.CancelledError:
            await made.kill()
            raise
        made._on_death = on_death
        return made

    @property
    def is_busy(self) -> bool:
        """Whether it has a message."""
        return not self._answer.done()

    @property
    def is_gone(self) -> bool:
        """Whether the process is no more."""
        return self._ended.is_set()

    def submit(self, raw: bytes, thresholds: Thresholds) -> "asyncio.Future[bytes]":
        """Hand a message over; return what becomes its answer, for `decode_answer`.

        Args:
            raw: the message.
            thresholds: by which its score will be judged.

        The answer comes even when nobody waits any more, and WorkerCrashedError in its place
        when the process ends.
        """
        assert self._answer.done(), "one message at a time"
        self._answer = self._loop.create_future()
        if self._is_over:
            self._fail()
        else:
            self._pipe(_STDIN).write(request(raw, thresholds))
        return self._answer

    async def kill(self) -> None:
        """End it at once, whatever it does, and wait until it is gone."""
        self.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_SECONDS):
                await self._ended.wait()

    def end(self) -> None:
        """Kill it; its message, if it has one, gets WorkerCrashedError."""
        self._is_over = True
        self._fail()
        if self._transport is not None:
            self._transport.close()  # which kills

    # -- asyncio's side ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the process; give it room for a message at once."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.process_id = self._transport.get_pid() or 0
        pipe = self._pipe(_STDIN).get_extra_info("pipe")
        with contextlib.suppress(OSError):  # pipe-user-pages-soft, pipe(7): then it is 64 KB
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Gather the answer."""
        if fd != _STDOUT or self._is_over:
            return
        self._received += data
        length = int.from_bytes(self._received[:HEADER_BYTES], "big")
        if len(self._received) >= HEADER_BYTES and length > MAX_ANSWER_BYTES:
            self._die()
        elif len(self._received) >= HEADER_BYTES + length:
            body = bytes(self._received[HEADER_BYTES : HEADER_BYTES + length])
            self._received.clear()
            if not self._answer.done():
                self._answer.set_result(body)

    def pipe_connection_lost(self, fd: int, error: Exception | None) -> None:
        """A closed stream is the end, whichever comes first."""
        del fd, error
        self._die()

    def process_exited(self) -> None:
        """Note the end."""
        self._ended.set()
        self._die()

    def _die(self) -> None:
        if not self._is_over:
            self.end()
            if self._on_death is not None:
                self._on_death(self)

    def _fail(self) -> None:
        if not self._answer.done():
            self._answer.set_exception(WorkerCrashedError("the scorer died on this message"))
            self._answer.exception()  # looked at: nobody may wait any more

    def _pipe(self, number: int) -> asyncio.WriteTransport:
        assert self._transport is not None
        return cast("asyncio.WriteTransport", self._transport.get_pipe_transport(number))
