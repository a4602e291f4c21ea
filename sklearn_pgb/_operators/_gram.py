"""Gram matrices of dense columns, at half the cost of a general product."""

import numpy as np
from scipy.linalg.blas import get_blas_funcs
from torch import Tensor

from sklearn_pgb._budget import MIRROR_ROWS
from sklearn_pgb._operators._blocks import row_slices


def gram(A: Tensor) -> Tensor:
    """``A^T A`` of shape (n_columns, n_columns)."""
    total = A.new_zeros(A.shape[1], A.shape[1])
    add_gram(A, total)
    return mirrored(total)


def add_gram(A: Tensor, total: Tensor) -> None:
    """Add the lower triangle of ``A^T A`` to a matrix, in place.

    PyTorch has no product that knows its result is symmetric. On two busy cores, BLAS'
    own takes a third of the time for 9,000 x 1,500 and 50,000 x 1,291 numbers.

    Parameters
    ----------
    A : Tensor (n_rows, n_columns)
    total : Tensor (n_columns, n_columns)
        Contiguous.
    """
    if A.device.type != "cpu" or not A.numel():
        total.addmm_(A.T, A)
        return
    columns, target = A.contiguous().numpy().T, total.numpy().T
    (syrk,) = get_blas_funcs(("syrk",), (target,))
    # BLAS stores columns: the upper triangle of the transposed matrix is written, and
    # nothing is copied.
    result = syrk(1.0, columns, beta=1.0, c=target, overwrite_c=True)
    assert np.shares_memory(result, target)


def mirrored(total: Tensor) -> Tensor:
    """Copy the lower triangle of a matrix to the upper one, in place."""
    for rows in row_slices(len(total), MIRROR_ROWS):
        block = total[rows, rows]
        block.copy_(block.tril() + block.tril(-1).T)
        total[rows, rows.stop :] = total[rows.stop :, rows].T
    return total
