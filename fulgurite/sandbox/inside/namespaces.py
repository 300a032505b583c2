"""Own namespaces: what bubblewrap does, for machines without it. A private root, process space, network, hostname and
queues.

As root the processes become another user of the machine afterwards; everybody else gets a user namespace of their own
first. The new root is a memory file system with read-only views of the interpreter and the system's libraries; /tmp and
/dev/shm are the only places to write to, limited in bytes and files, and vanish with the last process.
"""

import os
from typing import Any

from . import system

__all__ = ["enter"]

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _REC, _PRIVATE, _DETACH = 4096, 16384, 1 << 18, 2
_DEVICES = ("null", "zero", "full", "random", "urandom")
_INSIDE = 1000  # the user's number inside a user namespace


def enter(config: dict[str, Any]) -> None:
    """Go into new namespaces and return as their first process; the calling process waits for it and exits.

    Args:
        config: ``binds`` pairs of (outside, inside) paths, ``links`` pairs of (path, target), ``disk`` bytes and
            ``files`` count of /tmp, ``root`` a folder to build the new root on, ``without`` measures to leave out.
    """
    without = set(config["without"])
    flags = {
        "mounts": _NEWNS,
        "process space": _NEWPID,
        "network": _NEWNET,
        "queues space": _NEWIPC,
        "hostname": _NEWUTS,
    }
    wanted = sum(flag for name, flag in flags.items() if name not in without)
    uid, gid = os.getuid(), os.getgid()
    if uid != 0:
        system.unshare(_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{_INSIDE} {uid} 1"), ("gid_map", f"{_INSIDE} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    system.unshare(wanted)
    child = os.fork()
    if child:
        _wait_for(child, config["control"])
    system.prctl(system.PR_SET_PDEATHSIG, 9)
    if "mounts" not in without:
        _build_root(config)
    keep = 1 << 5 | 1 << 6 | 1 << 7 if uid == 0 else 0  # kill, setgid, setuid: the candidate becomes another user
    system.set_capabilities(keep)


def _wait_for(child: int, control: int) -> None:
    os.close(control)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _build_root(config: dict[str, Any]) -> None:
    root = config["root"]
    system.mount("", "/", "", _REC | _PRIVATE)
    system.mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for outside, inside in config["binds"]:
        _bind(outside, root + inside)
    for path, target in config["links"]:
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    for folder in ("/proc", "/dev", "/tmp", "/old"):
        os.makedirs(root + folder, exist_ok=True)
    _devices(root)
    store = "" if "disk" in config["without"] else f",size={config['disk']},nr_inodes={config['files']}"
    system.mount("tmpfs", root + "/dev/shm", "tmpfs", _NOSUID | _NODEV | _NOEXEC, "mode=1777" + store)
    system.mount("", root + "/dev", "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NOEXEC)
    system.mount("tmpfs", root + "/tmp", "tmpfs", _NOSUID | _NODEV, "mode=1777" + store)
    system.pivot_root(root, root + "/old")
    os.chdir("/")
    system.mount(
        "proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC
    )  # allowed only while the machine's own is still in view
    system.unmount("/old", _DETACH)
    os.rmdir("/old")
    system.mount("", "/", "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _bind(outside: str, target: str) -> None:
    """A read-only view of a folder or file."""
    if os.path.isdir(outside):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    system.mount(outside, target, "", _BIND | _REC)
    kept = os.statvfs(target).f_flag & (8 | 1024 | 2048 | 4096)  # flags that a user namespace may not take away
    moved = (kept & 8) | (1024 if kept & 1024 else 0) | (2048 if kept & 2048 else 0) | (1 << 21 if kept & 4096 else 0)
    system.mount("", target, "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV | moved)


def _devices(root: str) -> None:
    system.mount("tmpfs", root + "/dev", "tmpfs", _NOSUID | _NOEXEC, "size=64k,mode=755")
    for name in _DEVICES:
        with open(f"{root}/dev/{name}", "w"):
            pass
        system.mount(f"/dev/{name}", f"{root}/dev/{name}", "", _BIND)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")
    os.makedirs(root + "/dev/shm")
