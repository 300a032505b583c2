"""JavaScript with node. HumanEval-X's tests use ``console.assert``, which only prints: here it throws."""

from .base import Language

__all__ = ["JAVASCRIPT"]

_ASSERT = """
;console.assert = function (condition, ...parts) {
  if (!condition) { const error = new Error(parts.join(' ') || 'assertion failed'); error.name = 'AssertionError'; throw error; }
};
"""


def _tested(program: str, test: str, mark: str) -> dict[str, str]:
    return {"main.js": f"{program}\n{_ASSERT}\n{test}\n;console.log('\\n{mark}');\n"}


JAVASCRIPT = Language(
    name="javascript",
    tools=("node",),
    program=lambda program: {"main.js": program},
    tested=_tested,
    compile=lambda tested: [],
    run=lambda tested: ["node", "--max-old-space-size=512", "main.js"],
    address_space=False,
    processes=32,
)
