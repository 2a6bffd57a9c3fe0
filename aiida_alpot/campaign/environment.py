"""What a campaign needs around it: a profile, a computer, the codes and a pseudopotential family.

:func:`setup_environment` makes what is missing on this machine and reuses what is there. It is for one workstation and
for trying things out; on a cluster the same objects are made with ``verdi`` for the cluster's own computer.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from aiida.manage.configuration.config import Config
    from aiida.orm import Computer, InstalledCode
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

DEFAULT_PROFILE = 'alpot'
COMPUTER_LABEL = 'localhost'
DEFAULT_PSEUDO_DIRECTORY = Path('/usr/share/espresso/pseudo')
PSEUDOPOTENTIALS = Path(__file__).with_name('pseudopotentials.yaml')

#: Label of each code, with the calculation that it runs and the program that it is.
CODES: Mapping[str, tuple[str, str]] = {
    'pw': ('quantumespresso.pw', 'pw.x'),
    'alpot-train': ('alpot.train', 'alpot-train'),
    'alpot-md': ('alpot.md', 'alpot-md'),
    'alpot-evaluate': ('alpot.evaluate', 'alpot-evaluate'),
    'alpot-explore': ('alpot.explore', 'alpot-explore'),
}


@dataclass
class Environment:
    """What :func:`setup_environment` made or found.

    :param profile: name of the profile, which is the loaded one.
    :param config_directory: the AiiDA configuration folder that holds it.
    :param computer: label of the computer.
    :param codes: full label (``code@computer``) of each code, by the keys of :data:`CODES`.
    :param pseudo_family: label of the pseudopotential family.
    :param elements: symbols of the elements in that family.
    :param created: what did not exist before, in words.
    :param reused: what was there already, in words.
    """

    profile: str
    config_directory: Path
    computer: str = COMPUTER_LABEL
    codes: dict[str, str] = field(default_factory=dict)
    pseudo_family: str = ''
    elements: tuple[str, ...] = ()
    created: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)

    def note(self, what: str, created: bool) -> None:
        """Keep one line for the person who asked for the environment."""
        (self.created if created else self.reused).append(what)


def setup_environment(
    *,
    profile: str = DEFAULT_PROFILE,
    pw_executable: str | Path | None = None,
    pseudo_directory: str | Path = DEFAULT_PSEUDO_DIRECTORY,
    threads: int = 1,
    broker: bool = True,
) -> Environment:
    """Make what a campaign needs in the AiiDA configuration folder in force, load the profile and say what there is.

    Nothing that exists is changed: a profile, computer, code or family of the expected label is used as it is. The
    programs and files that are needed are looked for before anything is made.

    :param profile: name of the profile; made when there is none of that name. A profile that exists only gets what it
        lacks, and its options stay as they are.
    :param pw_executable: the ``pw.x`` to use; by default the one on the PATH.
    :param pseudo_directory: folder with the UPF files of Debian's package ``quantum-espresso-data``.
    :param threads: OpenMP threads of each job. One is right where several jobs run side by side.
    :param broker: whether a new profile gets a ZeroMQ broker, which needs no server and allows a daemon; without it,
        processes only run in the foreground.
    :raises ValueError: a program or the pseudopotentials are missing, or an existing code cannot be used.
    """
    if threads < 1:
        raise ValueError(f'threads: found {threads}; give at least 1.')
    given = {} if pw_executable is None else {'pw': pw_executable}
    executables = find_executables(given)
    pseudopotentials = find_pseudopotentials(Path(pseudo_directory))
    environment = prepare_profile(profile, broker=broker)
    populate_profile(environment, executables, pseudopotentials, explicit=set(given), threads=threads)
    return environment


def find_executables(given: Mapping[str, str | Path] | None = None) -> dict[str, Path]:
    """Absolute path of the program of each code.

    The programs of Python packages are taken from the environment that runs this; others from the PATH.

    :param given: paths or names to use instead, by the keys of :data:`CODES`.
    :raises ValueError: a program is missing; all that are missing are named.
    """
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)])
    wanted = {label: str((given or {}).get(label, program)) for label, (_, program) in CODES.items()}
    found = {label: shutil.which(program, path=search) for label, program in wanted.items()}
    missing = [wanted[label] for label, path in found.items() if path is None]
    if missing:
        raise ValueError(
            f'Programs are missing: {", ".join(missing)}. Install Quantum ESPRESSO (Debian: quantum-espresso) for '
            'pw.x, or name it with --pw-executable; the others come with `pip install "aiida-alpot[mace]"`.'
        )
    return {label: Path(path).absolute() for label, path in found.items() if path is not None}


def find_pseudopotentials(directory: Path) -> dict[str, dict[str, Any]]:
    """The entries of ``pseudopotentials.yaml`` whose file lies in a folder, with ``path`` added.

    :raises ValueError: there is none.
    """
    entries = yaml.safe_load(PSEUDOPOTENTIALS.read_text())['elements']
    found = {
        symbol: {**entry, 'path': directory / entry['file']}
        for symbol, entry in entries.items()
        if (directory / entry['file']).is_file()
    }
    if not found:
        raise ValueError(
            f'{directory} holds none of the pseudopotentials that are expected there, {entries["Si"]["file"]} for one. '
            'Install them (Debian: quantum-espresso-data), or name their folder with --pseudo-directory.'
        )
    return found


def prepare_profile(name: str = DEFAULT_PROFILE, *, broker: bool = True) -> Environment:
    """Load a profile, after making it in the AiiDA configuration folder in force where there is none of that name.

    A new profile keeps its data in SQLite and files, and has a ZeroMQ broker or none: it needs no server and does not
    look for one.
    """
    from aiida.manage.configuration import create_profile, get_config, load_profile
    from aiida.plugins import BrokerFactory

    config = get_config(create=True)
    environment = Environment(profile=name, config_directory=Path(config.dirpath))
    created = name not in config.profile_names
    if created:
        create_profile(
            config,
            name=name,
            email='aiida@localhost',
            storage_backend='core.sqlite_dos',
            storage_config={},
            broker_backend='core.zeromq' if broker else None,
            broker_config=BrokerFactory('core.zeromq').get_default_config() if broker else None,
        )
        _set_profile_options(config, name)
    load_profile(name, allow_switch=True)
    environment.note(f'profile {name} in {config.dirpath}', created)
    return environment


def _set_profile_options(config: Config, name: str) -> None:
    # Jobs of a demonstration take seconds: looking at them once a minute, the default, would be most of the time.
    config.set_option('runner.poll.interval', 1, scope=name)
    # A label that is in the database already is not bought again.
    config.set_option('caching.enabled_for', ['aiida.calculations:quantumespresso.pw'], scope=name)
    # The profile that commands use without --profile stays the user's, where there is one.
    if config.default_profile_name is None:
        config.set_default_profile(name)
    config.store()


def populate_profile(
    environment: Environment,
    executables: Mapping[str, Path],
    pseudopotentials: Mapping[str, Mapping[str, Any]],
    *,
    explicit: set[str] | frozenset[str] = frozenset(),
    threads: int = 1,
) -> None:
    """Make the computer, the codes and the family that the loaded profile lacks, and record them.

    :param executables: path of each program, by the keys of :data:`CODES`.
    :param pseudopotentials: what :func:`find_pseudopotentials` gives.
    :param explicit: keys of the codes whose program was asked for by name, so that another one will not do.
    """
    computer = _computer(environment)
    for label, path in executables.items():
        code = _code(environment, computer, label, path, threads, label in explicit)
        environment.codes[label] = code.full_label
    _pseudo_family(environment, pseudopotentials)


def _computer(environment: Environment) -> Computer:
    from aiida import orm

    work = environment.config_directory / 'work' / environment.profile
    created, computer = orm.Computer.collection.get_or_create(
        COMPUTER_LABEL,
        hostname='localhost',
        description='This machine, without a queue.',
        transport_type='core.local',
        scheduler_type='core.direct',
        workdir=str(work),
    )
    if created:
        computer.store()
        computer.set_minimum_job_poll_interval(0.5)
        computer.set_default_mpiprocs_per_machine(1)
    if not computer.is_configured:
        computer.configure(safe_interval=0)
    environment.note(f'computer {computer.label}, which works in {computer.get_workdir()}', created)
    return computer


def _code(
    environment: Environment, computer: Computer, label: str, path: Path, threads: int, explicit: bool
) -> InstalledCode:
    from aiida import orm
    from aiida.common import NotExistent

    try:
        code = orm.load_code(f'{label}@{computer.label}')
    except NotExistent:
        code = orm.InstalledCode(
            label=label,
            description=f'{path.name} of this machine, in one process',
            computer=computer,
            filepath_executable=str(path),
            default_calc_job_plugin=CODES[label][0],
            prepend_text=f'export OMP_NUM_THREADS={threads}',
            with_mpi=False,
        ).store()
        environment.note(f'code {code.full_label}: {path}', created=True)
        return code
    _check_code(code, path, explicit)
    environment.note(f'code {code.full_label}: {code.filepath_executable}', created=False)
    return code


def _check_code(code: InstalledCode, path: Path, explicit: bool) -> None:
    # A stored code cannot be changed. Another program than the default is a person's choice, and stays.
    present = Path(str(code.filepath_executable))
    if present == path or (present.is_file() and not explicit):
        return
    reason = 'which is not there any more' if not present.is_file() else f'and {path} was asked for'
    raise ValueError(
        f'The code {code.full_label} of this profile runs {present}, {reason}. Give that code another label, '
        f'`verdi code relabel {code.full_label} {code.label}-old`, and run this again.'
    )


def _pseudo_family(environment: Environment, pseudopotentials: Mapping[str, Mapping[str, Any]]) -> None:
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

    settings = yaml.safe_load(PSEUDOPOTENTIALS.read_text())
    label, stringency = settings['label'], settings['stringency']
    found = CutoffsPseudoPotentialFamily.collection.find(filters={'label': label})
    family = found[0] if found else _create_family(label, [entry['path'] for entry in pseudopotentials.values()])
    environment.note(f'pseudopotential family {label}: {", ".join(sorted(family.elements))}', created=not found)
    # Also where an earlier set-up was interrupted before it got here.
    if not family.get_cutoff_stringencies():
        keys = ('cutoff_wfc', 'cutoff_rho')
        cutoffs = {s: {key: float(settings['elements'][s][key]) for key in keys} for s in family.elements}
        family.set_cutoffs(cutoffs, stringency, unit='Ry')
    environment.pseudo_family = label
    environment.elements = tuple(sorted(family.elements))


def _create_family(label: str, paths: Iterable[Path]) -> CutoffsPseudoPotentialFamily:
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            shutil.copy(path, folder)
        return CutoffsPseudoPotentialFamily.create_from_folder(
            Path(folder), label, description='PBE, from the files of quantum-espresso-data', pseudo_type=UpfData
        )
