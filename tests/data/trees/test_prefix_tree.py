"""Trees of paths: nothing is lost, nothing that can be shared stands twice, and cuts keep every unit whole, exactly once."""

import random
from time import process_time

import numpy as np
import pytest

from fulgurite.data.trees.prefix_tree import Tree, build_tree, cluster, cut


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def grown(generator: random.Random, depth: int) -> list[np.ndarray]:
    """Paths through a random tree of that depth; some end where others go on, some come twice."""
    paths: list[list[int]] = [[generator.randrange(5) for _ in range(generator.randint(1, 4))]]
    for _ in range(depth):
        for base in list(paths):
            for _ in range(generator.randint(0, 2)):
                paths.append(base + [generator.randrange(3) for _ in range(generator.randint(1, 5))])
    generator.shuffle(paths)
    return [ids(*path) for path in paths[:40]]


def path_of(tree: Tree, node: int) -> list[int]:
    pieces: list[list[int]] = []
    while node >= 0:
        pieces.append(tree.pieces[node].tolist())
        node = tree.parents[node]
    return [token for piece in pieces[::-1] for token in piece]


def prefixes(paths: list[np.ndarray]) -> int:
    """Tokens of the smallest tree: the number of different beginnings."""
    return len({tuple(path[: i + 1].tolist()) for path in paths for i in range(len(path))})


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])
def test_random_trees(depth: int) -> None:
    for seed in range(30):
        paths = grown(random.Random(f"{depth}|{seed}"), depth)
        tree = build_tree(paths)
        assert [path_of(tree, node) for node in tree.ends] == [path.tolist() for path in paths]
        assert tree.tokens == prefixes(paths)
        assert all(parent < node for node, parent in enumerate(tree.parents))
        assert all(len(piece) for piece in tree.pieces)
        for node, parent in enumerate(tree.parents):
            before = 0 if parent < 0 else tree.depths[parent] + len(tree.pieces[parent])
            assert tree.depths[node] == before
        # Siblings part at once: otherwise something shared would stand twice.
        siblings = [(parent, int(piece[0])) for parent, piece in zip(tree.parents, tree.pieces, strict=True)]
        assert len(set(siblings)) == len(siblings)


def test_the_longest_branch_follows_its_parent() -> None:
    prompt = [1] * 10
    turns = [ids(*prompt, 5, 5), ids(*prompt, 4, 4), ids(*prompt, 4, 4, 3, 9, 9), ids(*prompt, 4, 4, 3, 8, 8)]
    tree = build_tree(turns)
    assert tree.parents == [-1, 0, 1, 2, 2, 0]
    assert [len(piece) for piece in tree.pieces] == [10, 2, 1, 2, 2, 2]
    assert tree.ends == [5, 1, 3, 4]


def test_paths_with_nothing_in_common_and_equal_paths() -> None:
    tree = build_tree([ids(1, 2), ids(3), ids(1, 2)])
    assert tree.parents == [-1, -1]
    assert tree.ends == [0, 1, 0]
    with pytest.raises(ValueError, match="at least one token"):
        build_tree([ids(1), ids()])


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_cuts_keep_each_unit_once_and_whole(depth: int) -> None:
    for seed in range(40):
        generator = random.Random(f"cut|{depth}|{seed}")
        paths = grown(generator, depth)
        units = [generator.sample(range(len(paths)), min(len(paths), 2)) for _ in range(generator.randint(1, 15))]
        budget = generator.randint(4, 60)
        parts, left_out = cut(paths, units, budget)
        assert sorted([unit for part in parts for unit in part] + left_out) == list(range(len(units)))
        for part in parts:
            assert part == sorted(part)
            assert build_tree([paths[i] for unit in part for i in units[unit]]).tokens <= budget
        for unit in left_out:
            assert prefixes([paths[i] for i in units[unit]]) > budget
        used = [paths[i] for unit in units for i in unit]
        if prefixes(used) <= budget:
            assert len(parts) == 1


def test_a_cut_puts_units_where_they_share_most() -> None:
    prompt = [7] * 20
    answers = [ids(*prompt, answer, *[answer] * 9) for answer in range(4)]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert cut(answers, pairs, 60)[0] == [[0, 1, 2, 3, 4, 5]]
    parts, left_out = cut(answers, pairs, 50)
    assert parts == [[0, 1, 3], [2, 4], [5]]
    assert left_out == []
    assert cut(answers, pairs, 39) == ([], [0, 1, 2, 3, 4, 5])


def test_units_without_a_shared_token_are_not_put_together() -> None:
    assert cut([ids(1, 1), ids(1, 2), ids(2, 1), ids(2, 2)], [(0, 1), (2, 3)], 5)[0] == [[0], [1]]


def test_a_thousand_answers_to_one_prompt_are_cut_in_time() -> None:
    paths = [ids(*[1] * 50, *divmod(i, 100), 5) for i in range(1000)]
    parts, left_out = cut(paths, [(i, (i + 1) % 1000) for i in range(1000)], 200)
    assert not left_out
    assert sum(map(len, parts)) == 1000


def test_pairs_of_far_answers_are_counted_exactly_and_in_time() -> None:
    generator = random.Random(0)
    paths = [ids(*[1] * 20, *(generator.randrange(3) for _ in range(12))) for _ in range(4000)]
    for count in (2, 3, 40, 400):
        unit = generator.sample(range(len(paths)), count)
        tokens = prefixes([paths[i] for i in unit])
        assert cut(paths, [unit], tokens) == ([[0]], []) and cut(paths, [unit], tokens - 1) == ([], [0])
    start = process_time()
    assert not cut(paths, [(2 * i, 2 * i + 1) for i in range(2000)], 2000)[1]
    assert process_time() - start < 5  # ten and more where every neighbour between two answers is looked at


def test_rows_of_a_group_share_a_tree_if_they_begin_with_its_shortest_prompt() -> None:
    first, second = [1, 2, 3] * 10, [1, 2, 4] * 10
    prompts = [
        ids(*first, *[5] * 10),
        ids(*first),
        ids(*second),
        ids(*first),
        ids(*second, 6),
        ids(*first[:-2], *[7] * 20),
    ]
    paths = [[ids(*prompt.tolist(), 8, 8)] for prompt in prompts]
    assert cluster(prompts, paths) == [[1, 3, 0, 5], [2, 4]]
    assert cluster(prompts[:1] + prompts[2:3], paths[:1] + paths[2:3]) == [[1], [0]]
