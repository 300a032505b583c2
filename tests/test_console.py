"""What is said while a progress bar is drawn stays on the screen, each line a line of its own."""

from __future__ import annotations

import io
import logging
import re
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import rich
from rich.progress import Progress
from rich.table import Table

from fulgurite.console import quiet_lightning, say


class Screen(io.StringIO):
    """As much of a terminal as rich's bars need: carriage return, line up, erase line."""

    def isatty(self):
        return True

    def rows(self):
        lines, row, column = [""], 0, 0
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])", self.getvalue()):
            if part == "\n":
                row, column = row + 1, 0
            elif part == "\r":
                column = 0
            elif part.startswith("\x1b[") and part.endswith("A"):
                row = max(row - int(part[2:-1] or 1), 0)
            elif part == "\x1b[2K":
                lines[row] = ""
            elif part and not part.startswith("\x1b"):
                lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
                column += len(part)
            while row >= len(lines):
                lines.append("")
        return [line.rstrip() for line in lines if line.strip()]


@contextmanager
def terminal():
    """A screen in the place of both streams; not a fixture, because pytest sets the streams anew behind those."""
    made, before = Screen(), dict(rich.get_console().__dict__)
    with redirect_stdout(made), redirect_stderr(made):
        rich.reconfigure(force_terminal=True, width=60, file=made)
        try:
            yield made
        finally:
            rich.get_console().__dict__ = before


def test_tables_and_lines_survive_the_bar():
    table = Table("step", "loss")
    for step in range(5):
        table.add_row(str(step), "0.5")
    with terminal() as screen, Progress(console=rich.get_console(), auto_refresh=False) as bar:
        task = bar.add_task("Epoch 0/0", total=3)
        for _ in range(3):
            bar.advance(task)
            bar.refresh()
        say(table)
        say("picture: runs/a/learning_curve.png")
        bar.refresh()
    rows = screen.rows()
    assert sum("0.5" in row for row in rows) == 5
    assert "picture: runs/a/learning_curve.png" in rows
    assert sum(row.startswith("Epoch") for row in rows) == 1


def test_log_lines_stand_above_the_bar(monkeypatch):
    logger = logging.getLogger("lightning.pytorch")
    # Whatever other tests and libraries have done to it.
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    for name, value in {"disabled": False, "level": logging.INFO, "filters": [], "_cache": {}}.items():
        monkeypatch.setattr(logger, name, value)
    with terminal() as screen:
        monkeypatch.setattr(logger, "handlers", [logging.StreamHandler()])
        quiet_lightning()
        with Progress(console=rich.get_console(), auto_refresh=False) as bar:
            bar.add_task("Epoch 0/0", total=3)
            bar.refresh()
            logger.warning("training 12 of 34 parameters")
            bar.refresh()
    assert "training 12 of 34 parameters" in screen.rows(), (screen.getvalue(), vars(logger))
