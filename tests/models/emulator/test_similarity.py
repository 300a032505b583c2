"""Linear CKA against the definition written out, its invariances, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from fulgurite.models.emulator.similarity import cka_matrix, linear_cka


def features(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def by_definition(x: torch.Tensor, y: torch.Tensor, unbiased: bool) -> float:
    """The specification's equations, and Song et al.'s estimator, entry by entry."""
    x, y, n = x.double(), y.double(), len(x)

    def hsic(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        if not unbiased:
            h = torch.eye(n, dtype=torch.double) - torch.ones(n, n, dtype=torch.double) / n
            return ((h @ k @ h) * (h @ m @ h)).sum()
        k, m = k - torch.diag(k.diagonal()), m - torch.diag(m.diagonal())
        return (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()

    k, m = x @ x.T, y @ y.T
    return float(hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt())


@pytest.mark.parametrize("unbiased", [False, True])
def test_equals_its_definition(unbiased: bool) -> None:
    x, y = features(11, 7, 0) + 3, features(11, 5, 1)
    y[:, 0] += x[:, 0]
    assert linear_cka(x, y, unbiased) == pytest.approx(by_definition(x, y, unbiased), abs=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
def test_one_of_itself_and_unchanged_by_rotation_and_scale(unbiased: bool) -> None:
    x, y = features(20, 6, 0), features(20, 6, 1)
    rotation = torch.linalg.qr(features(6, 6, 2).double())[0].float()
    assert linear_cka(x, x, unbiased) == 1.0
    assert linear_cka(x, 1e4 * x @ rotation, unbiased) == pytest.approx(1.0, abs=1e-6)
    assert linear_cka(x @ rotation, y * 1e-6, unbiased) == pytest.approx(linear_cka(x, y, unbiased), abs=1e-5)
    assert linear_cka(x + 5, y, unbiased) == pytest.approx(linear_cka(x, y, unbiased), abs=1e-5)


def test_unrelated_features_look_alike_to_the_biased_estimate_only() -> None:
    pairs = [(features(30, 300, i), features(30, 300, 100 + i)) for i in range(20)]
    biased, unbiased = (sum(linear_cka(x, y, kind) for x, y in pairs) / 20 for kind in (False, True))
    assert biased > 0.85 and abs(unbiased) < 0.02


def test_matrix_is_symmetric_with_ones() -> None:
    found = cka_matrix([features(9, width, width) for width in (4, 5, 6)])
    assert torch.equal(found, found.T) and found.diagonal().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("layers", "unbiased", "words"),
    [
        ([features(1, 3, 0)] * 2, False, "1 examples were given; needed is the same number for each layer, 2 or more"),
        ([features(3, 3, 0)] * 2, True, "4 or more"),
        ([features(3, 3, 0), features(4, 3, 0)], False, "features of 3, 4 examples"),
        ([features(3, 3, 0), torch.full((3, 3), float("nan"))], False, "layer 1 hold NaN or infinity"),
        ([features(3, 3, 0), features(1, 3, 0).expand(3, 3)], False, "layer 1 are the same for all 3 examples"),
    ],
)
def test_refuses(layers: list[torch.Tensor], unbiased: bool, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cka_matrix(layers, unbiased)
