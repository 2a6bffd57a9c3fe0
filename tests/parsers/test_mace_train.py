"""Models, histories and losses of mace_run_train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiida import orm

from aiida_alpot.data.pes import PESData
from aiida_alpot.parsers.mace_train import best_epoch, last_words, missing_properties, parse_history, parse_loss

LOSS = 'UniversalLoss(energy_weight=1.000, forces_weight=10.000, stress_weight=100.000)'
LOG = f'2026-11-20 06:51:36.773 INFO: Learning rate: 0.01\n2026-11-20 06:51:36.773 INFO: {LOSS}\nINFO: Done\n'
PARAMETERS = {'energy_weight': 1.0, 'forces_weight': 10.0, 'stress_weight': 100.0, 'r_max': 4.5}


def epoch(number: int | None, loss: float, **more: Any) -> str:
    """A line of the results file."""
    record = {'loss': loss, 'rmse_e_per_atom': 0.01, 'rmse_f': 0.1, 'mae_e': 1.0, 'mode': 'eval', 'epoch': number}
    return json.dumps({**record, **more})


HISTORY = '\n'.join(
    [
        epoch(None, 9.0),
        '{"loss": 1.0, "mode": "opt", "epoch": 0}',
        epoch(0, 3.0, rmse_stress=0.02),
        epoch(5, 1.0),
        epoch(10, 2.0),
    ]
)


class TestHistory:
    """The results file, however the job ended."""

    def test_validation_errors(self) -> None:
        """Evaluations only, with loss and RMSEs."""
        history = parse_history(HISTORY)
        assert [entry['epoch'] for entry in history] == [None, 0, 5, 10]
        assert history[1] == {'loss': 3.0, 'rmse_e_per_atom': 0.01, 'rmse_f': 0.1, 'rmse_stress': 0.02, 'epoch': 0}
        assert best_epoch(history)['epoch'] == 5

    @pytest.mark.parametrize('kept', range(0, len(epoch(15, 0.5)), 9))
    def test_truncated_last_line(self, kept: int) -> None:
        """Killed at any character of it."""
        text = HISTORY + '\n' + epoch(15, 0.5)[:kept]
        assert [entry['epoch'] for entry in parse_history(text)] == [None, 0, 5, 10]

    def test_not_finite(self) -> None:
        """JSON has NaN, the database has not."""
        history = parse_history(epoch(0, float('nan'), rel_rmse_f=float('inf')))
        assert history[0]['loss'] is None and history[0]['rel_rmse_f'] is None and history[0]['rmse_f'] == 0.1


class TestLoss:
    """What was trained on, from the trainer's own words."""

    def test_weights(self) -> None:
        """Name and weights."""
        loss = parse_loss(LOG)
        assert loss == {'name': LOSS, 'weights': {'energy': 1.0, 'forces': 10.0, 'stress': 100.0}}

    def test_last_loss_counts(self) -> None:
        """That of stage two, where there is one."""
        loss = 'WeightedEnergyForcesLoss(energy_weight=1000.000, forces_weight=100.000)'
        stage_two = f'INFO: Stage Two (after 30 epochs) with loss function: {loss}, energy weight : 1000.0'
        assert parse_loss(LOG + stage_two)['weights'] == {'energy': 1000.0, 'forces': 100.0}

    def test_nothing_printed(self) -> None:
        """A job that died before."""
        assert parse_loss('Traceback') == {'name': 'not printed', 'weights': {}}

    @pytest.mark.parametrize(
        ('asked', 'weights', 'missing'),
        [
            (PARAMETERS, {'energy': 1.0, 'forces': 10.0, 'stress': 100.0}, []),
            (PARAMETERS, {'energy': 1.0}, ['forces', 'stress']),
            (PARAMETERS, {'energy': 1.0, 'forces': 0.0, 'stress': 1.0}, ['forces']),
            ({'energy_weight': 1.0}, {'energy': 1.0}, []),
            ({'forces_weight': 0.0}, {}, []),
            ({'energy_weight': 1e-4}, {'energy': 0.0}, []),  # printed with three decimals
            ({'energy_weight': 1e-4}, {}, ['energy']),
        ],
    )
    def test_missing(self, asked: dict[str, float], weights: dict[str, float], missing: list[str]) -> None:
        """What was asked for and is not in it."""
        assert missing_properties(asked, weights) == missing


