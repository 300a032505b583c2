"""How much a program may use."""

import math
from dataclasses import dataclass

__all__ = ["Limits"]

_MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits on one run. Sizes are in bytes, times in seconds.

    Args:
        seconds: wall-clock time from the start of the sandbox to the verdict.
        cpu_seconds: processor time of each of the program's processes; None: ``seconds`` rounded up, plus one.
        memory: address space of each process, and the memory that all processes together may hold.
        disk: size of the private /tmp and of /dev/shm; they lie in memory.
        file_size: largest file, which also bounds what may be printed.
        files: how many files, folders and links may exist at a time.
        open_files: open files per process.
        processes: processes and threads at a time.
        output: how many bytes at the end of an output are kept.
        compile_seconds: wall-clock time of a compiler.
    """

    seconds: float = 10.0
    cpu_seconds: int | None = None
    memory: int = 2048 * _MIB
    disk: int = 64 * _MIB
    file_size: int = 16 * _MIB
    files: int = 4096
    open_files: int = 64
    processes: int = 32
    output: int = 64 * 1024
    compile_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Limits: {name} is {value}; it must be above 0 and finite")

    def of_process(self) -> dict[str, int | None]:
        """The limits on one process, by the names that :mod:`.inside.guards.confine` knows."""
        cpu = self.cpu_seconds if self.cpu_seconds is not None else int(self.seconds) + 1
        return {
            "memory": self.memory,
            "total_memory": self.memory,
            "cpu": cpu,
            "file_size": self.file_size,
            "open_files": self.open_files,
            "processes": self.processes,
        }
