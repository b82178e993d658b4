"""The desk at which requests wait: so many and no more, and one image after another."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from danet.serving.limits import Limits
from danet.serving.problems import Problem

T = TypeVar("T")


class Desk:
    """Runs jobs one at a time, in a thread of its own, while the event loop goes on to answer; torch has all cores."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.taken = 0
        self.turn = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, "danet-forward")
        self.last = 1.0  # seconds that the last job took

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request, from its body to its answer; raises Problem where all are taken."""
        if self.taken >= self.limits.concurrency:
            raise self._busy(f"{self.taken} images are in work, as many as may be")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def run(self, job: Callable[[], T]) -> T:
        """What `job` returns; raises what it raises, and Problem where it, or its turn, takes too long."""
        seconds = self.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                await self.turn.acquire()
        except TimeoutError:
            raise self._busy(f"The image had to wait longer than {seconds:g} s for its turn") from None
        work = asyncio.get_running_loop().run_in_executor(self.thread, self._timed, job)
        work.add_done_callback(self._done)
        done, _ = await asyncio.wait([work], timeout=seconds)
        if not done:  # a thread cannot be stopped: it goes on, and the turn is its own until it ends
            raise Problem(
                "too_slow",
                f"The image took longer than {seconds:g} s; shrink it, or ask with a smaller longest.",
                limit=seconds,
            )
        return work.result()

    def _timed(self, job: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return job()
        finally:
            self.last = time.perf_counter() - start

    def _done(self, work: "asyncio.Future[T]") -> None:
        self.turn.release()
        if not work.cancelled():
            work.exception()  # looked at, for nobody may be waiting for it any more

    def _busy(self, words: str) -> Problem:
        wait = math.ceil(self.last)
        return Problem(
            "busy", f"{words}; send it again in {wait} s.", limit=self.limits.concurrency, retry_after=f"{wait}"
        )