def test_last_words() -> None:
    """The last line that says something, not all of it where it is long."""
    assert last_words('a\n  b  \n\n \n') == 'b'
    assert last_words('') == 'nothing'
    assert len(last_words('x' * 5000)) == 300


class TestParser:
    """One exit code a cause."""

    @pytest.fixture
    def job(self, parse: Callable, make_frame: Callable, tmp_path: Path) -> Callable[..., Any]:
        """Parse a training that left these."""

        def run(
            log: str | None = LOG,
            history: str | None = HISTORY,
            models: tuple[str, ...] = ('mace.model',),
            **asked: Any,
        ) -> Any:
            retrieved = {'job.out': log, 'results/mace_run-42_train.txt': history}
            for name in models:
                (tmp_path / name).write_bytes(name.encode())
            dataset = PESData(frames=[make_frame(0, numbers=[14, 6, 14, 6], split='train')])
            inputs = {'dataset': dataset, 'parameters': orm.Dict({**PARAMETERS, **asked}), 'seed': orm.Int(42)}
            kept = {name: text for name, text in retrieved.items() if text is not None}
            return parse('alpot.mace_train', kept, inputs)

        return run

    def test_model(self, job: Callable) -> None:
        """The potential with what one must know of it, and the errors by epoch."""
        outputs, node = job()
        assert node.is_finished_ok
        potential, results = outputs['potential'], outputs['results'].get_dict()
        assert potential.get_content(mode='rb') == b'mace.model'
        assert (potential.elements, potential.cutoff, potential.seed) == (['C', 'Si'], 4.5, 42)
        assert (potential.trainer, potential.dtype, potential.suffix) == ('mace', 'float64', '.model')
        assert results['final']['epoch'] == 5 and len(results['epochs']) == 4
        assert results['loss']['weights']['stress'] == 100.0

    def test_model_of_stage_two(self, job: Callable) -> None:
        """The later one counts."""
        outputs, _ = job(models=('mace.model', 'mace_stagetwo.model'))
        assert outputs['potential'].filename == 'mace_stagetwo.model'

    def test_property_not_in_the_loss(self, job: Callable) -> None:
        """Asked for and not trained on: no potential comes of it (peer defect 12)."""
        outputs, node = job(log='INFO: WeightedEnergyForcesLoss(energy_weight=1.000, forces_weight=10.000)')
        assert node.exit_status == 311 and 'potential' not in outputs and 'results' in outputs
        assert node.exit_message.startswith('stress asked for but not in the loss')
        assert 'WeightedEnergyForcesLoss(energy_weight=1.000' in node.exit_message

    def test_loss_not_printed(self, job: Callable) -> None:
        """What cannot be asserted does not pass."""
        _, node = job(log='INFO: nothing about it')
        assert node.exit_status == 311 and 'energy, forces, stress' in node.exit_message

    @pytest.mark.parametrize('value', [float('nan'), float('inf')])
    def test_diverged(self, job: Callable, value: float) -> None:
        """Also with a model; the epochs before are kept."""
        outputs, node = job(history=HISTORY + '\n' + epoch(15, value, rmse_f=value))
        assert node.exit_status == 312 and 'lower `lr`' in node.exit_message and 'potential' not in outputs
        assert [entry['epoch'] for entry in outputs['results']['epochs']] == [None, 0, 5, 10]

    def test_diverged_from_the_start(self, job: Callable) -> None:
        """No epoch to keep."""
        outputs, node = job(history=epoch(None, float('nan')))
        assert node.exit_status == 312 and not outputs

    def test_no_model(self, job: Callable) -> None:
        """The last words of the program are the reason; the history is kept."""
        outputs, node = job(log=LOG + 'RuntimeError: CUDA out of memory\n', models=())
        assert node.exit_status == 310
        assert node.exit_message.endswith('its last words: RuntimeError: CUDA out of memory')
        assert set(outputs) == {'results'}

    def test_no_history(self, job: Callable) -> None:
        """A model whose errors nobody knows."""
        outputs, node = job(history=None)
        assert node.exit_status == 313 and not outputs

    def test_nothing_retrieved(self, job: Callable) -> None:
        """Not even the log."""
        outputs, node = job(log=None)
        assert node.exit_status == 301 and not outputs
