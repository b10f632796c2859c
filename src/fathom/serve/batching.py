"""One resident network for many requests: whatever waits while it is busy shares its next run.

No request waits for company: when the network is free it takes what is there. An idle server therefore answers as fast
as a direct call, and a busy one fills its batches by itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answered(Generic[Result]):
    """One result with what it took.

    Args:
        result: What the run gave for the item.
        queue_s: Time spent waiting for the network [s].
        run_s: Time of the run, shared by its batch [s].
        batch: Items in that run.
    """

    result: Result
    queue_s: float
    run_s: float
    batch: int


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    item: Item
    key: Hashable
    answer: "asyncio.Future[Answered[Result]]"
    queued: float = field(default_factory=time.monotonic)


class StoppedError(RuntimeError):
    """The batcher takes no more items."""


class Batcher(Generic[Item, Result]):
    """Runs a function in one thread on batches of whatever waits.

    The item that waits longest is always in the next run, with others of its kind that wait behind it.

    Args:
        run: Maps items to results in the same order.
        key: Items of equal key may share a run (the shape of the network's input).
        max_batch: Most items in one run, by key.
        on_run: Called after each run with its items and its seconds.

    Example:
        >>> async def double() -> int:
        ...     batcher = Batcher(lambda items: [2 * item for item in items], key=type, max_batch=lambda key: 4)
        ...     batcher.start()
        ...     answered = await batcher.submit(21)
        ...     await batcher.stop()
        ...     return answered.result
        >>> asyncio.run(double())
        42
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        key: Callable[[Item], Hashable],
        max_batch: Callable[[Item], int],
        on_run: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run = run
        self._key = key
        self._max_batch = max_batch
        self._on_run = on_run
        self._jobs: deque[_Job[Item, Result]] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "fathom-network")
        self._worker: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def is_alive(self) -> bool:
        """Whether items are taken and answered."""
        return self._worker is not None and not self._worker.done() and not self._stopping

    def start(self) -> None:
        """Begin to answer; needs a running event loop."""
        self._worker = asyncio.create_task(self._work(), name="fathom-batcher")

    async def submit(self, item: Item) -> Answered[Result]:
        """Return the result for one item; may share a run with others.

        Raises:
            StoppedError: If the batcher was stopped.
            Exception: Whatever the run raised for this item alone.
        """
        if not self.is_alive:
            raise StoppedError("The batcher was stopped and takes no more items.")
        job: _Job[Item, Result] = _Job(item, self._key(item), asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._wake.set()
        return await job.answer

    async def stop(self) -> None:
        """Answer what waits, then end the thread."""
        self._stopping = True
        self._wake.set()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        while True:
            # A job that was given up (time limit, client gone) costs nothing.
            while self._jobs and self._jobs[0].answer.done():
                self._jobs.popleft()
            if self._jobs:
                await self._answer(self._take())
            elif self._stopping:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _take(self) -> list[_Job[Item, Result]]:
        """Take the job that waits longest and those that can share its run."""
        first = self._jobs[0]
        most = max(1, self._max_batch(first.item))
        batch = [job for job in self._jobs if job.key == first.key and not job.answer.done()][:most]
        taken = set(map(id, batch))
        self._jobs = deque(job for job in self._jobs if id(job) not in taken)
        return batch

    async def _answer(self, batch: list[_Job[Item, Result]]) -> None:
        items = [job.item for job in batch]
        started = time.monotonic()
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
        except Exception as error:
            if len(batch) == 1:
                if not batch[0].answer.done():
                    batch[0].answer.set_exception(error)
                return
            # One item must not fail its neighbours: each is tried alone.
            for job in batch:
                if not job.answer.done():
                    await self._answer([job])
            return
        assert len(results) == len(batch), "the run must give one result for each item"
        seconds = time.monotonic() - started
        self._on_run(len(batch), seconds)
        for job, result in zip(batch, results, strict=True):
            if not job.answer.done():
                job.answer.set_result(Answered(result, started - job.queued, seconds, len(batch)))
