"""Where a run goes on whose last epoch was closed: cut short by `max_steps`, `max_time` or an early stop, or finished.

Lightning closes the epoch in all these cases. Its counters then say that the epoch was processed, so that a resumed run begins the
next one and the rest of the rows is never seen; whether the epoch was cut short stands in the same counters, in `is_last_batch` of
the last batch. If the resumed run has a `max_steps`, Lightning also takes a finished epoch for an interrupted one, and its next
epoch has one batch. What follows changes the counters to those of a run that was killed at the same place, which Lightning resumes.
"""

from __future__ import annotations

from typing import Any

__all__ = ["resume_closed_epoch"]


def resume_closed_epoch(loops: dict[str, Any], accumulate: int, max_steps: int) -> tuple[int, int] | None:
    """Changes the counters of a fit's checkpoint, in place, so that exactly the batches follow that were not trained on.

    If the run was cut in the middle of an optimizer step, the gradients of its batches are lost with the process; the position
    then goes back to the beginning of that step.

    Args:
        loops: "fit_loop" of a checkpoint's "loops".
        accumulate: batches of one optimizer step of the run that wrote the checkpoint.
        max_steps: optimizer steps of the resumed run; -1 for no limit.

    Returns:
        The epoch that is to go on and how many of its batches were trained on; None where nothing had to be changed.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    done, finished = batches["current"]["processed"], batches["is_last_batch"]
    if (
        not done
        or not epochs["current"]["processed"] == epochs["current"]["ready"] > 0
        or (finished and max_steps == -1)
    ):
        return None
    lost = 0 if finished else done % accumulate
    done = 0 if finished else done - lost
    for count in (epochs["total"], epochs["current"]):
        count["processed"] = count["completed"] = count["ready"] if finished else count["ready"] - 1
    total = batches["total"]["processed"] - lost
    for count, value in ((batches["total"], total), (batches["current"], done)):
        count["ready"] = count["started"] = count["processed"] = value
        count["completed"] = value - 1  # as `on_train_batch_end` saves it
    batches["is_last_batch"] = False
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # Lightning adds it again when it goes on from there
    position = epochs["current"]["processed"], done
    for state in loops["state_dict"].get("combined_loader", []):
        state.update(epoch=position[0], batches=position[1])
    return position
