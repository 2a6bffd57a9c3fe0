"""MACE models on one structure that moves a little at a time: the hot path of molecular dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from aiida_alpot.worker.potentials.batches import is_out_of_memory
from aiida_alpot.worker.potentials.following import SKIN, PairFollower
from aiida_alpot.worker.potentials.predictions import Predictions

if TYPE_CHECKING:
    from aiida_alpot.worker.potentials.mace import MACECommittee


class MACEFollower(PairFollower):
    """Evaluates the same atoms again and again with a neighbour list that is kept, on the device of the models.

    Pairs beyond the cutoff are cut at each call, so that the models get what they would get of a new list. The energy
    is differentiated by the vectors of the pairs, which gives forces and virial at once:

    .. math:: \\mathbf F_i = \\sum_j \\Big(\\frac{\\partial E}{\\partial \\mathbf r_{ij}}
        - \\frac{\\partial E}{\\partial \\mathbf r_{ji}}\\Big), \\qquad
        W = -\\sum_{ij} \\mathbf r_{ij} \\otimes \\frac{\\partial E}{\\partial \\mathbf r_{ij}}.

    :param committee: MACE models.
    :param skin: what the neighbour list reaches beyond the cutoff, A.
    """

    def __init__(self, committee: MACECommittee, skin: float = SKIN) -> None:
        super().__init__(committee, skin)
        self._mace = committee
        self._searches = -1
        self._numbers: np.ndarray | None = None
        self._atoms: dict[str, torch.Tensor] = {}

    def evaluate(
        self,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        pbc: np.ndarray,
        members: Sequence[int],
        with_virial: Sequence[int] | None = None,
    ) -> Predictions:
        """See :meth:`Follower.evaluate`; the virial costs nothing and is always given."""
        if self._numbers is None or not np.array_equal(numbers, self._numbers):
            self._describe(numbers)
        try:
            graph, vectors = self._graph(*self._list.follow(positions, cell, pbc))
            rows = [self._run(member, graph, vectors) for member in members]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError(
                f'a structure of {len(numbers)} atoms does not fit into the memory ({str(error).splitlines()[-1]}): '
                'take a smaller one, single precision, or a device with more memory'
            ) from None
        energy, forces, virial, atomic = (np.stack(part) for part in zip(*rows, strict=True))
        volume = abs(np.linalg.det(cell)) if np.any(pbc) else 0.0
        return Predictions(
            energy=energy[:, None],
            forces=forces,
            stress=(-virial / volume if volume > 1e-6 else np.full_like(virial, np.nan))[:, None],
            offsets=np.array([0, len(numbers)]),
            virial=virial[:, None],
            atomic_energies=atomic,
            numbers=self._numbers,
        )

    def _describe(self, numbers: np.ndarray) -> None:
        """What depends on the species only."""
        self._mace.check_numbers(numbers)
        self._numbers = np.array(numbers, dtype=np.int32)
        self._atoms = self._mace.describe(self._numbers)

    def _graph(self, positions: np.ndarray, cell: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The input of the models without their head, and the vectors of the pairs that it is differentiated by."""
        device = self._mace.device
        if self._searches != self._list.n_searches:
            self._searches = self._list.n_searches
            self._edges = torch.as_tensor(self._list.edges, dtype=torch.int64, device=device)
            self._shifts = torch.as_tensor(self._list.shifts, dtype=torch.float64, device=device)
        at = torch.as_tensor(np.ascontiguousarray(positions), dtype=torch.float64, device=device)
        periodic = torch.as_tensor(cell, dtype=torch.float64, device=device)
        first, second = self._edges
        vectors = (at.index_select(0, second) - at.index_select(0, first)).addmm_(self._shifts, periodic)
        near = ((vectors * vectors).sum(dim=1) < self._mace.cutoff**2).nonzero()[:, 0]
        vectors = vectors.index_select(0, near).to(self._mace.dtype).requires_grad_(True)
        # The models see atoms at the origin, and the vectors of the pairs as shifts.
        graph = {**self._atoms, 'edge_index': self._edges.index_select(1, near), 'shifts': vectors}
        return graph, vectors

    def _run(
        self, member: int, graph: dict[str, torch.Tensor], vectors: torch.Tensor
    ) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Energy, forces (N, 3), virial (3, 3) and atomic energies (N,) of one member."""
        model, head = self._mace.member(member)
        out = model({**graph, 'head': head}, compute_force=False)
        energy = out['energy'].sum()
        if energy.requires_grad:
            (gradient,) = torch.autograd.grad(energy, [vectors], allow_unused=True, materialize_grads=True)
        else:
            gradient = torch.zeros_like(vectors)
        first, second = graph['edge_index']
        gradient = gradient.double()
        forces = gradient.new_zeros(len(self._atoms['positions']), 3)
        forces.index_add_(0, first, gradient).index_add_(0, second, gradient, alpha=-1.0)
        virial = -(vectors.detach().double().T @ gradient)
        atomic = out['node_energy'].detach().double().cpu().numpy()
        virial = ((virial + virial.T) / 2).cpu().numpy()
        return float(atomic.sum()), forces.cpu().numpy(), virial, atomic
