"""The few system calls that Python does not offer, through ctypes; each raises OSError with the call's name."""

import ctypes
import os

__all__ = ["mount", "pivot_root", "prctl", "set_capabilities", "syscall", "unmount", "unshare"]

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
_NUMBERS = {"x86_64": {"pivot_root": 155, "capset": 126}, "aarch64": {"pivot_root": 41, "capset": 91}}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(name: str, number: int, *args: object) -> int:
    """A system call by number."""
    return _checked(name, _libc.syscall(ctypes.c_long(number), *args))


def prctl(option: int, value: int = 0, third: object = 0) -> int:
    """Change a property of this process."""
    last = ctypes.c_ulong(third) if isinstance(third, int) else third
    return _checked("prctl", _libc.prctl(option, ctypes.c_ulong(value), last, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def unshare(flags: int) -> None:
    """Go into new namespaces."""
    _checked("unshare", _libc.unshare(ctypes.c_int(flags)))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount a file system, or change a mount."""
    words = [os.fsencode(word) if word else None for word in (source, target, kind, data)]
    result = _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _checked(f"mount of {source or target} on {target}", result)


def unmount(target: str, flags: int) -> None:
    """Take a mount away."""
    _checked(f"umount of {target}", _libc.umount2(os.fsencode(target), flags))


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root; the root before is then at ``old``."""
    syscall("pivot_root", _NUMBERS[os.uname().machine]["pivot_root"], os.fsencode(new), os.fsencode(old))


def set_capabilities(keep: int) -> None:
    """Keep only the capabilities of the bit set ``keep`` (of the first 32), here and for every program run later."""
    for number in range(64):
        if not keep >> number & 1 and _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
            break  # no such capability, or no right to change the bounding set
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(keep, keep, 0, 0, 0, 0)
    syscall("capset", _NUMBERS[os.uname().machine]["capset"], header, data)
