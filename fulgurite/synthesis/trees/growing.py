"""Growing preference trees, as UltraInteract has them (Eurus; Yuan et al., arXiv 2404.02078, section 2).

    history = [instruction]
    for turn = 1 … turns:
        right, wrong = an action of the ladder, an action of one of the pool's models
        both: a pair; one: a node without a partner
        no wrong action: the tree ends, else history += [wrong, what its environment shows + critique]

The ladder of right actions: `tries` draws of the actor, of which one right one is kept at random; where none is right, the same of
each stronger model in turn; last the actor with a gold hint (the reference program; a worked solution whose answer is hidden; for
Math_PoT that solution turned into code first). Wrong actions come from one model of the pool, drawn at random for each turn. All
open trees take a rung together, so that a backend gets many prompts at once.

Where we decide what the paper leaves open: a wrong action without a right one is gone on from all the same (the paper's counts of
trajectories exceed its pairs, so its trees did); a wrong action is drawn `wrong_tries` times. One deviation: the answer is hidden
in the solution that becomes code too, for else `print(42)` would be a right action.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Answer, Ask, Desk
from fulgurite.synthesis.problems import Problem, masked
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.trees.environment import Action, Trial, flaw, judge_identity, try_actions
from fulgurite.synthesis.trees.interpreter import blocks, check_interpreter

__all__ = ["STYLES", "WRONG", "Grower", "Node", "Tree", "TreeOptions"]

STYLES = ("steps", "tools")
WRONG = "Your answer is wrong."


@dataclass(frozen=True)
class TreeOptions:
    """How trees grow.

    Args:
        actor: the model of the recipe that draws right actions.
        critic: the model that criticises wrong actions; it sees the gold answer.
        wrong: models of which one draws the wrong actions of a turn.
        ladder: stronger models, asked one after the other where the actor has no right action.
        hints: whether the actor gets gold hints where all others fail.
        turns: of a tree at most.
        tries: draws of each rung of the ladder.
        wrong_tries: draws of wrong actions.
    """

    actor: str
    critic: str
    wrong: list[str]
    ladder: list[str] = field(default_factory=list)
    hints: bool = True
    turns: int = 5
    tries: int = 20
    wrong_tries: int = 4

    def __post_init__(self) -> None:
        for name in ("turns", "tries", "wrong_tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"synthesize: {name}={getattr(self, name)}; give 1 or more")
        if not self.wrong:
            raise ValueError("synthesize: no model draws wrong actions; name at least one with wrong")


@dataclass(frozen=True)
class Node:
    """A turn of a tree.

    Attributes:
        turn: from 1.
        history: what stands before its actions, as the rows have it.
        right: None where none was found.
        wrong: None where none was found.
        rung: who found the right action: "actor", a model's name, or "gold".
    """

    turn: int
    history: tuple[Turn, ...]
    right: Action | None
    wrong: Action | None
    rung: str


@dataclass
class Tree:
    """The tree of a row.

    Attributes:
        row: the row.
        problem: its problem.
        instruction: the first turn, as the rows have it.
        nodes: so far.
        replies: what followed each wrong action: what was shown, that it is wrong, the critique.
        open: whether it takes another turn.
    """

    row: Row
    problem: Problem
    instruction: str
    nodes: list[Node] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    open: bool = True

    def history(self, first: str | None = None) -> tuple[Turn, ...]:
        """What stands before the next actions.

        Args:
            first: in place of the instruction.
        """
        found = [Turn("user", self.instruction if first is None else first)]
        for text, reply in zip(self.earlier, self.replies, strict=True):
            found += [Turn("assistant", text), Turn("user", reply)]
        return tuple(found)

    @property
    def earlier(self) -> tuple[str, ...]:
        """The wrong actions of earlier turns."""
        return tuple(node.wrong.text for node in self.nodes[: len(self.replies)] if node.wrong is not None)


class Grower:
    """Grows all trees of a step.

    Args:
        options: how.
        desk: of the step.
    """

    def __init__(self, options: TreeOptions, desk: Desk) -> None:
        self.options, self.desk = options, desk
        for name in (options.actor, options.critic, *options.wrong, *options.ladder):
            desk.author(name)
        self.rungs: dict[str, int] = {}

    def grow(self, rows: Sequence[Row]) -> list[Tree]:
        """Whole trees, in the order of their rows; rows whose answers are missing wait.

        Args:
            rows: with problems.
        """
        trees = []
        for row in rows:
            if row.problem is None:
                self.desk.drop(row, "nothing to judge by", "the row has neither answer nor tests")
                continue
            fields = {"kind": row.problem.kind, "instruction": row.problem.text}
            trees.append(Tree(row, row.problem, self.desk.prompt("tree_instruction", fields)))
        self.identity = judge_identity([tree.problem for tree in trees], self.desk.how) if self.desk.dry is None else {}
        if self.desk.dry is None:
            self._check(trees)
        trees = self._sound(trees)
        for turn in range(1, self.options.turns + 1):
            growing = [tree for tree in trees if tree.open]
            if not growing:
                break
            lost = self._turn(growing, turn)
            trees = [tree for tree in trees if id(tree) not in lost]
        for tree in trees:  # a last turn of nothing is none
            tree.nodes = [node for node in tree.nodes if node.right is not None or node.wrong is not None]
        return trees

    def _check(self, trees: Sequence[Tree]) -> None:
        """Says what cannot be judged here before anything is asked."""
        for judge in {id(tree.problem.judge): tree.problem.judge for tree in trees}.values():
            judge.check(self.desk.how)
        if any(tree.problem.kind == "Math_PoT" for tree in trees):
            check_interpreter(self.desk.how)

    def _sound(self, trees: list[Tree]) -> list[Tree]:
        """The trees whose gold solution passes; the others are left out and counted. Without a solution nothing can be said."""
        known = [tree for tree in trees if tree.problem.solution]
        if self.desk.dry is not None:
            return trees
        trials = []
        for tree in known:
            gold = (
                f"```python\n{tree.problem.solution}\n```" if tree.problem.kind == "Coding" else tree.problem.solution
            )
            trials.append(Trial(tree.row.key, tree.problem, (), Answer(gold, "stop", {})))
        found = dict(zip(map(id, known), try_actions(trials, self.desk, self.identity), strict=True))
        kept = []
        for tree in trees:
            action = found.get(id(tree))
            if id(tree) in found and action is None:
                self.desk.wait(tree.row, "what judges is broken")
            elif action is not None and not action.correct:
                self.desk.drop(tree.row, "the gold solution fails", action.shown)
            else:
                kept.append(tree)
        return kept

    def _turn(self, trees: list[Tree], turn: int) -> set[int]:
        """One turn of some trees; those that have to wait for answers are returned by their ids."""
        lost: set[int] = set()
        rights = self._rights(trees, turn, lost)
        left = [tree for tree in trees if id(tree) not in lost]
        wrongs = self._wrongs(left, turn, lost)
        criticised = []
        for tree in [tree for tree in left if id(tree) not in lost]:
            (right, rung), wrong = rights.get(id(tree), (None, "")), wrongs.get(id(tree))
            tree.nodes.append(Node(turn, tree.history(), right, wrong, rung))
            tree.open = wrong is not None and turn < self.options.turns
            if right is None:
                self.desk.note(tree.row.key, "a turn without a right action", f"turn {turn}")
            if wrong is None:
                self.desk.note(tree.row.key, "a turn without a wrong action", f"turn {turn}")
            if tree.open:
                criticised.append(tree)
        self._criticise(criticised, turn, lost)
        return lost

    def _rights(self, trees: list[Tree], turn: int, lost: set[int]) -> dict[int, tuple[Action, str]]:
        found: dict[int, tuple[Action, str]] = {}
        rungs = [("actor", self.options.actor), *((name, name) for name in self.options.ladder)]
        for number, (rung, model) in enumerate(rungs):
            part = f"turn {turn}/right/{number} {model}"
            waiting = [tree for tree in trees if id(tree) not in found and id(tree) not in lost]
            self._draw(
                {id(tree): (tree, model, {}) for tree in waiting}, part, self.options.tries, True, rung, found, lost
            )
        waiting = [tree for tree in trees if id(tree) not in found and id(tree) not in lost]
        if self.options.hints and waiting:
            hinted = self._hinted(waiting, turn, lost)
            self._draw(hinted, f"turn {turn}/right/gold", self.options.tries, True, "gold", found, lost)
        return found

    def _wrongs(self, trees: list[Tree], turn: int, lost: set[int]) -> dict[int, Action]:
        found: dict[int, tuple[Action, str]] = {}
        drawn: dict[int, tuple[Tree, str, Mapping[str, object]]] = {
            id(tree): (tree, self._pick(tree, f"turn {turn}/pool", self.options.wrong), {}) for tree in trees
        }
        self._draw(drawn, f"turn {turn}/wrong", self.options.wrong_tries, False, "wrong", found, lost)
        return {place: action for place, (action, _) in found.items()}

    def _draw(
        self,
        wanted: Mapping[int, tuple[Tree, str, Mapping[str, object]]],
        part: str,
        tries: int,
        correct: bool,
        rung: str,
        found: dict[int, tuple[Action, str]],
        lost: set[int],
    ) -> None:
        """Draws actions of trees, and keeps of each one at random among those that are as wanted."""
        asks, owners = [], []
        for tree, model, hint in wanted.values():
            for index in range(tries):
                asks.append(self._action(tree, model, part, index, hint))
                owners.append(tree)
        answers = self.desk.ask(asks, part.partition("/")[2].partition("/")[0] + " actions")
        trials: list[Trial] = []
        for tree, answer in zip(owners, answers, strict=True):
            if answer is None:
                self._lose(tree, lost)
                continue
            why = flaw(tree.problem, answer) if self.desk.dry is None else None
            if why is not None:
                self.desk.note(tree.row.key, f"an action left out: {why}", part)
                continue
            trials.append(Trial(tree.row.key, tree.problem, tree.earlier, answer))
        fitting: dict[str, list[Action]] = {}
        broken = set()
        for trial, action in zip(trials, try_actions(trials, self.desk, self.identity), strict=True):
            if action is None:
                broken.add(trial.row)
            elif action.correct == correct:
                fitting.setdefault(trial.row, []).append(action)
        for place, (tree, _, _) in wanted.items():
            if place in lost:
                continue
            if tree.row.key in broken:
                self._lose(tree, lost, "what judges is broken")
            elif chosen := fitting.get(tree.row.key):
                found[place] = (self._pick(tree, f"{part}/choice", chosen), rung)

    def _action(self, tree: Tree, model: str, part: str, index: int, hint: Mapping[str, object]) -> Ask:
        style = self._pick(tree, f"{part}/style {index}", STYLES)
        fields = {"kind": tree.problem.kind, "instruction": tree.instruction, "style": style, **hint}
        first = self.desk.prompt("tree_action", fields)
        return Ask(tree.row.key, part, model, tree.history(first), index, ("tree_action",))

    def _hinted(
        self, trees: list[Tree], turn: int, lost: set[int]
    ) -> dict[int, tuple[Tree, str, Mapping[str, object]]]:
        """The hint of each tree that has a gold solution."""
        known = [tree for tree in trees if tree.problem.solution]
        found: dict[int, tuple[Tree, str, Mapping[str, object]]] = {}
        translated = [tree for tree in known if tree.problem.kind == "Math_PoT"]
        asks = [
            Ask(
                tree.row.key,
                f"turn {turn}/right/code",
                self.options.actor,
                (Turn("user", self._code(tree)),),
                0,
                ("tree_code",),
            )
            for tree in translated
        ]
        codes = dict(zip(map(id, translated), self.desk.ask(asks, "solutions as code"), strict=True))
        for tree in known:
            problem, answer = tree.problem, codes.get(id(tree))
            if problem.kind == "Coding":
                hint = {"hint": "program", "solution": problem.solution.strip()}
            elif id(tree) in codes:
                if answer is None:
                    self._lose(tree, lost)
                    continue
                hint = {"hint": "code", "solution": "\n".join(blocks(answer.text)).strip() or answer.text.strip()}
            else:
                hint = {"hint": "solution", "solution": masked(problem.solution, problem.target)}
            found[id(tree)] = (tree, self.options.actor, hint)
        return found

    def _code(self, tree: Tree) -> str:
        hidden = masked(tree.problem.solution, tree.problem.target)
        return self.desk.prompt("tree_code", {"instruction": tree.problem.text, "solution": hidden})

    def _criticise(self, trees: list[Tree], turn: int, lost: set[int]) -> None:
        asks = []
        for tree in trees:
            wrong = tree.nodes[-1].wrong
            assert wrong is not None
            fields = {
                "kind": tree.problem.kind,
                "history": "\n\n".join(f"{turn.role}: {turn.content}" for turn in tree.history()),
                "action": wrong.text,
                "shown": wrong.shown,
                "gold": tree.problem.solution if tree.problem.kind == "Coding" else tree.problem.target,
            }
            text = self.desk.prompt("tree_critique", fields)
            part = f"turn {turn}/critique"
            asks.append(Ask(tree.row.key, part, self.options.critic, (Turn("user", text),), 0, ("tree_critique",)))
        for tree, answer in zip(trees, self.desk.ask(asks, "critiques"), strict=True):
            if answer is None:
                self._lose(tree, lost)
                continue
            wrong, critique = tree.nodes[-1].wrong, answer.text.strip()
            if not critique:
                self.desk.note(tree.row.key, "an empty critique", f"turn {turn}: {answer.finish}")
            elif tree.problem.target and masked(critique, tree.problem.target) != critique:
                self.desk.note(tree.row.key, "a critique that tells the answer", f"turn {turn}")
            shown = "" if wrong is None else wrong.shown
            tree.replies.append("\n".join(part for part in (shown, WRONG, critique) if part))
            tree.row = tree.row.having({}, (answer.made,))

    def _lose(self, tree: Tree, lost: set[int], why: str = "") -> None:
        if id(tree) not in lost:
            lost.add(id(tree))
            self.desk.wait(tree.row, why)

    def _pick(self, tree: Tree, what: str, choices: Sequence[Any]) -> Any:
        """One of some at random, the same in every run."""
        # random() alone is the same on every version of Python; choice is not.
        drawn = random.Random(f"{self.desk.seed}|{tree.row.key}|{what}").random()
        return choices[int(drawn * len(choices))]
