"""inspect_ai's own checks of a sandbox environment on ours, and a whole evaluation whose solver runs commands in it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="pip install 'fulgurite[inspect]'")

import anyio
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, accuracy, scorer
from inspect_ai.solver import solver
from inspect_ai.util import OutputLimitExceededError, SandboxUnavailableError, SandboxUserUnsupportedError, sandbox
from inspect_ai.util._sandbox import self_check
from inspect_ai.util._sandbox.limits import override_max_exec_output_size

from fulgurite.evaluation.plugins.inspect_harness.registry import FulguriteSandbox

# The checks are functions that a module takes in, each with the fixture sandbox_env.
globals().update({name: getattr(self_check, name) for name in self_check.__all__})
UNABLE = {
    "test_exec_as_user": "all commands run as one user without rights",
    "test_exec_permission_error": "there is no /etc/passwd in the sandbox, which the check wants to start",
}
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sandbox_env(request: pytest.FixtureRequest) -> AsyncIterator[FulguriteSandbox]:
    name = getattr(request.node, "originalname", "")
    if name in UNABLE:
        request.applymarker(pytest.mark.xfail(reason=UNABLE[name], strict=True))
    await FulguriteSandbox.task_init("check", None)
    made = await FulguriteSandbox.sample_init("check", None, {})
    yield made["default"]
    await FulguriteSandbox.sample_cleanup("check", None, made, False)
    assert made["default"].workspace._box.process.poll() is not None


async def test_a_program_that_is_none(sandbox_env: Any) -> None:
    await sandbox_env.write_file("text", "none")
    with pytest.raises(PermissionError):
        await sandbox_env.exec(["./text"])
    assert (await sandbox_env.exec(["no-such-command"])).returncode == 127


async def test_what_the_tools_bash_and_python_run(sandbox_env: Any) -> None:
    shell = await sandbox_env.exec(["bash", "--login", "-c", "echo $((6 * 7)) | tee kept"])
    assert (shell.stdout, shell.stderr) == ("42\n", "")
    told = await sandbox_env.exec(["bash", "--login", "-c", "python3 -"], input="print(open('kept').read() * 2)")
    assert told.stdout == "42\n42\n\n"


async def test_limits_and_users(sandbox_env: Any) -> None:
    with override_max_exec_output_size(1024), pytest.raises(OutputLimitExceededError) as caught:
        await sandbox_env.exec(["yes"])
    assert caught.value.truncated_output == "y\n" * 512
    with pytest.raises(SandboxUserUnsupportedError, match="'root' was asked for"):
        await sandbox_env.exec(["true"], user="root")
    with pytest.raises(ValueError, match="it takes none"):
        await FulguriteSandbox.task_init("check", "strict")


async def test_a_command_that_is_cancelled_is_ended(sandbox_env: Any) -> None:
    with anyio.move_on_after(0.5):
        await sandbox_env.exec(["sleep", "1000"])
    with anyio.fail_after(5):
        listed = await sandbox_env.exec(["sh", "-c", "ps aux | grep 'sleep 100[0]' | grep -v defunct"])
    assert listed.stdout == ""


async def test_a_workspace_that_was_killed(sandbox_env: Any) -> None:
    with pytest.raises(SandboxUnavailableError, match="its files are gone"):
        await sandbox_env.exec(["python3", "-c", "import os; os.kill(os.getppid(), 9)"])
    with pytest.raises(SandboxUnavailableError):
        await sandbox_env.read_file("x")


async def test_commands_of_one_sample_wait_for_each_other(sandbox_env: Any) -> None:
    async def add() -> None:
        await sandbox_env.exec(["sh", "-c", "n=$(cat n 2>/dev/null || echo 0); sleep 0.05; echo $((n + 1)) > n"])

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(add)
    assert await sandbox_env.read_file("n") == "6\n"


@solver
def worker() -> Any:
    async def solve(state: Any, generate: Any) -> Any:
        box = sandbox()
        given = await box.read_file("given.txt")
        before = await box.exec(["ls", "-A"])
        await box.write_file("out.py", f"import os\nprint({given!r} * 2)\nopen('left', 'w').write(os.getcwd())")
        told = await box.exec(["python3", "out.py"], timeout=20)
        state.output.completion = told.stdout + before.stdout + await box.read_file("left")
        return state

    return solve


@scorer(metrics=[accuracy()])
def same() -> Any:
    async def score(state: Any, target: Any) -> Score:
        return Score(value=float(state.output.completion == target.text), answer=state.output.completion)

    return score


def test_an_evaluation_with_the_sandbox(tmp_path: Path) -> None:
    samples = [
        Sample(input="x", target=f"{word}{word}\ngiven.txt\n/tmp", files={"given.txt": word}) for word in ("ab", "c")
    ]
    task = Task(samples, solver=worker(), scorer=same(), sandbox="fulgurite")
    log = eval(task, model="mockllm/model", log_dir=str(tmp_path), display="none")[0]
    assert log.status == "success", log.error
    assert log.results.scores[0].metrics["accuracy"].value == 1.0, [sample.scores for sample in log.samples]
    told = [event.data for event in log.samples[0].events if event.event == "info" and event.source == "fulgurite"]
    assert told[0]["layer"] in ("bubblewrap", "namespaces") and told[0]["network"] is False
