"""The playground: seeded tasks, running text, rows in published schemas, and a tiny base model trained on them.

It is the embedded default with which every recipe runs offline on a CPU. It proves wiring, not ability. Importing this
package imports neither torch nor transformers.
"""

from fulgurite.data.playground.generators import DOMAINS, check, documents, tasks
from fulgurite.data.playground.registry import (
    BACKBONES,
    SCHEMAS,
    SPECIALISTS,
    builtin_rows,
    resolve_backbone,
    same_backbone,
)
from fulgurite.data.playground.rows.answers import check_answer
from fulgurite.data.playground.rows.glue import GLUE_COLUMNS, GLUE_LABELS, GLUE_SPLITS, glue_rows
from fulgurite.data.playground.rows.levels import LEVELS, rate
from fulgurite.data.playground.task import Task, conversation

__all__ = [
    "BACKBONES",
    "DOMAINS",
    "GLUE_COLUMNS",
    "GLUE_LABELS",
    "GLUE_SPLITS",
    "LEVELS",
    "SCHEMAS",
    "SPECIALISTS",
    "Task",
    "builtin_rows",
    "check",
    "check_answer",
    "conversation",
    "documents",
    "glue_rows",
    "rate",
    "resolve_backbone",
    "same_backbone",
    "tasks",
]
