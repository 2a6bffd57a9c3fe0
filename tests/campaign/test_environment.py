"""The environment that a campaign needs, made by the command in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aiida_alpot.campaign.environment import (
    CODES,
    DEFAULT_PSEUDO_DIRECTORY,
    PSEUDOPOTENTIALS,
    find_executables,
    find_pseudopotentials,
)

COMMAND = Path(sys.executable).with_name('aiida-alpot')
VERDI = Path(sys.executable).with_name('verdi')
ENTRIES = yaml.safe_load(PSEUDOPOTENTIALS.read_text())['elements']

needs_debian_files = pytest.mark.skipif(
    shutil.which('pw.x') is None or not DEFAULT_PSEUDO_DIRECTORY.is_dir(), reason='needs Quantum ESPRESSO from Debian'
)

DESCRIBE = """
import json
from aiida import load_profile, orm
from aiida.manage import get_config
from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily
profile = load_profile('alpot')
computer = orm.load_computer('localhost')
family = CutoffsPseudoPotentialFamily.collection.get(label='Debian/PBE')
structure = orm.StructureData(cell=[[5, 0, 0], [0, 5, 0], [0, 0, 5]])
structure.append_atom(position=(0, 0, 0), symbols='Si')
print(json.dumps({
    'storage': profile.storage_backend,
    'broker': profile.process_control_backend,
    'interval': get_config().get_option('runner.poll.interval', scope='alpot'),
    'caching': get_config().get_option('caching.enabled_for', scope='alpot'),
    'default': get_config().default_profile_name,
    'scheduler': computer.scheduler_type,
    'work': computer.get_workdir(),
    'safe_interval': computer.get_configuration()['safe_interval'],
    'poll': computer.get_minimum_job_poll_interval(),
    'codes': {code.full_label: [code.default_calc_job_plugin, code.with_mpi, code.prepend_text]
              for code in orm.QueryBuilder().append(orm.InstalledCode).all(flat=True)},
    'cutoffs': family.get_recommended_cutoffs(structure=structure, unit='Ry'),
    'md5': family.get_pseudo('Si').md5,
}))
"""


def run(arguments: list[str | Path], path: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command with its AiiDA configuration in a folder of its own."""
    environment = {'AIIDA_PATH': str(path), 'PATH': '/usr/bin:/bin', 'HOME': str(path), 'PYTHONWARNINGS': 'ignore'}
    return subprocess.run(
        [str(a) for a in arguments], env=environment, cwd=path, check=check, capture_output=True, text=True, timeout=120
    )


@needs_debian_files
def test_setup_makes_then_reuses(tmp_path: Path) -> None:
    """The first run makes everything; the second finds everything and changes nothing."""
    first = run([COMMAND, 'setup', '--path', tmp_path], tmp_path).stdout
    assert first.count('made ') == 3 + len(CODES) and 'found ' not in first
    config = (tmp_path / '.aiida' / 'config.json').read_text()
    made = json.loads(run([sys.executable, '-c', DESCRIBE], tmp_path).stdout)

    second = run([COMMAND, 'setup', '--path', tmp_path], tmp_path).stdout
    assert second.count('found ') == 3 + len(CODES) and 'made ' not in second
    assert (tmp_path / '.aiida' / 'config.json').read_text() == config
    assert json.loads(run([sys.executable, '-c', DESCRIBE], tmp_path).stdout) == made

    assert (made['storage'], made['broker']) == ('core.sqlite_dos', 'core.zeromq')
    assert made['default'] == 'alpot' and made['interval'] == 1
    assert made['caching'] == ['aiida.calculations:quantumespresso.pw']
    assert made['scheduler'] == 'core.direct' and made['safe_interval'] == 0 and made['poll'] == 0.5
    assert Path(made['work']).is_relative_to(tmp_path)
    threads = 'export OMP_NUM_THREADS=1'
    assert made['codes'] == {f'{label}@localhost': [plugin, False, threads] for label, (plugin, _) in CODES.items()}
    assert made['cutoffs'] == [ENTRIES['Si']['cutoff_wfc'], ENTRIES['Si']['cutoff_rho']]

    # Another program under the label of a code that cannot be changed is refused with the remedy.
    refused = run([COMMAND, 'setup', '--path', tmp_path, '--pw-executable', '/bin/true'], tmp_path, check=False)
    assert refused.returncode != 0
    assert '/bin/true was asked for' in refused.stderr and 'verdi code relabel' in refused.stderr


