"""The cache's rows hold what a dictionary of rows would hold, whatever joins, leaves and grows."""

import random

import torch

from fulgurite.generation.in_process.row_cache import Prefix, RowCache


def prefix_of(length: int, base: float) -> Prefix:
    """One layer, one head, width one: the token at position p has the key base + p and the value minus that."""
    keys = base + torch.arange(length, dtype=torch.float32).view(1, length, 1)
    return Prefix([(keys, -keys)], torch.zeros(3))


def test_rows_join_leave_and_grow_as_if_each_were_alone() -> None:
    draw = random.Random(1)
    for _ in range(20):
        size, longest = draw.randrange(1, 6), 40
        cache = RowCache(size, longest)
        held: list[tuple[float, int]] = []  # base and length of each row
        for step in range(120):
            while len(held) < size and draw.random() < 0.5:
                length = draw.randrange(1, 20)
                held.append((100.0 * (step + 1) + 1000 * len(held), length))
                cache.join(prefix_of(length, held[-1][0]))
            if not held:
                continue
            mask, positions = cache.prepare(torch.device("cpu"))
            assert positions[:, 0].tolist() == [length for _, length in held] == cache.lengths
            new = torch.tensor([base + length for base, length in held]).view(-1, 1, 1, 1)
            assert cache.cache is not None
            layer = cache.cache.layers[0]
            assert layer.get_seq_length() + 1 == mask.shape[1]
            keys, values = layer.update(new, -new)
            cache.advance()
            held = [(base, length + 1) for base, length in held]
            for row, (base, length) in enumerate(held):
                own = keys[row, 0, :, 0][mask[row].bool()]
                assert own.tolist() == [base + place for place in range(length)]
                assert mask[row].tolist() == [0] * (mask.shape[1] - length) + [1] * length, "padded on the left"
            assert torch.equal(values, -keys) and bool(torch.isfinite(keys).all())
            assert keys.shape[2] == max(length for _, length in held), "no column that nobody uses"
            for row in reversed(range(len(held))):
                if held[row][1] >= longest or draw.random() < 0.08:
                    cache.leave(row)
                    held[row] = held[-1]
                    held.pop()
        assert layer.buffers[0].shape[2] <= longest * 1.25 + 32, "memory does not grow with the steps"
