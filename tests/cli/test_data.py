"""``verdi data alpot.pes``."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from aiida import orm
from click.testing import CliRunner, Result

from aiida_alpot.calculations.functions import merge_datasets
from aiida_alpot.calculations.imports import select_frames
from aiida_alpot.cli.data import COMMANDS, data
from aiida_alpot.cli.data.common import counts_text, numbered, sentence, table
from aiida_alpot.cli.data.importing import OPTION_NAMES, import_file
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame, hash_file
from aiida_alpot.worker.frames.formats import LabelDeclaration

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder; without ``fails`` it must end well, with it one sentence says why not."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any, fails: str = '') -> Result:
        result = CliRunner().invoke(data, [str(argument) for argument in arguments])
        if fails:
            assert result.exit_code and isinstance(result.exception, SystemExit), result.output
            assert fails in ' '.join(result.output.split()) and 'Traceback' not in result.output, result.output
        else:
            assert result.exit_code == 0, result.output
        return result

    return call


@pytest.fixture
def dataset(make_frame: Callable[..., Frame]) -> PESData:
    """Twelve labelled frames of two origins and splits, one of them isolated, and one that is not labelled."""
    frames = [
        make_frame(i, n_atoms=2 + i % 3, split=('train', 'test')[i % 2], origin=('md', 'rattle')[i % 3 == 0])
        for i in range(12)
    ]
    atom = Frame([6], [[0, 0, 0]], np.zeros((3, 3)), (False,) * 3, energy=-148.0, level_of_theory='pbe')
    frames += [atom.replace(origin='isolated_atom', split='train'), make_frame(20, labelled=False)]
    node = PESData(frames=frames)
    node.label = 'mine'
    return node.store()


def pk_of(result: Result) -> int:
    """PK in the last line of what a command said."""
    return int(result.output.rsplit('Data set ', 1)[1].split()[0])


def foreign(path: str = 'foreign.xyz', n: int = 4, without_forces: bool = False) -> str:
    """A file as another program writes it, in plain keys, with a trajectory of each frame."""
    frames = []
    for i in range(n):
        rng = np.random.default_rng(i)
        atoms = ase.Atoms('SiC', rng.uniform(0, 4, size=(2, 3)), cell=4 * np.eye(3), pbc=True)
        atoms.info |= {'energy': -10.0 - i, 'stress': (0.1 * np.eye(3)).ravel(), 'trajectory': f't{i // 2}'}
        if not (without_forces and i == 1):
            atoms.arrays['forces'] = rng.normal(size=(2, 3))
        frames.append(atoms)
    ase.io.write(path, frames, format='extxyz')
    return path


class TestHelp:
    """Every command explains itself."""

    @pytest.mark.parametrize('name', COMMANDS)
    def test_help_with_examples(self, run: Run, name: str) -> None:
        """With at least one example of its own."""
        output = run(name, '--help').output
        assert 'Example' in output and f'verdi data alpot.pes {name} ' in output

    def test_list_of_commands(self, run: Run) -> None:
        """And a hint for a name that is nearly right."""
        output = run('--help').output
        for name, (_, summary) in COMMANDS.items():
            assert name in output and summary.split()[0] in output
        assert 'import' in run('imprt', fails='is not a').output

    def test_help_imports_no_command(self) -> None:
        """So that `verdi` stays fast."""
        code = (
            'import sys; from aiida_alpot.cli.data import data; from click.testing import CliRunner\n'
            'assert "collect" in CliRunner().invoke(data, ["--help"]).output\n'
            'assert not {"h5py", "ase", "numpy", "aiida.orm", "aiida_alpot.cli.data.listing"} & set(sys.modules)'
        )
        subprocess.run([sys.executable, '-c', code], check=True)


class TestList:
    """Tables of data sets."""

    @pytest.fixture(autouse=True)
    def nodes(self, aiida_profile_clean: Any, make_frame: Callable[..., Frame]) -> list[PESData]:
        """Three sets: of several elements, of carbon alone at another level, and one without labels."""
        carbon = make_frame(1, n_atoms=1, numbers=[6], level_of_theory='VASP PBE 520 eV')
        sets = [[make_frame(0, numbers=[6, 14, 14, 22])], [carbon], [make_frame(2, labelled=False, numbers=[14] * 4)]]
        return [PESData(frames=frames).store() for frames in sets]

    def test_all(self, run: Run, nodes: list[PESData]) -> None:
        """PK, counts, elements and levels, the newest last."""
        lines = run('list').output.splitlines()
        assert [int(line.split()[0]) for line in lines[2:5]] == [node.pk for node in nodes]
        assert 'C Si Ti' in lines[2] and 'pbe' in lines[2] and 'VASP PBE 520 eV' in lines[3]
        assert lines[-1] == '3 data sets.'

    @pytest.mark.parametrize(
        ('options', 'wanted'),
        [
            (['-e', 'C'], [0, 1]),
            (['-e', 'C', '-e', 'Ti'], [0]),
            (['--system', 'Si'], [2]),
            (['--system', 'Ti-Si-C'], [0]),
            (['--level-of-theory', 'VASP PBE 520 eV'], [1]),
            (['--level-of-theory', 'lda'], []),
            (['-l', '2'], [1, 2]),
            (['-p', '1'], [0, 1, 2]),
        ],
    )
    def test_filters(self, run: Run, nodes: list[PESData], options: list[str], wanted: list[int]) -> None:
        """By element, system, level, number and age."""
        output = run('list', '--raw', *options).output
        assert [int(line) for line in output.split()] == [nodes[i].pk for i in wanted]

    def test_limit_says_how_many_there_are(self, run: Run) -> None:
        """Not to look as if it were all."""
        assert run('list', '-l', '2').output.endswith('2 of 3 data sets.\n')
        assert run('list', '-e', 'W').output == '0 data sets.\n'


class TestShow:
    """What a data set holds."""

    def test_attributes(self, run: Run, dataset: PESData) -> None:
        """Counts, splits, origins, source."""
        output = run('show', dataset.pk).output
        for text in (
            dataset.uuid,
            'mine',
            '14, 12 of them',
            'md 8',
            'rattle 5',
            'train 7',
            'nothing: it was brought in',
        ):
            assert text in output, text
        assert 'energy 13, forces 12, stress 12' in output and 'no settings are known' in output

    def test_by_label_and_creator(self, run: Run, dataset: PESData) -> None:
        """The calculation function that made it."""
        made = select_frames(dataset, orm.List([0]))
        output = run('show', made.uuid).output
        assert f'select_frames <{made.creator.pk}>' in output
        assert run('show', 'mine').output.splitlines()[1].split()[1] == dataset.uuid

    @pytest.mark.parametrize('key', ['single', 'several'])
    def test_settings_of_a_level(self, run: Run, make_frame: Callable[..., Frame], key: str) -> None:
        """From the report of a labelling, or of a collection."""
        base = 'pw-0123456789abcdef'
        node = PESData(frames=[make_frame(0, level_of_theory=f'{base}[C:aaa,Si:bbb,Ti:ccc]')]).store()
        content = {'code': 'quantumespresso.pw', 'system': {'ecutwfc': 31.0}, 'kpoints_distance': 0.25}
        report = {'level_of_theory': base, 'level_of_theory_content': content}
        orm.Dict(report if key == 'single' else {'levels_of_theory': {base: content}}).store()
        output = run('show', node.pk).output
        assert f'{base}: 1 frame\n' in output
        assert 'system.ecutwfc: 31.0' in output and 'kpoints_distance: 0.25' in output

    def test_refusals(self, run: Run) -> None:
        """What is no data set."""
        run('show', orm.Int(1).store().pk, fails='no PESData found')
        run('show', '9999', fails='no PESData found')


class TestStats:
    """Numbers over all frames."""

    def test_numbers(self, run: Run, dataset: PESData) -> None:
        """Against numpy; the isolated atom apart."""
        lines = {
            line.split('  ')[0]: line.split()[-4:] for line in run('stats', dataset.pk).output.splitlines() if line
        }
        frames = [frame for frame in dataset if frame.origin != 'isolated_atom']
        energies = [frame.energy / len(frame) for frame in frames if frame.energy is not None]
        wanted = [len(energies), min(energies), np.mean(energies), max(energies)]
        assert [float(text) for text in lines['energy per atom (eV)']] == pytest.approx(wanted, rel=1e-5)
        assert float(lines['largest force (eV/A)'][3]) == pytest.approx(
            max(np.linalg.norm(frame.forces, axis=1).max() for frame in frames if frame.is_labelled), rel=1e-5
        )
        assert lines['isolated C (eV)'] == ['1', '-148', '-148', '-148']

    def test_counts_and_duplicates(self, run: Run, dataset: PESData, make_frame: Callable[..., Frame]) -> None:
        """Origins by splits, and frames that are there more than once."""
        output = run('stats', dataset.pk).output
        assert 'Origin         train  test  no split  All' in output
        assert '14 frames of 14 different structures; 0 frames repeat' in output
        again = merge_datasets(a=dataset, b=PESData(frames=[dataset.frame(i) for i in (0, 1, 13)]))
        assert '17 frames of 14 different structures; 3 frames repeat' in run('stats', again.pk).output
        unlabelled = PESData(frames=[make_frame(0, labelled=False)]).store()
        assert run('stats', unlabelled.pk).exit_code == 0


class TestExportAndImport:
    """Files that aiida-alpot writes need no option, and come back exactly."""

    @pytest.mark.parametrize('name', ['a.xyz', 'a.extxyz.gz', 'a.traj', 'a.db', 'a.h5'])
    def test_round_trip(
        self, run: Run, dataset: PESData, name: str, assert_same_frame: Callable[[Frame, Frame], None]
    ) -> None:
        """Every format, with labels, lineage, origin, split and level of theory."""
        assert run('export', 'mine', name).output == f'14 of 14 frames in {name}.\n'
        output = run('import', name).output
        if 'already' in output:
            assert pk_of(run('import', name)) == dataset.pk
        back = orm.load_node(pk_of(run('import', name)))
        for found, frame in zip(back, dataset, strict=True):
            if name.endswith(('.db', '.traj')):  # ASE keeps the six numbers of a symmetric stress
                assert (found.stress is None) == (frame.stress is None)
                found = found.replace(stress=frame.stress)
            assert_same_frame(found, frame)

    def test_equal_content_is_stored_once(self, run: Run, dataset: PESData) -> None:
        """The message names the node that is there."""
        run('export', dataset.pk, 'a.xyz')
        output = run('import', 'a.xyz', '--label', 'again').output
        assert output.startswith('These frames are in this profile already: nothing was stored.')
        assert pk_of(run('import', 'a.xyz')) == dataset.pk
        assert orm.QueryBuilder().append(PESData).count() == 1

    def test_splits_and_origins(self, run: Run, dataset: PESData) -> None:
        """Only these frames; one that does not exist is refused with those that do."""
        run('export', dataset.pk, 'a.xyz', '--split', 'train', '--origin', 'md', '--origin', 'isolated_atom')
        wanted = [f.frame_id for f in dataset if f.split == 'train' and f.origin in ('md', 'isolated_atom')]
        assert len(wanted) == 5
        back = orm.load_node(pk_of(run('import', 'a.xyz')))
        assert back.column('frame_id').tolist() == wanted
        run('export', dataset.pk, 'b.xyz', '--split', 'validation', fails='there are: test, train')
        run('export', dataset.pk, 'b.xyz', '--split', 'test', '--origin', 'isolated_atom', fails='No frame is of')
        assert not Path('b.xyz').exists()

    def test_styles(self, run: Run, dataset: PESData) -> None:
        """Keys of MACE by default, and plain ones."""
        run('export', dataset.pk, 'mace.xyz')
        run('export', dataset.pk, 'plain.xyz', '--style', 'plain')
        assert 'REF_energy=' in Path('mace.xyz').read_text()
        assert 'REF_energy=' not in Path('plain.xyz').read_text() and ' energy=' in Path('plain.xyz').read_text()
        run('export', dataset.pk, 'a.db', '--style', 'mace', fails='has no styles')

    def test_overwriting(self, run: Run, dataset: PESData) -> None:
        """Only when asked for."""
        Path('a.xyz').write_text('precious')
        run('export', dataset.pk, 'a.xyz', fails='a.xyz exists: give another name, or --force')
        assert Path('a.xyz').read_text() == 'precious'
        run('export', dataset.pk, 'a.xyz', '--force')
        assert Path('a.xyz').stat().st_size > 1000

    def test_refusals(self, run: Run, dataset: PESData) -> None:
        """What has no place where it stands."""
        run('export', dataset.pk, 'a.pdb', fails='a suffix that belongs to no format')
        run('export', dataset.pk, dataset.pk, 'a.xyz', fails='A file takes one data set: merge them first')
        run('export', dataset.pk, 'a.xyz', '--provenance', 'none', fails='only an archive keeps provenance')
        run('export', dataset.pk, 'a.aiida', '--split', 'train', fails='--split has no place here')
        run('export', dataset.pk, 'no/where/a.xyz', fails='No such file or directory')
        run('import', 'gone.xyz', fails="'gone.xyz' does not exist")


class TestForeignFiles:
    """Nothing is guessed."""

    LEVEL = ('--level-of-theory', 'VASP PBE 520 eV')
    STRESS = ('--stress-unit', 'eV/A^3')

    def test_everything_that_is_open_is_named(self, run: Run) -> None:
        """In the words of the command line."""
        text = ' '.join(run('import', foreign(), fails='what its labels mean has to be declared').output.split())
        for option in ('--level-of-theory', '--energies total', '--energies relative together with --reference'):
            assert option in text, option
        assert 'stress_unit' not in text and 'level_of_theory' not in text
        run('import', foreign(), *self.LEVEL, '--energies', 'total', '--stress-unit', 'GPa', fails='`--stress-sign`')
        run('import', foreign(), *self.LEVEL, '--energies', 'relative', *self.STRESS, fails='`--reference`')
        assert orm.QueryBuilder().append(PESData).count() == 0

    def test_declared(self, run: Run) -> None:
        """Labels, lineage, and where it came from, which does not enter the hash."""
        options = [*self.LEVEL, '--energies', 'total', *self.STRESS, '--lineage-key', 'trajectory']
        node = orm.load_node(pk_of(run('import', foreign(), *options, '-L', 'mine', '-D', 'of old')))
        assert (node.label, node.description) == ('mine', 'of old')
        assert node.n_labelled == 4 and node.levels_of_theory == {'VASP PBE 520 eV': 4}
        assert node.column('lineage').tolist() == ['t0', 't0', 't1', 't1']
        assert node.column('energy').tolist() == [-10.0, -11.0, -12.0, -13.0]
        assert node.source['uri'] == 'foreign.xyz'
        assert node.source['extras']['sha256'] == hash_file('foreign.xyz')
        assert node.source['extras']['options']['level_of_theory'] == 'VASP PBE 520 eV'
        assert PESData(frames=node).store().base.caching.get_hash() == node.base.caching.get_hash()
        assert 'foreign.xyz (SHA-256' in run('show', node.pk).output

    def test_relative_energies(self, run: Run) -> None:
        """References are added for each atom."""
        references = ['--reference', 'Si=-100', '--reference', 'C=-200']
        result = run('import', foreign(), *self.LEVEL, '--energies', 'relative', *references, *self.STRESS)
        assert orm.load_node(pk_of(result)).frame(0).energy == pytest.approx(-310.0, abs=1e-12)
        for wrong, words in (('Si', 'write NAME=VALUE'), ('Si=x', 'expected a number in eV'), ('Xx=1', "'Xx'")):
            run('import', foreign(), '--energies', 'relative', '--reference', wrong, fails=words)
        run('import', foreign(), '--reference', 'Si=1', '--reference', 'Si=2', fails='once for each name')

    def test_missing_forces(self, run: Run) -> None:
        """Refused, dropped with a warning, or kept."""
        options = [foreign(without_forces=True), *self.LEVEL, '--energies', 'total', *self.STRESS]
        run('import', *options, fails='--missing drop')
        dropped = run('import', *options, '--missing', 'drop')
        assert 'Warning: 1 of the frames of foreign.xyz lack energy or forces' in dropped.output
        assert orm.load_node(pk_of(dropped)).n_frames == 3
        kept = orm.load_node(pk_of(run('import', *options, '--missing', 'keep')))
        assert (kept.n_frames, kept.n_labelled) == (4, 3)

    def test_keys_and_properties(self, run: Run) -> None:
        """Labels under other names, some of them, none."""
        Path('other.xyz').write_text(Path(foreign()).read_text().replace('energy=', 'dft_energy='))
        options = ['other.xyz', *self.LEVEL, '--energies', 'total', '--key', 'energy=dft_energy']
        node = orm.load_node(pk_of(run('import', *options, '--property', 'energy')))
        assert node.column('energy').tolist() == [-10.0, -11.0, -12.0, -13.0] and node.n_labelled == 0
        nothing = orm.load_node(pk_of(run('import', 'other.xyz', '--property', 'none')))
        assert nothing.levels_of_theory == {} and nothing.n_frames == 4
        run('import', 'other.xyz', '--property', 'none', '--property', 'energy', fails='leave one out')
        run('import', 'other.xyz', '--key', 'energie=x', fails='energie')

    def test_every_field_has_an_option(self) -> None:
        """Of a label declaration; none is left to be set in Python only."""
        options = {option for parameter in import_file.params for option in parameter.opts}
        for field in dataclasses.fields(LabelDeclaration):
            name = OPTION_NAMES.get(field.name, field.name.replace('_', '-'))
            assert f'--{name}' in options, field.name

    def test_broken_file(self, run: Run) -> None:
        """No half-written node."""
        text = Path(foreign()).read_text()
        Path('broken.xyz').write_text(text[: len(text) - 100])
        Path('text.h5').write_text('no HDF5')
        for name in ('broken.xyz', 'text.h5'):
            run('import', name, *self.LEVEL, '--energies', 'total', *self.STRESS, fails=name)
        assert orm.QueryBuilder().append(PESData).count() == 0


class TestArchives:
    """AiiDA archives through the same two commands."""

    def test_round_trip(self, run: Run, dataset: PESData, aiida_profile_clean: Any) -> None:
        """Several nodes with their creators; without a line about each step."""
        made = select_frames(dataset, orm.List([3, 5]))
        uuid, hashed = made.uuid, made.base.caching.get_hash()
        assert run('export', dataset.pk, made.pk, 'a.aiida').output == '2 data sets in a.aiida, provenance: full.\n'
        aiida_profile_clean.reset_storage()
        assert run('import', 'a.aiida').output.startswith('2 data sets in a.aiida, 2 new in this profile.\n')
        back = orm.load_node(uuid)
        assert back.base.caching.compute_hash() == hashed and back.creator.process_label == 'select_frames'
        assert run('import', 'a.aiida').output.startswith('2 data sets in a.aiida, 0 new')

    def test_without_provenance(self, run: Run, dataset: PESData, aiida_profile_clean: Any) -> None:
        """The node alone."""
        made = select_frames(dataset, orm.List([3, 5]))
        run('export', made.pk, 'a.zip', '--format', 'archive', '--provenance', 'none')
        aiida_profile_clean.reset_storage()
        run('import', 'a.zip', '--format', 'archive')
        assert orm.QueryBuilder().append(orm.Node).count() == 1

    def test_refusals(self, run: Run, dataset: PESData) -> None:
        """Options that say what labels mean, files that are no archives."""
        run('export', dataset.pk, 'a.aiida')
        run('export', dataset.pk, 'a.aiida', fails='exists')
        run('export', dataset.pk, 'a.aiida', '--force')
        run('import', 'a.aiida', '--energies', 'total', fails='leave out the options (energies)')
        Path('b.aiida').write_text('x')
        run('import', 'b.aiida', fails='cannot be read as an AiiDA archive')


class TestMerge:
    """Several data sets in one."""

    def test_counts(self, run: Run, dataset: PESData) -> None:
        """Frames, repeated frames, links to all sources in the order given."""
        more = PESData(frames=[dataset.frame(0), dataset.frame(13)]).store()
        result = run('merge', more.pk, dataset.pk, '-L', 'both')
        assert result.output.startswith('16 frames, 2 of them repeated at the same level of theory.\n')
        merged = orm.load_node(pk_of(result))
        assert merged.shards == [*more.shards, *dataset.shards] and merged.label == 'both'
        assert merged.creator.process_label == 'merge_datasets'

    def test_mixed_levels(self, run: Run, dataset: PESData, make_frame: Callable[..., Frame]) -> None:
        """Only on purpose, and then each frame keeps its own; a refusal leaves no process behind."""
        other = PESData(frames=[make_frame(0, level_of_theory='lda')]).store()
        run('merge', dataset.pk, other.pk, fails='2 levels of theory (lda, pbe)')
        assert orm.QueryBuilder().append(orm.ProcessNode).count() == 0
        merged = orm.load_node(pk_of(run('merge', dataset.pk, other.pk, '--allow-mixed-levels')))
        assert merged.levels_of_theory == {'lda': 1, 'pbe': 13}

    def test_one_is_not_enough(self, run: Run, dataset: PESData) -> None:
        """Nothing to merge."""
        run('merge', dataset.pk, dataset.uuid, fails='Give at least two different data sets.')


class TestCollect:
    """Arguments; what is taken is tested with the function behind it."""

    def test_refusals(self, run: Run, dataset: PESData) -> None:
        """What is no process and no group, and a group without calculations."""
        run('collect', 'nothing', fails='There is no process')
        run('collect', dataset.pk, fails='is a PESData, not a process')
        orm.Group(label='empty').store()
        run('collect', 'empty', fails='There is no pw.x calculation')

    def test_nothing_usable(self, run: Run) -> None:
        """The reasons are shown, and kept in a report."""
        node = orm.CalcJobNode(process_type='aiida.calculations:quantumespresso.pw')
        node.set_process_state('finished')
        node.set_exit_status(410)
        node.set_exit_message('not converged')
        node.store()
        group = orm.Group(label='old').store()
        group.add_nodes([node])
        result = run('collect', 'old', fails='No calculation gives a frame.')
        assert 'skipped 1: it ended with exit code 410: not converged' in result.output


def test_real_verdi(dataset: PESData, aiida_profile_clean: Any, tmp_path: Path) -> None:
    """Found by `verdi` through its entry point, with its options for the profile."""
    verdi = Path(sys.executable).with_name('verdi')

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(verdi), '-p', aiida_profile_clean.name, 'data', 'alpot.pes', *arguments]
        environment = {**os.environ, 'AIIDA_PATH': os.environ.get('AIIDA_PATH', ''), 'OMP_NUM_THREADS': '1'}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)

    listed = call('list')
    assert listed.returncode == 0, listed.stderr
    assert f'{dataset.pk}' in listed.stdout and '1 data set.' in listed.stdout
    assert call('export', 'mine', 'a.xyz').returncode == 0
    refused = call('export', 'mine', 'a.xyz')
    assert refused.returncode == 1 and refused.stderr.startswith('Error: a.xyz exists') and refused.stdout == ''
    assert 'already' in call('import', 'a.xyz').stdout


def test_texts() -> None:
    """Counts, nouns, sentences and tables."""
    assert counts_text({'a': 1, 'b': 2}) == 'a 1, b 2' and counts_text({}) == 'none'
    assert (numbered(1, 'frame'), numbered(0, 'frame')) == ('1 frame', '0 frames')
    assert sentence(ValueError('it is wrong')) == 'It is wrong.'
    assert sentence(ValueError('a.xyz is wrong.')) == 'a.xyz is wrong.'
    assert sentence(KeyError()) == 'KeyError.'
    assert table([('a', 1), ('bc', 10)], ('x', 'n')) == 'x    n\n--  --\na    1\nbc  10'
    assert table([]) == ''
