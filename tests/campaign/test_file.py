"""Campaign files: read, and refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import pytest
import yaml
from ase.build import bulk

from aiida_alpot.campaign.file import campaign_builder, load_campaign, read_campaign

CIF = """data_x
_cell_length_a 5.4
_cell_length_b 5.4
_cell_length_c 5.4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Si1 Si 0.0 0.0 0.0 {silicon}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Factory of campaign files beside ``si.xyz``: keys set to ``None`` are left out."""
    ase.io.write(tmp_path / 'si.xyz', bulk('Si'))

    def make(**changes: Any) -> Path:
        content: dict[str, Any] = {
            'structures': ['si.xyz'],
            'protocol': 'fast',
            'codes': {'pw': 'pw@localhost'},
            'labelling': {'pseudo_family': 'Debian/PBE'},
            **changes,
        }
        path = tmp_path / 'campaign.yaml'
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return make


class TestRead:
    """Without a profile."""

    def test_structures_are_found_beside_the_file(
        self, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever folder one is in; absolute paths and sub-folders too."""
        (tmp_path / 'sub').mkdir()
        ase.io.write(tmp_path / 'sub' / 'ge.cif', bulk('Ge'))
        path = write(structures=['si.xyz', 'sub/ge.cif', str(tmp_path / 'sub' / '..' / 'sub' / 'ge.cif')][:2])
        monkeypatch.chdir(tmp_path / 'sub')
        structures = read_campaign(path)['structures']
        assert {name: atoms.get_chemical_formula() for name, atoms in structures.items()} == {'si': 'Si2', 'ge': 'Ge2'}
        monkeypatch.chdir(tmp_path)
        assert list(read_campaign('campaign.yaml')['structures']) == ['si', 'ge']
        assert list(read_campaign(write(structures=str(tmp_path / 'sub' / 'ge.cif')))['structures']) == ['ge']

    def test_all_images_of_a_file(self, write: Callable[..., Path], tmp_path: Path) -> None:
        """A trajectory is as many structures."""
        ase.io.write(tmp_path / 'many.extxyz', [bulk('Si', a=5.4), bulk('Si', a=5.5)])
        structures = read_campaign(write(structures=['many.extxyz', 'si.xyz']))['structures']
        assert list(structures) == ['many_0', 'many_1', 'si']
        assert structures['many_0'].cell.volume < structures['many_1'].cell.volume

    def test_equal_names_in_two_folders(self, write: Callable[..., Path], tmp_path: Path) -> None:
        """None is lost."""
        (tmp_path / 'other').mkdir()
        ase.io.write(tmp_path / 'other' / 'si.cif', bulk('Si', a=5.6))
        assert len(read_campaign(write(structures=['si.xyz', 'other/si.cif']))['structures']) == 2

    @pytest.mark.parametrize(
        ('structures', 'sentence'),
        [
            (None, '`structures`: the list is empty; name at least one structure file'),
            ([], '`structures`: the list is empty'),
            ({'a': 'si.xyz'}, "`structures`: expected a list of file names, found {'a': 'si.xyz'}"),
            (['gone.cif'], 'gone.cif.'),
            (['campaign.yaml'], 'campaign.yaml cannot be read as a structure: '),
        ],
    )
    def test_structures_are_refused(self, write: Callable[..., Path], structures: Any, sentence: str) -> None:
        """Missing and unreadable files."""
        with pytest.raises(ValueError) as error:
            read_campaign(write(structures=structures))
        assert str(error.value).startswith('`structures`: ') and sentence in str(error.value)
        assert '\n' not in str(error.value)

    def test_files_of_the_training_are_found_beside_the_file(self, write: Callable[..., Path], tmp_path: Path) -> None:
        """What is no file there may be a node."""
        (tmp_path / 'mp.model').write_bytes(b'model')
        training = read_campaign(write(training={'foundation': 'mp.model', 'replay': 'mptrj', 'epochs': 3}))['training']
        assert training == {'foundation': str(tmp_path / 'mp.model'), 'replay': 'mptrj', 'epochs': 3}
        assert read_campaign(write(training={'foundation': 12}))['training'] == {'foundation': 12}
        assert read_campaign(write(training='fast'))['training'] == 'fast'

    @pytest.mark.parametrize(
        ('text', 'sentence'),
        [
            ('structures: [a\ncodes: ]', 'is not valid YAML: while parsing'),
            ('- a\n- b\n', 'must hold a mapping with at least `structures` and `codes`'),
            ('', 'must hold a mapping'),
            ('just words', 'must hold a mapping'),
        ],
    )
    def test_files_are_refused(self, tmp_path: Path, text: str, sentence: str) -> None:
        """In one line."""
        path = tmp_path / 'campaign.yaml'
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            read_campaign(path)
        assert sentence in str(error.value) and str(path) in str(error.value) and '\n' not in str(error.value)

    def test_missing_file(self, tmp_path: Path) -> None:
        """And a folder is no file."""
        for path in (tmp_path / 'gone.yaml', tmp_path):
            with pytest.raises(ValueError, match=f'there is no campaign file {path}'):
                read_campaign(path)


