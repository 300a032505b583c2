"""The pieces of the campaign, in the order of their value: what each measures, what its result decides, how long it may take.

Benchmarks are those of the suite, on some of their workloads; a new piece is one entry here. Every piece has at toy sizes on
a CPU a form of its own, by which a machine without a GPU shows that it runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gpu.goals import Goal, peak_ratio, ratio, smallest_ratio, speedup, synchronisations
from benchmarks.harness.registry import OURS, PYTORCH

__all__ = ["Piece", "all_pieces"]


@dataclass(frozen=True)
class Piece:
    """One part of the campaign, which runs in a process of its own.

    Attributes:
        name: what ``--only`` takes.
        why: what is measured or shown.
        decides: what hangs on the result.
        command: with the placeholders {python}, {figures} (a JSON file to write) and {scratch} (a folder of its own).
        toy: the same at toy sizes on a CPU.
        seconds: its time-out.
        code: files and folders whose change makes it run again, with all that they import.
        goals: numbers that its figures should reach.
        missing: says what this machine lacks for it, or None.
        figures: whether it writes {figures}.
    """

    name: str
    why: str
    decides: str
    command: tuple[str, ...]
    toy: tuple[str, ...]
    seconds: int
    code: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    missing: Callable[[], str | None] = lambda: None
    figures: bool = True


def all_pieces() -> list[Piece]:
    """Every piece; the first ones decide most per second."""
    pieces = [*_goals(), *_kernel_tests(), *_more_rows(), *_command_line(), _sanitizer()]
    names = [piece.name for piece in pieces]
    if len(set(names)) != len(names):
        raise ValueError(f"benchmarks.gpu: two pieces of one name in {names}; each needs its own")
    return pieces


# Where a benchmark of the suite stands: the register itself would import every one of them, and transformers with them.
_FILES = {
    "deberta_step": "steps", "fusion": "fusion", "gates": "gates", "linear": "linear", "llama_step": "steps",
    "log_probs": "log_probs", "preference_step": "preference", "reward_step": "reward", "sft_step": "sft",
    "sparse_gradient": "sparse", "tree_attention": "attention",
}  # fmt: skip
_HARNESS = ("benchmarks/run.py", "benchmarks/memory.py", "benchmarks/harness")


def _suite(
    name: str,
    benchmark: str,
    seconds: int,
    why: str,
    decides: str,
    only: Sequence[str] = (),
    options: Sequence[str] = (),
    goals: Sequence[Goal] = (),
) -> Piece:
    """Some workloads of a benchmark of the suite."""
    start = ("{python}", "-m", "benchmarks.run", benchmark, "--json", "{figures}")
    chosen = [word for text in only for word in ("--only", text)]
    # The names of a step's workloads hold no sizes: toys have them too.
    toys = chosen if benchmark == "preference_step" else ()
    return Piece(
        name,
        why,
        decides,
        (*start, "--device", "cuda", *chosen, *options),
        (*start, "--device", "cpu", "--toy", "--no-memory", *toys, *(o for o in options if o == "--profile")),
        seconds,
        (f"benchmarks/speed/{_FILES[benchmark]}.py", *_HARNESS),
        tuple(goals),
    )


def _goals() -> list[Piece]:
    """What a goal hangs on."""
    trl, unpacked = "TRL DPOTrainer", "fulgurite, pair by pair"
    tree, first = "UltraInteract", "8192x4096x4096 r16 bf16 gate"
    return [
        _suite(
            "sparse_gradient_1",
            "sparse_gradient",
            30,
            "gradient of 1 % of a 4096² weight, the prepared contenders of the dense way beside it",
            "EARLY and BLOCK in kernels/sparse/triton_picked.py: on if they reach the limit",
            only=(" 1 % bf16",),
            goals=[
                Goal(
                    "1 % sparse gradient, the best way over the whole gradient",
                    smallest_ratio(
                        " 1 % bf16",
                        OURS,
                        "dense",
                        "dense, 256 a program",
                        "dense, early",
                        "dense, early, 256 a program",
                    ),
                    1.02,
                )
            ],
        ),
        _suite(
            "preference_tree",
            "preference_step",
            60,
            "one DPO step on an UltraInteract tree, 1.2 billion parameters, vocabulary 128,256, against TRL and pair by pair",
            "the claim that trees win on a GPU; README's row of preference_step",
            only=(tree,),
            options=("--profile",),
            goals=[
                Goal("DPO on a tree, pairs a second over ours pair by pair", speedup(tree, unpacked), 3.0, True),
                Goal("DPO on a tree, pairs a second over TRL's", speedup(tree, trl), 1.5, True),
                Goal("waits of a DPO step", synchronisations(tree), 1.0),
            ],
        ),
        _suite(
            "sft_1b",
            "sft_step",
            60,
            "packed LoRA step of a Llama of 1.2 billion parameters: tokens/s, TFLOP/s and MFU beside the frozen floor",
            "README's row of supervised fine-tuning; whether waits are left in a step",
            options=("--profile",),
            goals=[
                Goal("SFT step, tokens a second over TRL's packed default", speedup("", "TRL SFTTrainer"), 1.1, True),
                Goal("SFT step, tokens a second over Liger's", speedup("", "Liger"), 1.1, True),
                Goal("SFT step, memory of TRL over ours", peak_ratio("", "TRL SFTTrainer"), 1.0, True),
                Goal("SFT step, memory of Liger over ours", peak_ratio("", "Liger"), 1.0, True),
                Goal("waits of an SFT step", synchronisations(), 1.0),
            ],
        ),
        _suite(
            "linear",
            "linear",
            60,
            "one linear layer with a low-rank branch, forward and backward, with Triton and with PyTorch's kernels",
            "whether gated_lora_linear enters _PROVEN; README's row of linear layers",
            only=(first.removesuffix(" gate"), "8192x4096x14336", "4096x768x768"),
            goals=[
                Goal("linear layer, the better of our ways over frozen", smallest_ratio(first, OURS, PYTORCH), 1.10)
            ],
        ),
        _suite(
            "gate",
            "fusion",
            60,
            "UltraFuser's gate over three specialists, vocabulary 32,000 and 128,256",
            "whether the one-pass kernel has to be tuned further; README's row of the gate",
            only=("bf16, gate trained",),
            goals=[Goal("gate of three specialists over its projections", ratio("32000 bf16, gate trained"), 1.15)],
        ),
    ]  # fmt: skip


def _more_rows() -> list[Piece]:
    """README rows without a goal of their own."""
    waits = "a row of README and docs that waits for a GPU"
    return [
        _suite(
            "preference_answers",
            "preference_step",
            60,
            "one DPO step on four answers to one prompt, all six pairs, vocabulary 128,256",
            waits,
            only=("4 answers",),
        ),
        _suite("reward", "reward_step", 60, "one reward step on four answers, against padded rows and TRL", waits),
        _suite(
            "log_probs",
            "log_probs",
            60,
            "log-probabilities of 8192 tokens at vocabulary 128,256, TRL's ChunkedLogProbFunction beside ours",
            "README's row of log-probabilities, whose TRL figure is that of TRL before 1.14",
            only=("128256 bf16 log-probs", "128256 bf16 loss, head frozen"),
        ),
        _suite(
            "attention",
            "tree_attention",
            45,
            "attention of a tree (flex) against the same paths packed and padded",
            "whether trees win in the attention too or only in the layers around it",
        ),
        _suite("gates", "gates", 30, "optimizer step over the gates of 224 modules", waits),
        _suite("deberta", "deberta_step", 60, "one step of a DeBERTa-v3-base shape, 12 layers", waits),
        _suite(
            "host_time",
            "llama_step",
            60,
            "launches, waits and idle gaps of a step (2 layers, 4096 wide), beside PEFT's",
            "whether the low-rank kernels are worth fewer launches (docs/decisions/kernels.md)",
            only=("llama 2x4096",),
            options=("--profile", "--no-memory"),
        ),
    ]


def _kernel_tests() -> list[Piece]:
    """The kernels' own tests, on the device."""
    groups = {
        "tests_low_rank": ("tests/kernels/low_rank", "tests/kernels/steps"),
        "tests_log_probs": ("tests/kernels/log_probs",),
        "tests_fusion": ("tests/kernels/fusion",),
        "tests_sparse": ("tests/kernels/sparse",),
    }
    pytest = ("{python}", "-m", "pytest", "-q", "-m", "not slow")
    return [
        Piece(
            name,
            f"{' and '.join(folders)} with Triton on the GPU",
            "whether the figures of these kernels may be believed on this torch, Triton and device",
            (*pytest, *folders),
            (*pytest, "tests/kernels/test_first_order.py"),
            60,
            (*folders, "fulgurite/kernels"),
            figures=False,
        )
        for name, folders in groups.items()
    ]


