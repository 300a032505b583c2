"""Linear CKA (Kornblith et al., arXiv 1905.00414): how alike two layers describe the same examples.

With one row for each example, K = X Xᵀ and L = Y Yᵀ,

    HSIC(X, Y) = Σ (H K H) ∘ (H L H),  H = I − 1 1ᵀ / n,      CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X) · HSIC(Y, Y)).

This is the biased estimate that CRaSh publishes. With more features than examples it rises towards 1, for unrelated states
too. The unbiased one (Song et al., 2012; used for CKA in arXiv 2010.15327) leaves out each example's similarity to itself: with
the diagonals of K and L set to zero and r the row sums of K, s the sum of all,

    K̃_ij = K_ij − (r_i + r_j) / (n − 2) + s / ((n − 1)(n − 2)) for i ≠ j, and 0 on the diagonal;   HSIC = Σ K̃ ∘ L̃.

Both are 1 for CKA(X, X), and change neither with a rotation of the features nor with a common factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["LEAST_ROWS", "cka_matrix", "linear_cka"]

LEAST_ROWS = {False: 2, True: 4}  # examples that the biased and the unbiased estimate need


def linear_cka(x: torch.Tensor, y: torch.Tensor, unbiased: bool = False) -> float:
    """CKA of two sets of features.

    Args:
        x: features of n examples, (n, H).
        y: of the same examples in the same order, (n, H').
        unbiased: the unbiased estimate in place of the published one.

    Raises:
        ValueError: as :func:`cka_matrix`.
    """
    return float(cka_matrix([x, y], unbiased)[0, 1])


def cka_matrix(features: Sequence[torch.Tensor], unbiased: bool = False) -> torch.Tensor:
    """CKA of each pair, (L, L) float64. L matrices of n² numbers are held meanwhile.

    Args:
        features: of each layer (n, H); the examples are the same, H may differ.
        unbiased: the unbiased estimate in place of the published one.

    Raises:
        ValueError: other numbers of examples, too few of them, NaN or infinity, or examples that are all alike.
    """
    rows = {len(x) for x in features}
    least = LEAST_ROWS[unbiased]
    if len(rows) != 1 or min(rows) < least:
        raise ValueError(
            f"linear_cka: features of {', '.join(map(str, sorted(rows)))} examples were given; needed is the same number for each "
            f"layer, {least} or more; give more examples"
        )
    grams = torch.stack([_centred(x, number, unbiased) for number, x in enumerate(features)])
    products = grams @ grams.T
    own = products.diagonal()
    if bool((own <= 0).any()):
        raise ValueError(
            f"linear_cka: the features of layer {int((own <= 0).nonzero()[0])} are the same for all {min(rows)} examples, so that "
            "nothing can be compared; give examples that differ"
        )
    found = products / (own[:, None] * own).sqrt()
    found.fill_diagonal_(1.0)
    return found


def _centred(x: torch.Tensor, number: int, unbiased: bool) -> torch.Tensor:
    """The centred Gram matrix as a vector (n²,) float64, up to a factor; zeros where the examples are alike."""
    if not bool(x.isfinite().all()):
        raise ValueError(
            f"linear_cka: the features of layer {number} hold NaN or infinity; look at the model's weights, or take another dtype"
        )
    rounding = 8 * torch.finfo(x.dtype).eps * float(x.abs().max())
    # The same as H K H; centring first keeps a large common part of all examples from swallowing their differences.
    x = x.double() - x.double().mean(0)
    spread = float(x.abs().max())
    if spread <= rounding:  # the examples are alike
        return x.new_zeros(len(x) ** 2)
    x = x / spread  # so that no product overflows
    gram = x @ x.T
    return (_u_centred(gram) if unbiased else gram).flatten()


def _u_centred(gram: torch.Tensor) -> torch.Tensor:
    n = len(gram)
    gram = gram - torch.diag(gram.diagonal())
    sums = gram.sum(0)
    gram = gram - (sums[:, None] + sums) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return gram - torch.diag(gram.diagonal())
