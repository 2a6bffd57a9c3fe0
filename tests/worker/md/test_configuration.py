"""Reading of driver.json."""

import json

import numpy as np
import pytest

from aiida_alpot.worker.md.configuration import DriverConfiguration


def test_defaults_and_paths_relative_to_the_file(tmp_path):
    (tmp_path / 'driver.json').write_text(
        json.dumps({'elements': ['Si'], 'committee': ['committee/a.model', '/b.model']})
    )
    configuration = DriverConfiguration.read(tmp_path / 'driver.json')
    assert configuration.committee == [str(tmp_path / 'committee/a.model'), '/b.model']
    np.testing.assert_array_equal(configuration.rotation, np.eye(3))


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('{', 'not valid JSON'),
        ('[]', 'must be a JSON object'),
        ('{"elements": ["Si"]}', 'lacks committee'),
        ('{"elements": ["Si"], "committee": []}', 'has 0 members'),
        ('{"elements": ["Si"], "committee": ["a.model"], "sample_every": 0}', 'at least 1'),
    ],
)
def test_what_is_not_valid(tmp_path, text, said):
    (tmp_path / 'driver.json').write_text(text)
    with pytest.raises(ValueError, match=said):
        DriverConfiguration.read(tmp_path / 'driver.json')


def test_absent_file(tmp_path):
    with pytest.raises(ValueError, match='-driver FILE'):
        DriverConfiguration.read(tmp_path / 'driver.json')
