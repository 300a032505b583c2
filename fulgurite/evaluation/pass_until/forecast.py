"""What draws until r passes will cost: draws, tokens and time, before the first batch and after it.

Before the first batch nothing is known of the rates; what can be said is the least (each draw passes) and the most (the cap ends
them), and the tokens of that many answers of full length. The first round is the pilot: after it there are draws by the rates so
far, a range that holds the number 19 times in 20, tokens by the answers' mean length and time by the draws per second. An instance
without a pass says nothing of how rare its passes are; the range's upper end takes all of these to the cap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fulgurite.evaluation.pass_until.stopping import ItemDraws, Stop, Until, stop_of

__all__ = ["Forecast", "bounds_told", "forecast_of"]

_REPEATS = 400


@dataclass(frozen=True)
class Forecast:
    """What is still to be drawn.

    Attributes:
        made: draws that are there.
        least: further draws if each of them passes.
        most: further draws if the cap ends them.
        likely: by the rates so far, the middle of the range; None where nothing is drawn.
        low: lower end of its 95 % range.
        high: upper end.
        longest: tokens of an answer at most.
        tokens: of an answer so far, the mean; None where that is not known.
        per_second: draws a second so far; None before the first round of a run.
    """

    made: int
    least: int
    most: int
    likely: float | None
    low: float | None
    high: float | None
    longest: int
    tokens: float | None
    per_second: float | None

    def told(self, name: str, until: Until, items: int) -> str:
        """One line for people; "" where nothing is left to draw.

        Args:
            name: of the task.
            until: when draws end.
            items: how many instances there are.
        """
        if self.most == 0:
            return ""
        of = f"each of {items} items" if until.of == "instance" else f"the task of {items} items"
        lead = (
            f"{name}: until {until.passes} passes of {of}, or {until.cap:,} draws: {_between(self.least, self.most)} "
        )
        lead += "draws" if not self.made else f"further draws than the {self.made:,} that are there"
        if self.likely is None or self.low is None or self.high is None:
            told = f"{lead}, at most {self.most * self.longest:,} tokens of answers"
        else:
            told = f"{lead}; by the rates so far about {self.likely:,.0f} ({_between(self.low, self.high)})"
            if self.tokens is not None:
                told += f", {self.likely * self.tokens:,.0f} tokens of answers"
        if self.per_second is None:
            return f"{told}; the time is told after the first round"
        if self.likely is None or self.low is None or self.high is None:
            return told
        times = [_time(draws / self.per_second) for draws in (self.likely, self.low, self.high, self.most)]
        return f"{told}, {times[0]} ({times[1]} to {times[2]}, at most {times[3]}) at {self.per_second:,.1f} draws a second"


def forecast_of(
    stop: Stop, draws: Mapping[str, ItemDraws], longest: int, new: int = 0, seconds: float = 0.0
) -> Forecast:
    """The forecast from the draws that are there.

    Args:
        stop: the rule.
        draws: of all instances.
        longest: tokens of an answer at most.
        new: draws that this run made.
        seconds: that they took.
    """
    made = sum(each.drawn for each in draws.values())
    least, most = stop.bounds(draws)
    low, likely, high = stop.span(draws, _REPEATS) if made else (None, None, None)
    lengths = [each.tokens for each in draws.values()]
    known = made and all(length is not None for length in lengths)
    tokens = sum(length or 0 for length in lengths) / made if known else None
    return Forecast(made, least, most, likely, low, high, longest, tokens, new / seconds if new and seconds else None)


def bounds_told(name: str, keys: Sequence[str], until: Until, longest: int) -> str:
    """What can be said of a task's cost before anything is drawn, one line.

    Args:
        name: of the task.
        keys: its instances.
        until: when draws end.
        longest: tokens of an answer at most.
    """
    draws = {key: ItemDraws(key) for key in keys}
    return forecast_of(stop_of(until, keys, name, 0), draws, longest).told(name, until, len(draws))


def _between(low: float, high: float) -> str:
    return f"{low:,.0f} to {high:,.0f}"


def _time(seconds: float) -> str:
    """A time for people, such as 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