@needs_debian_files
def test_setup_leaves_a_profile_of_the_user_alone(tmp_path: Path) -> None:
    """Beside another profile, ours is added; theirs, its files and its being the default stay."""
    run([VERDI, 'presto', '--no-broker', '--profile-name', 'theirs', '--non-interactive'], tmp_path)
    config = json.loads((tmp_path / '.aiida' / 'config.json').read_text())
    storage = Path(config['profiles']['theirs']['storage']['config']['filepath'])
    database = (storage / 'database.sqlite').read_bytes()

    run([COMMAND, 'setup', '--no-broker'], tmp_path)
    after = json.loads((tmp_path / '.aiida' / 'config.json').read_text())
    assert set(after['profiles']) == {'theirs', 'alpot'}
    assert after['profiles']['theirs'] == config['profiles']['theirs']
    assert after['default_profile'] == 'theirs'
    assert after['profiles']['alpot']['process_control']['backend'] is None
    assert (storage / 'database.sqlite').read_bytes() == database


def test_missing_programs_are_named_together(tmp_path: Path) -> None:
    """All missing programs are named in one sentence with what to install, before a profile is made."""
    with pytest.raises(ValueError, match=r'missing: no-such-pw, no-such-md\. Install Quantum ESPRESSO'):
        find_executables({'pw': 'no-such-pw', 'alpot-train': '/bin/true', 'alpot-md': 'no-such-md'})
    refused = run([COMMAND, 'setup', '--path', tmp_path, '--pw-executable', 'no-such-pw'], tmp_path, check=False)
    assert refused.returncode == 1 and 'no-such-pw' in refused.stderr
    assert not (tmp_path / '.aiida' / 'config.json').exists()


def test_missing_pseudopotentials_are_refused(tmp_path: Path) -> None:
    """A folder without any of the expected files is refused; one with some of them gives those."""
    with pytest.raises(ValueError, match='--pseudo-directory'):
        find_pseudopotentials(tmp_path)
    (tmp_path / ENTRIES['Si']['file']).write_text('')
    assert list(find_pseudopotentials(tmp_path)) == ['Si']


@needs_debian_files
@pytest.mark.parametrize('symbol', sorted(ENTRIES))
def test_pseudopotential_is_pbe_of_that_element(symbol: str) -> None:
    """Each file is a PBE one of its element, with cutoffs that are not under what its header suggests."""
    entry = ENTRIES[symbol]
    header = dict(read_header(DEFAULT_PSEUDO_DIRECTORY / entry['file']))
    assert header['element'] == symbol
    assert header['functional'] in ('PBE', 'SLA PW PBX PBC', 'SLA PW PBE PBE')
    assert header['relativistic'] in ('no', 'scalar')
    assert entry['cutoff_wfc'] >= float(header['wfc_cutoff'])
    assert entry['cutoff_rho'] >= max(float(header['rho_cutoff']), 4 * entry['cutoff_wfc'])
    assert entry['source'] == ('measured' if float(header['wfc_cutoff']) == 0 else 'file')


def read_header(path: Path) -> list[tuple[str, str]]:
    """Attributes of the ``PP_HEADER`` of a UPF file of version 2."""
    content = path.read_text(errors='replace')
    header = content[content.index('<PP_HEADER') :]
    attributes = header[len('<PP_HEADER') : header.index('/>')].split('"')
    return [
        (key.strip(' =\n'), ' '.join(value.split()))
        for key, value in zip(attributes[::2], attributes[1::2], strict=False)
    ]
