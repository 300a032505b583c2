"""Our sandbox as a sandbox environment of inspect_ai: a workspace for each sample, under bubblewrap or own namespaces.

Files persist between the commands of a sample and are gone with it; they never lie on this machine. There is no network. Commands
of one sample run one after the other, and what a command leaves running ends with it, so inspect_ai's tools that need a server
inside the sandbox (bash_session, text_editor, web_browser, exec_remote) do not work here; `bash` and `python` do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
)

from fulgurite.sandbox.running import shared
from fulgurite.sandbox.workspaces import Ended, Workspace, WorkspaceGone

__all__ = ["FulguriteSandbox"]

Given = TypeVar("Given")

_LOG = logging.getLogger(__name__)
_LAYER = "strict"  # the strongest layer that isolates; plain limits keep no files apart


class FulguriteSandbox(SandboxEnvironment):
    """A sample's workspace.

    Args:
        workspace: open.
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()
        self.workspace = workspace

    @classmethod
    async def task_init(cls, task_name: str, config: Any) -> None:
        """Finds the layer, once for the process, and says which it is."""
        if config is not None:
            raise ValueError(
                f"fulgurite sandbox: the configuration {config!r} was given; it takes none; write --sandbox fulgurite"
            )
        box = await run_sync(shared, _LAYER)
        _LOG.info("sandbox: %s", box.layer.name)

    @classmethod
    async def sample_init(cls, task_name: str, config: Any, metadata: dict[str, str]) -> dict[str, SandboxEnvironment]:
        """A new workspace. It is made in this thread, with whose end the launcher would end it."""
        box = await run_sync(shared, _LAYER)
        environment = cls(Workspace(box))
        _record(environment.workspace.layer)
        return {"default": environment}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: Any, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        """Closes the sample's workspace."""
        with anyio.CancelScope(shield=True):
            for environment in environments.values():
                await run_sync(environment.as_type(cls).workspace.close)

    @classmethod
    def default_concurrency(cls) -> int | None:
        """As many samples at a time as there are processors, twice; each may hold its memory."""
        import os

        return 2 * len(os.sched_getaffinity(0))

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> Any:
        """As SandboxEnvironment.exec. A command that ran out of time is not run again: nothing on the way to it can get lost."""
        if user is not None:
            raise SandboxUserUnsupportedError(
                f"fulgurite sandbox: user {user!r} was asked for; all commands run as one user without rights; leave it out"
            )
        most = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
        given = input.encode() if isinstance(input, str) else input or b""
        unwanted = threading.Event()
        run = partial(
            self.workspace.run, cmd, given, cwd=cwd or "", env=env, seconds=timeout, most=most, stopped=unwanted.is_set
        )
        try:
            ended: Ended = await _outside(run, abandon=True)
        except anyio.get_cancelled_exc_class():
            unwanted.set()
            raise
        out, err = (text.decode("utf-8", "replace") for text in (ended.out, ended.err))
        if ended.reason == "timeout":
            raise TimeoutError(f"fulgurite sandbox: {cmd[0]} did not end within {timeout} s")
        if ended.cut:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, out or err)
        return ExecResult(ended.code == 0, ended.code, out, err)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """As SandboxEnvironment.write_file."""
        data = contents.encode() if isinstance(contents, str) else contents
        await _outside(partial(self.workspace.write, file, data))

    async def read_file(self, file: str, text: bool = True) -> Any:
        """As SandboxEnvironment.read_file."""
        data = await _outside(partial(self.workspace.read, file, SandboxEnvironmentLimits.MAX_READ_FILE_SIZE))
        if data is None:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return data.decode() if text else data

    def default_polling_interval(self) -> float:
        """Seconds."""
        return 0.2


async def _outside(do: Callable[[], Given], abandon: bool = False) -> Given:
    """In a thread, so that other samples go on."""
    try:
        return await run_sync(do, abandon_on_cancel=abandon)
    except WorkspaceGone as error:
        raise SandboxUnavailableError(str(error)) from error


def _record(layer: str) -> None:
    """The layer goes into the sample's transcript."""
    from inspect_ai.log import transcript

    transcript().info({"sandbox": "fulgurite", "layer": layer, "network": False}, source="fulgurite")