class TestBuilder:
    """With a profile."""

    def test_builder(self, write: Callable[..., Path], campaign_codes: dict[str, str]) -> None:
        """Every key beside our own overrides the protocol."""
        path = write(
            codes=campaign_codes,
            seed=4,
            exploration={'temperatures': [500.0]},
            options={'training': {'max_wallclock_seconds': 77}},
        )
        builder = load_campaign(path)
        assert builder.seed.value == 4 and builder.max_rounds.value == 2
        assert builder.exploration.conditions['temperatures'] == [500.0]
        assert builder.training.train.metadata.options.max_wallclock_seconds == 77
        assert builder.structures['si'].get_formula() == 'Si2'

    @pytest.mark.parametrize(
        ('changes', 'sentence'),
        [
            ({'codes': None}, '`codes`: missing; name the codes `pw`, `train`, `md` and `evaluate`'),
            ({'codes': 'pw'}, '`codes`: missing'),
            ({'codes': {'pw': 'pw@localhost'}}, '`codes.train`: no code is given; create one'),
            ({'protocl': 'fast'}, "unknown key 'protocl'. Did you mean 'protocol'?"),
            ({'max_round': 3}, "unknown key 'max_round'. Did you mean 'max_rounds'?"),
            ({'labeling': {}}, "unknown key 'labeling'. Did you mean 'labelling'?"),
            ({'protocol': 'quick'}, 'unknown protocol `quick`: choose one of fast, balanced, stringent'),
            (
                {'exploration': {'temperature': 3}},
                'unknown option `exploration.temperature`: did you mean `temperatures`?',
            ),
            ({'options': 'fast'}, '`options`: expected options of the jobs by stage'),
            ({'options': {'labelling': 3}}, '`options`: expected options of the jobs by stage'),
            ({'options': {'augmentation': {}}}, '`options.augmentation`: unknown stage with jobs'),
            ({'labelling': {}}, '`labelling.pseudo_family`: None is not installed (installed: `Debian/PBE`)'),
            ({'evaluation': {'tolerance': {'forces': -1}}}, '`tolerance.forces` is -1'),
        ],
    )
    def test_refusals(
        self, write: Callable[..., Path], campaign_codes: dict[str, str], changes: dict[str, Any], sentence: str
    ) -> None:
        """The key, and the nearest right one."""
        with pytest.raises(ValueError) as error:
            load_campaign(write(**{'codes': campaign_codes, **changes}))
        assert sentence in str(error.value) and '\n' not in str(error.value)

    @pytest.mark.parametrize(('occupancy', 'refused'), [('1.0', False), ('0.5', True)])
    def test_partial_occupation(
        self,
        write: Callable[..., Path],
        campaign_codes: dict[str, str],
        tmp_path: Path,
        occupancy: str,
        refused: bool,
    ) -> None:
        """ASE reads such a site as if it were full."""
        (tmp_path / 'alloy.cif').write_text(CIF.format(silicon=occupancy))
        content = read_campaign(write(codes=campaign_codes, structures=['alloy.cif']))
        if refused:
            with pytest.raises(ValueError, match=r'`structures\.alloy`: has partially occupied sites'):
                campaign_builder(content)
        else:
            assert campaign_builder(content).structures['alloy'].get_formula() == 'Si'

    def test_example(self, campaign_codes: dict[str, str]) -> None:
        """The campaign file that the project ships is right."""
        example = Path(__file__).parents[2] / 'examples' / 'silicon' / 'campaign.yaml'
        assert load_campaign(example).structures['silicon'].get_formula() == 'Si2'
