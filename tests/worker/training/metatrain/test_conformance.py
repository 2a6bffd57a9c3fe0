"""metatrain holds what every trainer has to hold."""

import pytest

from aiida_alpot.worker.training.conformance import check_trainer
from aiida_alpot.worker.training.metatrain import MetatrainTrainer

pytest.importorskip('metatrain', reason='metatrain is not installed: pip install aiida-alpot[metatrain]')


@pytest.mark.slow
def test_what_every_trainer_has_to_hold(soap_bpnn, tmp_path):
    """With SOAP-BPNN, which learns within a second; PET passes too, with 60 epochs (50 s of CPU time)."""
    settings = {'epochs': 10, 'learning_rate': 0.02, 'dtype': 'float64', 'weights': {'stress': 1.0}}
    check_trainer(MetatrainTrainer, soap_bpnn.job.task.settings.parameters, tmp_path, settings)
