"""Options of mace_run_train are compared with its own parser, without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from aiida_alpot.worker.training.mace import MaceTrainer, schema
from aiida_alpot.worker.training.mace.options import OF_JOB, OF_TRAINING, PATTERNS, check_labels, read_options, refusal
from aiida_alpot.worker.training.settings import parse_settings


def check(**given: Any) -> dict[str, Any]:
    """The options as MACE understands them."""
    settings = parse_settings({'trainer': 'mace', **given})
    MaceTrainer(settings).check_options()
    return read_options(settings)


def test_nothing_heavy_is_imported_and_it_is_fast() -> None:
    """Where options are checked, a daemon may do it often."""
    code = (
        'import sys, time\n'
        'from aiida_alpot.worker.training.mace import MaceTrainer\n'
        'from aiida_alpot.worker.training.settings import parse_settings\n'
        'began = time.process_time()\n'
        'settings = parse_settings({"trainer": "mace", "parameters": {"num_channels": 8, "stage_two": True}})\n'
        'MaceTrainer(settings).check_options()\n'
        'print(time.process_time() - began, {"torch", "mace", "e3nn"} & set(sys.modules))\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    seconds, _, heavy = done.stdout.strip().partition(' ')
    assert heavy == 'set()', done.stderr
    assert float(seconds) < 0.3


def test_options_that_mace_has() -> None:
    """Values become what MACE makes of them; aliases are known."""
    found = check(
        parameters={
            'num_channels': 16,
            'radial_MLP': [8, 8],
            'stage_two': True,
            'start_stage_two': 100,
            'ema': True,
            'clip_grad': None,
            'use_so3': False,
            'stage_two_forces_weight': 3,
            'swa_lr': None,
            'amsgrad': True,
        }
    )
    assert found == {
        'num_channels': 16,
        'radial_MLP': '[8, 8]',
        'swa': True,
        'start_swa': 100,
        'ema': True,
        'clip_grad': None,
        'use_so3': False,
        'swa_forces_weight': 3.0,
        'amsgrad': True,
    }


@pytest.mark.parametrize(
    ('parameters', 'sentence'),
    [
        ({'num_chanels': 16}, "no option 'num_chanels'. Did you mean 'num_channels'"),
        ({'config': 'x'}, "no option 'config'"),
        ({'num_channels': 'many'}, "`num_channels` of mace_run_train is 'many', expected a whole number"),
        ({'num_channels': 2.5}, 'expected a whole number'),
        ({'num_channels': True}, 'expected a whole number'),
        ({'num_channels': 0}, '`num_channels` is 0, expected a number in'),
        ({'max_L': -1}, '`max_L` is -1'),
        ({'eval_interval': 0}, '`eval_interval` is 0'),
        ({'gate': 'relu'}, "`gate` of mace_run_train is 'relu', expected one of silu, tanh, abs"),
        ({'use_so3': 3}, 'expected true or false'),
        ({'ema': 'yes'}, "`ema` of mace_run_train is 'yes', expected true or false"),
        ({'amsgrad': False}, 'always on'),
        ({'swa': True, 'stage_two': True}, 'given twice'),
        ({'hidden_irreps': '16x0e', 'num_channels': 16}, 'say the same'),
        ({'hidden_irreps': '16x0e + 8x1o'}, 'as many channels of each kind'),
        ({'hidden_irreps': 'sixteen'}, 'expected irreps'),
        ({'radial_MLP': '[8, 8'}, 'no list or mapping'),
        ({'scheduler': 'CosineAnnealingLR'}, 'value of `scheduler`'),
        ({'start_swa': 300}, 'MACE would leave stage two out'),
        ({'model': 'BOTNet'}, 'value of `model`'),
        ({'model': 'PolarMACE'}, 'value of `model`'),
    ],
)
def test_refused(parameters: dict[str, Any], sentence: str) -> None:
    """With a sentence that names the option."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check(parameters=parameters)


def test_each_option_is_given_in_one_place() -> None:
    """An option that is set elsewhere is refused, whatever its value, and the sentence says where."""
    for name, action in schema.actions().items():
        reason = refusal(name) or refusal(action.dest)
        if reason:
            with pytest.raises(ValueError, match=re.escape(f'option `{name}` of mace_run_train cannot')) as refused:
                check(parameters={name: 1})
            assert reason in str(refused.value)
    with pytest.raises(ValueError, match=r'`r_max` .*: give `cutoff` of `training`'):
        check(parameters={'r_max': 5.0})


