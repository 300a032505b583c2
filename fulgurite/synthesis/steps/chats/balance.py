"""balance: dialogues of text, code and maths in the published balance, as tables text, code and maths in UltraChat's schema.

UltraChat 2 has 100,000 dialogues of text, 100,000 of code and 110,000 of maths. As many of each are kept as the scarcest domain
allows, drawn at random by the seed: of a domain with share s ⌊s · min(c/s)⌋, the minimum over all domains with their c rows. So a
domain without rows leaves nothing of the others; a recipe of fewer domains says so in `shares`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.ledger import TableRows
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register
from fulgurite.synthesis.steps.chats.domains import check_domains, with_domain

__all__: list[str] = []


@dataclass(frozen=True)
class BalanceOptions:
    """How much of each domain is kept.

    Args:
        shares: of each domain, in any unit.
        most: rows of all domains together at most; none takes what the scarcest domain allows.
        column: of the dialogue, a list of texts.
    """

    shares: dict[str, float] = field(default_factory=lambda: {"text": 100_000.0, "code": 100_000.0, "maths": 110_000.0})
    most: int | None = None
    column: str = "data"

    def __post_init__(self) -> None:
        check_domains(dict(self.shares), "shares of balance")
        if min(self.shares.values()) <= 0 or (self.most is not None and self.most < len(self.shares)):
            raise ValueError(
                f"synthesize: balance has shares={self.shares}, most={self.most}; give shares above 0, and at least as many "
                "rows as domains"
            )


def _run(options: BalanceOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    if desk.dry is not None:
        return list(rows)
    by_domain: dict[str, list[Row]] = {name: [] for name in options.shares}
    for row, domain in with_domain(list(rows), desk):
        if not isinstance(row.data.get(options.column), list):
            raise ValueError(
                f"synthesize: step {desk.step}: row {row.key} has no dialogue in {options.column!r}; a step simulate makes it"
            )
        if domain in by_domain:
            by_domain[domain].append(row)
        else:
            desk.drop(row, "a domain without a share", domain)
    scale = min(len(by_domain[name]) / share for name, share in options.shares.items())
    if options.most is not None:
        scale = min(scale, options.most / sum(options.shares.values()))
    chosen: set[str] = set()
    for name, share in options.shares.items():
        keyed = sorted(
            (random.Random(f"{desk.seed}|{desk.step}|{row.key}").random(), row.key) for row in by_domain[name]
        )
        wanted = int(scale * share + 1e-9)
        chosen |= {key for _, key in keyed[:wanted]}
        desk.count.figures[name] = {"came": len(keyed), "kept": wanted}
    empty = [name for name, there in by_domain.items() if not there]
    why = f"no rows of {', '.join(empty)} to balance with" if empty else "more than the balance takes"
    tables = {name: TableRows() for name in options.shares}
    for name, there in by_domain.items():
        for row in there:
            if row.key in chosen:
                own = hashlib.sha256(row.key.encode()).hexdigest()[:16]
                tables[name].add({"id": f"{name}_{own}", "data": row.data[options.column]}, row.key, row.made)
            else:
                desk.drop(row, why, name)
    desk.ledger.tables |= tables
    return [row for row in rows if row.key in chosen]


register(Step("balance", "dialogues in the published balance of domains, in UltraChat's schema", BalanceOptions, _run))
