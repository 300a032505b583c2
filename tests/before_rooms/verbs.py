"""What generate, score, thresholds, control and predict left."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.before_rooms.comparing import Values, cache_in, chdir, differences, quiet, rounded


def generated(folder: Path) -> Values:
    """`fulgurite generate --file` over its own output: 0 where the rows were taken over, 1 where they are called foreign."""
    from fulgurite.cli import main

    found: Values = {}
    words = ["generate", "--file", "rows/prompts.jsonl", "--max_new_tokens", "8"]
    for name, model in (("base", "playground"), ("sft", "runs/sft/checkpoints/last.ckpt")):
        file = folder / "outputs" / f"generated_{name}.jsonl"
        before = file.read_text(encoding="utf-8")
        with chdir(folder), quiet():
            code = main([*words, "--model", model, "--output", f"outputs/generated_{name}.jsonl"])
            fresh = main([*words, "--model", model, "--output", f"outputs/fresh_{name}.jsonl"])
        again = folder / "outputs" / f"fresh_{name}.jsonl"
        written = [json.loads(line) for line in again.read_text(encoding="utf-8").splitlines()] if fresh == 0 else []
        kept = [json.loads(line) for line in before.splitlines()]
        found[name] = {
            "exit": code,
            "unchanged": file.read_text(encoding="utf-8") == before,
            "same texts when written anew": [row["completion"] for row in kept]
            == [row["completion"] for row in written],
        }
    return found


def scored(folder: Path) -> Values:
    """`fulgurite score` over its own output, and anew."""
    from fulgurite.cli import main

    words = ["score", "--model", "runs/reward/checkpoints/last.ckpt", "--file", "rows/answers.jsonl"]
    file = folder / "outputs" / "scored.jsonl"
    before = file.read_text(encoding="utf-8")
    with chdir(folder), quiet():
        code = main([*words, "--output", "outputs/scored.jsonl"])
        fresh = main([*words, "--output", "outputs/fresh_scored.jsonl"])
        plain = main(
            [
                "score",
                "--model",
                "exports/reward_classifier",
                "--file",
                "rows/answers.jsonl",
                "--output",
                "outputs/plain.jsonl",
            ]
        )
    assert fresh == 0 and plain == 0, (fresh, plain)

    def rewards(name: str) -> list[list[float]]:
        rows = [json.loads(line) for line in (folder / "outputs" / name).read_text(encoding="utf-8").splitlines()]
        return [[round(row["reward_chosen"], 5), round(row["reward_rejected"], 5)] for row in rows]

    same = file.read_text(encoding="utf-8") == before
    return {
        "exit": code,
        "unchanged": same,
        "rewards": rewards("fresh_scored.jsonl"),
        "of the export": rewards("plain.jsonl"),
    }


THRESHOLDS = (
    "thresholds --out outputs/thresholds --task sst2 --path rows/SST-2 --task_type classification --budgets [4,64] --seeds [0] "
    "--max_steps 2 --batch_size 4 --max_length 32 --limit_train 8 --limit_eval 8 --workers 1"
)


def thresholds(folder: Path) -> Values:
    """`fulgurite thresholds` in the folder of a finished sweep: its runs are read, not run again."""
    from fulgurite.cli import main

    place = folder / "outputs" / "thresholds"
    before = {file.name: file.read_bytes() for file in sorted((place / "runs").iterdir())}
    times = {file.name: file.stat().st_mtime_ns for file in (place / "runs").iterdir()}
    with chdir(folder), quiet():
        code = main(THRESHOLDS.split())
    assert {file.name: file.read_bytes() for file in sorted((place / "runs").iterdir())} == before
    again = [file.name for file in (place / "runs").iterdir() if file.stat().st_mtime_ns != times[file.name]]
    return {"exit": code, "run again": again, "result": rounded(json.loads((place / "thresholds.json").read_text()))}


CONTROL = "control --model runs/cpo_cpsft/checkpoints/last.ckpt --count 1 --two_at_once false --max_new_tokens 6"


def control(folder: Path) -> Values:
    """`fulgurite control` anew: the same figures as in the file that lies there."""
    from fulgurite.cli import main

    with chdir(folder), quiet():
        code = main([*CONTROL.split(), "--out", "outputs/fresh_control"])
    kept = json.loads((folder / "outputs" / "control" / "control.json").read_text(encoding="utf-8"))
    new = json.loads((folder / "outputs" / "fresh_control" / "control.json").read_text(encoding="utf-8"))
    return {"exit": code, "differences": differences(new, kept), "keys": sorted(kept)}


def predicted(folder: Path) -> Values:
    """`fulgurite predict` anew: the same lines as in the file that lies there."""
    from fulgurite.cli import main

    with chdir(folder), tempfile.TemporaryDirectory() as root, cache_in(root), quiet():
        words = [
            "predict",
            "--config",
            "runs/sora_tiny/config.yaml",
            "--ckpt_path",
            "runs/sora_tiny/checkpoints/last.ckpt",
        ]
        words += ["--data.path", "rows/SST-2"]
        code = main([*words, "--trainer.default_root_dir", root])
        new = [json.loads(line) for line in (Path(root) / "predictions.jsonl").read_text().splitlines()]
    kept = [json.loads(line) for line in (folder / "outputs" / "predictions.jsonl").read_text().splitlines()]
    return {"exit": code, "rows": len(kept), "differences": differences(new, kept)[:5]}
