"""Selection of batches in feature space: which rows of a pool are worth a label together.

Every rule is a function ``rule(pool, k, *, train=None, weights=None, ...)`` of the features of a pool, shape (n, d),
the number of picks, the features of what is known already and a factor for each row; it returns :class:`Picked`. No
kernel or distance matrix of the pool is ever formed, and the result is that of the definition in float64.
"""

from aiida_alpot.worker.acquisition.batch_selection.blocks import Rows
from aiida_alpot.worker.acquisition.batch_selection.cur import cur
from aiida_alpot.worker.acquisition.batch_selection.direct import direct
from aiida_alpot.worker.acquisition.batch_selection.hybrid import hybrid
from aiida_alpot.worker.acquisition.batch_selection.k_center import farthest_point, k_center
from aiida_alpot.worker.acquisition.batch_selection.k_means import k_means
from aiida_alpot.worker.acquisition.batch_selection.lcmd import lcmd
from aiida_alpot.worker.acquisition.batch_selection.picked import Picked
from aiida_alpot.worker.acquisition.batch_selection.posterior_variance import posterior_variance

__all__ = [
    'Picked',
    'Rows',
    'cur',
    'direct',
    'farthest_point',
    'hybrid',
    'k_center',
    'k_means',
    'lcmd',
    'posterior_variance',
]
