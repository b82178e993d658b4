"""Ctrl-C, SIGTERM and what a run does then: it ends after its step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from danet.processes import Processes
    from danet.training.events import Event


class Interrupt:
    """Within `with`, the first Ctrl-C (or SIGTERM) is kept for `until` to act on; a Ctrl-C after it stops at once."""

    def __init__(self, say: Callable[[str], None], processes: Processes | None = None) -> None:
        self.say, self.processes, self.came = say, processes, False

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        first, self.came = not self.came, True
        if first:
            self.say("Stopping after this step; Ctrl-C again stops at once.")
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])  # SIGTERM may come twice: from Slurm and torchrun

    def until(self, events: Generator[Event, None, None]) -> Iterator[Event]:
        """The events up to the Ctrl-C, wherever it came; closing the run there makes it keep its last step."""
        for event in events:
            yield event
            if self.came if self.processes is None else self.processes.any(self.came):
                self.came = True  # only now: it may come while the processes ask one another
                events.close()
