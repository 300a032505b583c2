"""What a process gives up before it runs foreign code: rights, its user, resources, system calls.

Each step is a *measure* with a name. ``without`` in the configuration switches measures off: only the tests do that, to
show that each one is needed.
"""

import os
import resource
from typing import Any

from . import landlock, seccomp, system

__all__ = ["confine", "set_limits"]

_RESOURCES = {
    "memory": resource.RLIMIT_AS,
    "cpu": resource.RLIMIT_CPU,
    "file_size": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
    "locked": resource.RLIMIT_MEMLOCK,
    "queues": resource.RLIMIT_MSGQUEUE,
    "priority": resource.RLIMIT_RTPRIO,
}


def set_limits(limits: dict[str, int | None], without: set[str]) -> None:
    """Lower this process's resource limits; None leaves one as it is. CPU time has one second between warning and kill."""
    for name, value in {"core": 0, "locked": 0, "queues": 0, "priority": 0, **limits}.items():
        if value is None or name in without or name not in _RESOURCES:
            continue
        kind = _RESOURCES[name]
        hard = resource.getrlimit(kind)[1]
        most = value + 1 if name == "cpu" else value
        if hard != resource.RLIM_INFINITY:
            value, most = min(value, hard), min(most, hard)
        resource.setrlimit(kind, (value, most))


def _others_of_this_user() -> int:
    """How many threads this user already has: the limit on processes counts them where the user is not the sandbox's
    own.
    """
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    found += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return found


def confine(config: dict[str, Any], limits: dict[str, int | None]) -> None:
    """Make this process a candidate or a judge: nothing that follows can be undone from inside.

    Args:
        config: ``uid`` to become (None: stay), ``own_user`` whether nobody else runs as this user, ``own_processes``
            whether the process space is the sandbox's own, ``without`` measures to leave out.
        limits: resource limits by name.
    """
    without = set(config["without"])
    os.setsid()
    os.umask(0o077)
    if not config["own_user"] and config["uid"] is None and limits.get("processes") is not None:
        limits = {**limits, "processes": (limits["processes"] or 0) + _others_of_this_user()}
    set_limits(limits, without)
    if config["uid"] is not None and "uid" not in without:
        os.setgroups([])
        os.setresgid(config["uid"], config["uid"], config["uid"])
        os.setresuid(config["uid"], config["uid"], config["uid"])
    if "capabilities" not in without:
        system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
        system.set_capabilities(0)
    if config.get("readable") and "landlock" not in without:
        landlock.restrict(config["readable"], config["writable"])
    if "seccomp" not in without and seccomp.available():
        only = None if config["own_processes"] or "signals" in without else os.getpid()
        seccomp.install(only, frozenset(name[6:] for name in without if name.startswith("allow ")))
