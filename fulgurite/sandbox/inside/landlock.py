"""Landlock: a process gives up all files but some, without rights and without namespaces. The limits layer's protection
of files.

Linux 5.13 and later. Processes under such a rule cannot trace others or look at their memory either.
"""

import os
import struct

from .system import syscall

__all__ = ["restrict", "version"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _READ_FOLDER, _TRUNCATE, _DEVICE = 1, 2, 4, 8, 1 << 14, 1 << 15
_ALL_BY_VERSION = {1: 2**13 - 1, 2: 2**14 - 1, 3: 2**15 - 1, 4: 2**15 - 1}
_SIGNALS_AND_SOCKETS = 3


def version() -> int:
    """The kernel's version of Landlock; 0 if it has none."""
    try:
        return syscall("landlock_create_ruleset", _CREATE, None, 0, 1)
    except OSError:
        return 0


def restrict(readable: list[str], writable: list[str]) -> None:
    """Leave this process and its children only these files and folders; needs PR_SET_NO_NEW_PRIVS.

    Args:
        readable: may be read and executed.
        writable: may be changed in every way.
    """
    found = version()
    if not found:
        return
    handled = _ALL_BY_VERSION.get(found, 2**16 - 1)
    rules = struct.pack("QQQ", handled, 0, _SIGNALS_AND_SOCKETS if found >= 6 else 0)[: 24 if found >= 6 else 8]
    ruleset = syscall("landlock_create_ruleset", _CREATE, rules, len(rules), 0)
    for paths, rights in ((readable, _EXECUTE | _READ | _READ_FOLDER), (writable, handled)):
        for path in paths:
            if not os.path.exists(path):
                continue
            allowed = rights & handled
            if not os.path.isdir(path):
                allowed &= _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICE
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            syscall("landlock_add_rule", _ADD, ruleset, 1, struct.pack("=Qi", allowed, fd), 0)
            os.close(fd)
    syscall("landlock_restrict_self", _RESTRICT, ruleset, 0)
    os.close(ruleset)
