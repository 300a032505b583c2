"""The filter of system calls: what no generated program needs and what opens a way out or a store outside the limits.

Refused calls fail with EPERM (``clone3`` with ENOSYS, so that the C library falls back to ``clone``, whose flags can be
looked at): new namespaces, mounts, tracing and reading other processes, sockets of any family, kernel keys, BPF,
io_uring, System V and POSIX queues, memory files. ``socketpair`` and pipes stay. A classic BPF program; x86_64 and
aarch64 are known.
"""

import ctypes
import errno
import os
import struct

from .system import PR_SET_SECCOMP, prctl

__all__ = ["available", "install"]

# name: (number on x86_64, number on aarch64); -1: the architecture has no such call
_REFUSED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "process_madvise": (440, 440), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60), "fanotify_init": (300, 262),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89), "syslog": (103, 116),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "iopl": (172, -1), "ioperm": (173, -1), "modify_ldt": (154, -1),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "socket": (41, 198),
}  # fmt: skip
_SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138)}
_SIGNALS_BY_HANDLE = {"rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424)}
_CLONE, _CLONE3 = (56, 220), 435
_NEW_NAMESPACES = 0x7E020000
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06


def available() -> bool:
    """Whether the filter is known for this machine's architecture."""
    return os.uname().machine in _ARCHITECTURES


def _program(column: int, architecture: int, only_pid: int | None, leave: frozenset[str]) -> bytes:
    """The filter's instructions: (code, jump if true, jump if false, constant), eight bytes each."""
    fail = _ERRNO | errno.EPERM
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, fail),
        (_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 0, 5, _CLONE[column]), (_LOAD, 0, 0, 16), (_AND, 0, 0, _NEW_NAMESPACES),
        (_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, fail),
    ]  # fmt: skip
    for name, numbers in _REFUSED.items():
        if numbers[column] >= 0 and name not in leave:
            lines += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, fail)]
    if only_pid is not None:  # no process space of its own: signals may go to the candidate's own process only
        for numbers in _SIGNALS_BY_HANDLE.values():
            lines += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, fail)]
        for numbers in _SIGNALS.values():
            lines += [
                (_EQUAL, 0, 4, numbers[column]), (_LOAD, 0, 0, 16), (_EQUAL, 0, 1, only_pid), (_RETURN, 0, 0, _ALLOW),
                (_RETURN, 0, 0, fail),
            ]  # fmt: skip
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def install(only_pid: int | None = None, leave: frozenset[str] = frozenset()) -> None:
    """Put this process and all that it starts under the filter, for good. Needs PR_SET_NO_NEW_PRIVS.

    Args:
        only_pid: if given, the only process that signals may be sent to.
        leave: calls that stay allowed.
    """
    architecture, column = _ARCHITECTURES[os.uname().machine]
    code = ctypes.create_string_buffer(_program(column, architecture, only_pid, leave))
    length = (len(code) - 1) // 8
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", length, ctypes.addressof(code)))
    prctl(PR_SET_SECCOMP, 2, header)
