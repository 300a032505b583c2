"""Many programs on several workers. Timeouts are run once more, one after the other, so that a busy machine does not
cost a pass.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from .limits import Limits
from .results import Result
from .running import Sandbox, shared

__all__ = ["Job", "run_many"]

_DEFAULT = Limits()


@dataclass(frozen=True)
class Job:
    """One program and what it is tested with: a test, or cases of input and expected output.

    Args:
        program: the program's source.
        test: the test's source, or asserts; see :meth:`.running.Sandbox.run_tests`.
        entry_point: name of the function under test.
        helpers: trusted source that the test needs.
        setup: source that is run in the program's process before it.
        language: the program's language.
        limits: what the program may use.
        cases: pairs of input and expected output, in place of a test.
    """

    program: str
    test: str | tuple[str, ...] = ""
    entry_point: str | None = None
    helpers: str = ""
    setup: str = ""
    language: str = "python"
    limits: Limits = _DEFAULT
    cases: tuple[tuple[str, str], ...] = ()

    def run(self, sandbox: Sandbox) -> Result:
        """The job's result."""
        if self.cases:
            return sandbox.run_cases(self.program, self.cases, language=self.language, limits=self.limits)
        return sandbox.run_tests(
            self.program,
            self.test,
            self.entry_point,
            helpers=self.helpers,
            setup=self.setup,
            language=self.language,
            limits=self.limits,
        )


def run_many(
    jobs: Iterable[Job],
    workers: int | None = None,
    sandbox: Sandbox | None = None,
    done: Callable[[int, Result], None] | None = None,
    retry: bool = True,
) -> list[Result]:
    """Run jobs side by side.

    Args:
        jobs: the jobs.
        workers: how many run at a time; None: as many as there are processors.
        sandbox: where; None: the process's shared one.
        done: called in this thread with the number and the result of each job as soon as it is final.
        retry: run those that timed out once more at the end, alone.

    Returns:
        The results in the order of the jobs.
    """
    box = sandbox or shared()
    todo = list(jobs)
    results: list[Result | None] = [None] * len(todo)
    late = []
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        futures: dict[Future[Result], int] = {pool.submit(job.run, box): number for number, job in enumerate(todo)}
        try:
            for future in as_completed(futures):
                number, result = futures[future], future.result()
                results[number] = result
                if retry and result.status == "timeout":
                    late.append(number)
                elif done is not None:
                    done(number, result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for number in sorted(late):
        result = results[number] = replace(todo[number].run(box), retried=True)
        if done is not None:
            done(number, result)
    return [result for result in results if result is not None]
