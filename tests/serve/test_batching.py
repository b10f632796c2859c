import asyncio
import threading

import pytest

pytest.importorskip("fastapi", reason="the server needs fathom-depth[serve]")

from fathom.serve.batching import Batcher, StoppedError


class Recorder:
    """Doubles numbers, remembers the batches, and can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, items):
        self.free.wait(5)
        self.batches.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]


def run(scenario):
    """Run a scenario with a batcher whose items share a run when they have the same parity."""

    async def around():
        recorder = Recorder()
        batcher = Batcher(recorder, key=lambda item: item % 2, max_batch=lambda item: 3)
        batcher.start()
        try:
            return await scenario(batcher, recorder)
        finally:
            recorder.free.set()
            await batcher.stop()

    return asyncio.run(around())


async def submit_while_busy(batcher, recorder, items):
    """Keep the thread busy with one item until the others wait."""
    recorder.free.clear()
    first = asyncio.create_task(batcher.submit(100))
    await asyncio.sleep(0.02)
    rest = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0.02)
    return first, rest


def test_an_idle_batcher_answers_at_once():
    async def scenario(batcher, recorder):
        return await batcher.submit(4)

    answered = run(scenario)
    assert (answered.result, answered.batch) == (8, 1)


def test_waiting_items_of_one_kind_share_a_run_and_keep_their_answers():
    async def scenario(batcher, recorder):
        first, rest = await submit_while_busy(batcher, recorder, [1, 2, 3, 4, 5, 6, 7])
        recorder.free.set()
        answers = await asyncio.gather(*rest)
        await first
        assert [answered.result for answered in answers] == [2, 4, 6, 8, 10, 12, 14]
        return recorder.batches

    assert run(scenario) == [[100], [1, 3, 5], [2, 4, 6], [7]]


def test_one_bad_item_does_not_fail_its_neighbours():
    async def scenario(batcher, recorder):
        first, rest = await submit_while_busy(batcher, recorder, [1, -1, 3])
        recorder.free.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)

    good, bad, also_good = run(scenario)
    assert (good.result, also_good.result) == (2, 6)
    assert isinstance(bad, ValueError)


def test_an_item_that_was_given_up_is_not_run():
    async def scenario(batcher, recorder):
        first, rest = await submit_while_busy(batcher, recorder, [1, 3])
        rest[0].cancel()
        await asyncio.sleep(0)
        recorder.free.set()
        await first
        await rest[1]
        return recorder.batches

    assert run(scenario) == [[100], [3]]


def test_stopping_answers_what_waits_and_takes_no_more():
    async def scenario(batcher, recorder):
        first, rest = await submit_while_busy(batcher, recorder, [1, 2])
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0.01)
        with pytest.raises(StoppedError):
            await batcher.submit(5)
        recorder.free.set()
        await stopping
        return [(await task).result for task in [first, *rest]]

    assert run(scenario) == [200, 2, 4]
