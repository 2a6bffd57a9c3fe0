"""The papers behind the methods and programs of a campaign: what for, the reference, its DOI or nothing."""

from __future__ import annotations

CITATIONS: tuple[tuple[str, str, str], ...] = (
    (
        'AiiDA.',
        'S. P. Huber et al., AiiDA 1.0, a scalable computational infrastructure for automated reproducible workflows '
        'and data provenance, Sci. Data 7, 300 (2020).',
        '10.1038/s41597-020-00638-4',
    ),
    (
        'Active learning with AiiDA, and the linear calibration of the disagreement of a committee.',
        'D. Bidoggia, N. Manko, M. Peressi, A. Marrazzo, AiiDA-TrainsPot, Digital Discovery (2026).',
        '10.1039/d6dd00005c',
    ),
    (
        'Force deviation of an ensemble as uncertainty.',
        'F. Shuang, Z. Wei, K. Liu, W. Gao, P. Dey, Model accuracy and data heterogeneity shape uncertainty '
        'quantification in machine learning interatomic potentials, Mach. Learn.: Sci. Technol. 7, 025002 (2026).',
        '10.1088/2632-2153/ae3d80',
    ),
    (
        'Query by committee.',
        'H. S. Seung, M. Opper, H. Sompolinsky, Query by committee, COLT 1992, 287.',
        '10.1145/130385.130417',
    ),
    (
        'MACE.',
        'I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner, G. Csányi, MACE: higher order equivariant message passing '
        'neural networks for fast and accurate force fields, Adv. Neural Inf. Process. Syst. 35 '
        '(2022), arXiv:2206.07697.',
        '',
    ),
    (
        'Quantum ESPRESSO.',
        'P. Giannozzi et al., Advanced capabilities for materials modelling with Quantum ESPRESSO, '
        'J. Phys.: Condens. Matter 29, 465901 (2017).',
        '10.1088/1361-648X/aa8f79',
    ),
    (
        'LAMMPS.',
        'A. P. Thompson et al., LAMMPS – a flexible simulation tool for particle-based materials modeling at the '
        'atomic, meso, and continuum scales, Comput. Phys. Commun. 271, 108171 (2022).',
        '10.1016/j.cpc.2021.108171',
    ),
    (
        'ASE.',
        'A. H. Larsen et al., The atomic simulation environment – a Python library for working with atoms, '
        'J. Phys.: Condens. Matter 29, 273002 (2017).',
        '10.1088/1361-648X/aa680e',
    ),
)