def _command_line() -> list[Piece]:
    """Recipes as users type them."""
    start = ("{python}", "-m", "benchmarks.gpu.recipes", "--json", "{figures}", "--scratch", "{scratch}")
    return [
        Piece(
            f"command_line_{precision.removeprefix('bf16-')}",
            f"fulgurite fit in {precision}: quickstart, SFT and preferences for some steps; where the host waits",
            "whether the recipes run on a GPU as they are written, and which waits are left in a real run",
            (*start, "--precision", precision),
            (*start, "--precision", precision, "--accelerator", "cpu", "--steps", "2", "--only", toy),
            60,
            ("fulgurite", "configs", "benchmarks/gpu/recipes.py"),
        )
        for precision, toy in (("bf16-mixed", "SFT"), ("bf16-true", "preferences"))
    ]


def _sanitizer() -> Piece:
    test = "tests/kernels/steps/test_triton_proximal.py"
    tool = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", "--target-processes", "all")
    run = ("{python}", "-m", "pytest", "-q", "-x", "-m", "not slow", test, "tests/kernels/sparse/test_triton_union.py")
    return Piece(
        "sanitizer",
        "compute-sanitizer's memcheck over two kernels' tests",
        "whether a kernel reads or writes beyond its tensors",
        (*tool, *run),
        ("{python}", "-m", "pytest", "-q", "tests/kernels/test_first_order.py"),
        60,
        (test, "tests/kernels/sparse/test_triton_union.py", "fulgurite/kernels"),
        missing=lambda: None if shutil.which("compute-sanitizer") else "compute-sanitizer is not on the PATH",
        figures=False,
    )
