"""The report of a policy: what it remembers, prints and draws; silent for other modules."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from fulgurite.callbacks import PolicyReport


def trainer(tmp_path, step, **metrics):
    return SimpleNamespace(
        global_step=step,
        callback_metrics={name: torch.tensor(value) for name, value in metrics.items()},
        sanity_checking=False,
        num_sanity_val_steps=0,
        state=SimpleNamespace(fn="fit"),
        is_global_zero=True,
        default_root_dir=str(tmp_path),
    )


def trained(tmp_path, report):
    module = SimpleNamespace(shown=[{"prompt": "What is 4 + 5?", "answer": "12", "reward": 0.0}])
    report.on_validation_end(trainer(tmp_path, 0, val_reward=0.1), module)
    for step in range(1, 21):
        metrics = {
            "train_reward": step / 20,
            "train_draw_share": 0.5,
            "train_draw_seconds": 2.0,
            "train_train_seconds": 1.0,
        }
        report.on_train_batch_end(trainer(tmp_path, step, **metrics), module, None, None, step)
    module.shown = [{"prompt": "What is 4 + 5?", "answer": "[9]", "reward": 1.0}]
    report.on_validation_end(trainer(tmp_path, 20, val_reward=0.9), module)


def test_table_answers_and_picture(tmp_path, capsys):
    report = PolicyReport()
    trained(tmp_path, report)
    report.on_fit_end(trainer(tmp_path, 20), None)
    said = capsys.readouterr().out
    assert "first tenth" in said and "0.075" in said and "0.975" in said, "means of two steps each"
    assert "time: 40 s drawing and rewarding, 20 s training" in said
    assert "12" in said and "[9]" in said and "reward in validation" in said
    assert (tmp_path / "policy.png").stat().st_size > 10_000


def test_a_resumed_run_goes_on_and_forgets_what_came_behind_its_checkpoint(tmp_path):
    report = PolicyReport()
    trained(tmp_path, report)
    again = PolicyReport()
    again.load_state_dict(report.state_dict())
    assert again.seen == report.seen and again.before[0]["answer"] == "12"
    again.on_train_start(trainer(tmp_path, 7), None)
    assert [step for step, _ in again.seen["train_reward"]] == list(range(1, 8))


def test_other_modules_are_none_of_its_business(tmp_path, capsys):
    report = PolicyReport()
    report.on_train_batch_end(trainer(tmp_path, 1, train_loss=0.5), None, None, None, 0)
    report.on_validation_end(trainer(tmp_path, 1, val_loss=0.5), SimpleNamespace())
    report.on_fit_end(trainer(tmp_path, 1), None)
    assert report.seen == {} and capsys.readouterr().out == "" and not list(tmp_path.iterdir())