def test_what_is_set_elsewhere_exists() -> None:
    """The lists of ours do not outlive the options of MACE."""
    dests = {action.dest for action in schema.actions().values()}
    assert set(OF_TRAINING) | set(OF_JOB) <= dests
    for pattern in PATTERNS:
        assert any(refusal(name) == PATTERNS[pattern] for name in schema.actions()), pattern


class TestLoss:
    """What is asked for has to be in the loss; which loss has what is read from MACE's source."""

    def test_of_mace(self) -> None:
        """As it is written there."""
        losses = schema.loss_weights('get_loss_fn')
        assert losses['weighted'] == {'energy': 'energy_weight', 'forces': 'forces_weight'}
        assert losses['universal']['stress'] == 'stress_weight'
        assert losses[schema.OTHERWISE] == {'energy': 1.0, 'forces': 1.0}
        assert 'stress' not in schema.loss_weights('get_swa')[schema.OTHERWISE]

    @pytest.mark.parametrize('loss', ['stress', 'huber', 'universal'])
    def test_with_stress(self, loss: str) -> None:
        """These have it."""
        check(parameters={'loss': loss})

    @pytest.mark.parametrize(
        ('parameters', 'sentence'),
        [
            (
                {'loss': 'weighted'},
                'does not contain the stress, which `weights` ask for: give `loss` as one of stress',
            ),
            ({'loss': 'forces_only'}, 'does not contain the energy, stress'),
            ({'loss': 'virials'}, 'does not contain the stress'),
            ({'loss': 'dipole'}, 'does not contain the energy, forces, stress'),
            ({'loss': 'huber', 'swa': True}, "the loss 'huber' of stage two of MACE does not contain the stress"),
            ({'loss': 'universal', 'swa': True, 'swa_stress_weight': 0}, '`swa_stress_weight` is 0'),
        ],
    )
    def test_without_what_is_asked_for(self, parameters: dict[str, Any], sentence: str) -> None:
        """Refused, also in stage two."""
        with pytest.raises(ValueError, match=re.escape(sentence)):
            check(parameters=parameters)

    def test_weights_that_are_not_followed(self) -> None:
        """The loss `ef` has weights of its own."""
        with pytest.raises(ValueError, match='has weights of its own for energy, forces'):
            check(parameters={'loss': 'ef'}, weights={'stress': 0})
        check(parameters={'loss': 'weighted'}, weights={'stress': 0})
        check(parameters={'loss': 'forces_only'}, weights={'stress': 0, 'energy': 0})

    def test_missing_labels(self) -> None:
        """A Huber loss of MACE would learn zeros."""
        settings = parse_settings({'trainer': 'mace'})
        labelled = {'energy': 4, 'forces': 4, 'stress': 3}
        check_labels('universal', settings, labelled, 4)
        with pytest.raises(ValueError, match='1 of 4 training frames have no stress'):
            check_labels('huber', settings, labelled, 4)

    def test_replay_has_its_own(self) -> None:
        """MACE would take another one without a word."""
        with pytest.raises(ValueError, match=r'MACE replays with the loss .universal. only'):
            check(parameters={'loss': 'stress'}, fine_tuning={'method': 'replay'})


def test_fine_tuning_that_mace_cannot_do() -> None:
    """All layers frozen, and LoRA with what is lost on the way back from cuequivariance."""
    with pytest.raises(ValueError, match=r'`fine_tuning\.freeze` is 7'):
        check(fine_tuning={'freeze': 7})
    with pytest.raises(ValueError, match='MACE loses what LoRA has learnt'):
        check(fine_tuning={'lora_rank': 2}, parameters={'enable_cueq': True})


def test_command_line() -> None:
    """What is written is read again by the parser of MACE."""
    options = {'name': 'x', 'ema': True, 'lbfgs': False, 'radial_MLP': [8, 8], 'lr': 0.1, 'clip_grad': None}
    args = schema.parser().parse_args(schema.arguments(options))
    assert (args.name, args.ema, args.lbfgs, args.radial_MLP, args.lr) == ('x', True, False, '[8, 8]', 0.1)
    assert args.clip_grad is None
