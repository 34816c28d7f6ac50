"""Three stages at once: items are prepared and finished in threads while the network runs.

    stages = Stages(segmenter.prepare, segmenter.infer, lambda path, answer: ...)
    with closing(pipelined(paths, stages)) as results:
        for done in results:
            ...

One thread reads the items, one runs the network, a few prepare and finish, and the caller gets
the results in the order of the items. A fixed number of items is under way at any time, so
memory does not grow with the number of items, and a slow caller slows the reader down.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from edgeseg.cpu import cpu_threads
from edgeseg.errors import InputError

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

MAX_WORKERS = 4


@dataclass(frozen=True)
class Stages(Generic[Item, Ready, Answer, Result]):
    """What is done with every item.

    ``prepare`` and ``finish`` run in any thread, several at a time; ``infer`` in one thread only,
    with what was prepared of one or more items, and answers each.
    """

    prepare: Callable[[Item], Ready]
    infer: Callable[[Sequence[Ready]], Sequence[Answer]]
    finish: Callable[[Item, Answer], Result]
    cancel: Callable[[], object] = lambda: None  # called when all is to stop; ends a long ``infer``


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """An item, and its result or why it has none."""

    item: Item
    outcome: Result | InputError


@dataclass(frozen=True)
class _End:
    """Stands behind the last item: nothing follows, because of this error if there is one."""

    error: BaseException | None


def default_workers() -> int:
    """Return how many threads prepare and finish: half the cores, because the network has work."""
    return min(MAX_WORKERS, max(1, cpu_threads() // 2))


def default_depth(batch: int, workers: int) -> int:
    """Return how many items are under way: a batch in the network, one before it, one behind it."""
    return 2 * batch + 2 * workers


def pipelined(
    items: Iterable[Item],
    stages: Stages[Item, Ready, Answer, Result],
    *,
    batch: int = 1,
    workers: int | None = None,
    depth: int | None = None,
) -> Generator[Done[Item, Result], None, None]:
    """Pass items through the stages; closing the iterator stops everything, and waits until it has.

    Args:
        items: read in a thread, one when there is room for it.
        stages: what is done. An InputError of ``prepare`` or ``finish`` is that item's outcome.
        batch: the most items per call of ``infer``; only the last call may get fewer.
        workers: threads that prepare and finish.
        depth: the most items under way, at least ``batch``; see ``default_depth``.

    Yields:
        One ``Done`` per item, in the order of the items.

    Raises:
        Exception: what the items raised, after the results of all items before; what ``infer``
            raised, or a stage, unless it is an InputError, after the results of the items before.
    """
    workers = workers or default_workers()
    work = _Work(stages, batch, workers, depth or default_depth(batch, workers))
    threads = [
        threading.Thread(target=work.read, args=(items,), name="edgeseg-read"),
        threading.Thread(target=work.infer, name="edgeseg-infer"),
    ]
    try:
        for thread in threads:
            thread.start()
        yield from work.results()
    finally:
        work.stop()
        for thread in threads:
            if thread.ident is not None:  # an interrupt may come before the second has started
                thread.join()
        work.pool.shutdown()


class _Work(Generic[Item, Ready, Answer, Result]):
    """The state that the threads of one pipeline share.

    The queues need no bound of their own: ``room`` admits items, so no more than ``depth`` are
    anywhere. Stopping fails what waits (the pool takes no tasks, its waiting ones are cancelled),
    and each thread passes the end on to the next.
    """

    def __init__(
        self,
        stages: Stages[Item, Ready, Answer, Result],
        batch: int,
        workers: int,
        depth: int,
    ) -> None:
        self.stages = stages
        self.batch = batch
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeseg-work")
        self.room = threading.Semaphore(depth)
        self.stopped = False
        self.ready: SimpleQueue[tuple[Item, Future[Ready]] | _End] = SimpleQueue()
        self.finished: SimpleQueue[tuple[Item, Future[Result]] | _End] = SimpleQueue()

    def read(self, items: Iterable[Item]) -> None:
        error = None
        try:
            for item in self._admitted(items):
                self.ready.put((item, self.pool.submit(self.stages.prepare, item)))
        except BaseException as raised:  # whatever it is, the caller gets it
            error = raised
        self.ready.put(_End(error))

    def _admitted(self, items: Iterable[Item]) -> Iterator[Item]:
        iterator = iter(items)
        while self.room.acquire() and not self.stopped:
            try:
                yield next(iterator)
            except StopIteration:
                return

    def infer(self) -> None:
        end = None
        try:
            while end is None:
                group, end = self._next_group()
                self._infer_group(group)
            error = end.error
        except BaseException as raised:
            error = raised
        self.finished.put(_End(error))

    def _next_group(self) -> tuple[list[tuple[Item, Future[Ready]]], _End | None]:
        group: list[tuple[Item, Future[Ready]]] = []
        while len(group) < self.batch:
            handed = self.ready.get()
            if isinstance(handed, _End):
                return group, handed
            group.append(handed)
        return group, None

    def _infer_group(self, group: list[tuple[Item, Future[Ready]]]) -> None:
        good = [future.result() for _, future in group if not _is_bad(future)]
        answers = iter(self.stages.infer(good) if good and not self.stopped else [])
        for item, future in group:
            self.finished.put((item, self._finishing(item, future, answers)))

    def _finishing(
        self, item: Item, future: Future[Ready], answers: Iterator[Answer]
    ) -> Future[Result]:
        if not _is_bad(future):
            return self.pool.submit(self.stages.finish, item, next(answers))
        failed: Future[Result] = Future()
        failed.set_exception(future.exception())
        return failed

    def results(self) -> Iterator[Done[Item, Result]]:
        while not isinstance(handed := self.finished.get(), _End):
            item, future = handed
            error = future.exception()
            yield Done(item, error if isinstance(error, InputError) else future.result())
            self.room.release()
        if handed.error is not None:
            raise handed.error

    def stop(self) -> None:
        self.stopped = True
        self.stages.cancel()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.room.release()


def _is_bad(future: Future[Ready]) -> bool:
    """Whether an item's own picture is at fault, which ends nothing but this item."""
    return isinstance(future.exception(), InputError)
