"""Watching over a role's process from its parent: its end, the memory of all its descendants, its files."""

import os
import resource
import select
import signal
import time
from typing import Any

__all__ = ["end_all", "watch"]

_EVERY = 0.05  # seconds between two looks at memory and files
_PAGE = resource.getpagesize()


def watch(child: int, control: int, config: dict[str, Any]) -> dict[str, Any]:
    """Wait until ``child`` ends, is over a limit, or the control socket closes; its end as a record for the supervisor."""
    handle = os.pidfd_open(child)
    reason = ""
    while True:
        ready, _, _ = select.select([handle, control], [], [], _EVERY)
        if control in ready:  # nothing is ever sent there: the supervisor has closed it
            end_all(config)
            os._exit(0)
        ended = _reap(child)
        if ended is not None:
            break
        reason = reason or _over(config)
        if reason:
            os.kill(child, signal.SIGKILL)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"code": ended, "reason": reason, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * 1024}


def _reap(child: int) -> int | None:
    """Collect every process that has ended; the exit code of ``child`` (minus the signal), if it is among them."""
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)


def _members(config: dict[str, Any]) -> list[int]:
    """All processes of the sandbox except this one."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    me = os.getpid()
    if config["own_processes"]:
        return [pid for pid in pids if pid != me]
    parents: dict[int, int] = {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                parents[pid] = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found, layer = [], {me}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer}
        found += layer
    return found


def _resident(pid: int, name: str = "statm") -> int:
    """Bytes of memory of a process: resident, or its share of them (``smaps_rollup``)."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            if name == "statm":
                return int(file.read().split()[1]) * _PAGE
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:")), 0)
    except (OSError, IndexError, ValueError):
        return 0


def _over(config: dict[str, Any]) -> str:
    """Which of the limits on the whole sandbox is broken; the empty text if none is."""
    most, without = config["limits"].get("total_memory"), config["without"]
    if most and "total_memory" not in without:
        members = _members(config)
        if (
            sum(map(_resident, members)) > most
            and sum(_resident(pid, "smaps_rollup") or _resident(pid) for pid in members) > most
        ):
            return "memory"
    if config["own_root"] and "files" not in without:
        for folder in ("/tmp", "/dev/shm"):
            store = os.statvfs(folder)
            if store.f_files - store.f_ffree > config["files"]:
                return "files"
    return ""


def end_all(config: dict[str, Any]) -> None:
    """Kill what is left. In a process space of its own the kernel does it when this process ends."""
    if "leftovers" in config["without"]:
        return
    deadline = time.monotonic() + 5
    if not config["own_processes"]:
        if config["uid"] is not None and "uid" not in config["without"]:
            _kill_user(config["uid"])
        while (members := _members(config)) and time.monotonic() < deadline:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in members:
                    try:
                        os.kill(pid, number)
                    except OSError:
                        continue
            _reap(0)
            time.sleep(0.002)


def _kill_user(uid: int) -> None:
    """Kill all processes of the sandbox's own user, as that user: no fork can outrun one kill(-1)."""
    helper = os.fork()
    if helper == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(helper, 0)
