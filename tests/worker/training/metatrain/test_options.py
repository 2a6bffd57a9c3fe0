"""What is asked of metatrain is compared with what metatrain itself says that it takes."""

import subprocess
import sys

import pytest

from aiida_alpot.worker.training.metatrain import MetatrainTrainer
from aiida_alpot.worker.training.metatrain.architectures import CUTOFFS, defaults_of, look_up
from aiida_alpot.worker.training.metatrain.options import architecture_of, training_options
from aiida_alpot.worker.training.registry import make_trainer
from aiida_alpot.worker.training.settings import parse_settings

pytest.importorskip('metatrain', reason='metatrain is not installed: pip install aiida-alpot[metatrain]')


def settings_of(parameters=None, **options):
    return parse_settings({'trainer': 'metatrain', 'parameters': parameters or {}, **options})


def refusal(parameters=None, **options) -> str:
    with pytest.raises(ValueError) as caught:
        MetatrainTrainer(settings_of(parameters, **options)).check_options()
    return str(caught.value)


def test_it_is_in_the_registry_and_light():
    code = (
        'import sys; from aiida_alpot.worker.training.registry import trainer_class; trainer_class("metatrain");'
        'assert not {"torch", "metatrain", "metatomic", "omegaconf"} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
    assert isinstance(make_trainer(settings_of()), MetatrainTrainer)


@pytest.mark.parametrize('name', ['pet', 'soap_bpnn'])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_the_defaults_are_accepted(name, dtype):
    MetatrainTrainer(settings_of({'name': name}, dtype=dtype)).check_options()


def test_options_of_metatrain_are_accepted_by_their_names():
    parameters = {
        'name': 'pet',
        'atomic_types': [29, 79],
        'model': {'d_pet': 32, 'long_range': {'enable': True}},
        'training': {'weight_decay': 1e-3, 'best_model_metric': 'mae_prod', 'checkpoint_interval': 7, 'loss': 'huber'},
    }
    MetatrainTrainer(settings_of(parameters)).check_options()


@pytest.mark.parametrize(
    ('parameters', 'hint'),
    [
        ({'name': 'pett'}, "architecture of metatrain 'pett'. Did you mean 'pet'?"),
        ({'name': 'soapbpnn'}, "Did you mean 'soap_bpnn'?"),
        ({'name': 'utils'}, "unknown architecture of metatrain 'utils'"),
        ({'name': 'space'}, 'experimental.space'),
        ({'name': 3}, 'expected the name of an architecture'),
        ({'modell': {}}, "Did you mean 'model'?"),
        ({'model': {'d_pett': 8}}, "option of `parameters.model` 'd_pett'. Did you mean 'd_pet'?"),
        ({'model': {'long_range': {'enabel': True}}}, "option of `parameters.model.long_range` 'enabel'. Did you mean"),
        ({'model': {'d_pet': 'many'}}, "`parameters.model.d_pet` is 'many'"),
        ({'model': {'num_gnn_layers': 1.5}}, '`parameters.model.num_gnn_layers` is 1.5'),
        ({'model': 3}, '`parameters.model` is 3'),
        ({'training': {'warmup': 0.1}}, "Did you mean 'warmup_fraction'?"),
        ({'name': 'soap_bpnn', 'model': {'soap': {'max_angulr': 3}}}, "Did you mean 'max_angular'?"),
        ({'name': 'soap_bpnn', 'training': {'weight_decay': 0.1}}, "option of `parameters.training` 'weight_decay'"),
        ({'training': {'loss': {'enery': 'mse'}}}, "Did you mean 'energy'?"),
    ],
)
def test_what_metatrain_does_not_know_is_refused_with_the_nearest(parameters, hint):
    assert hint in refusal(parameters)


@pytest.mark.parametrize(
    ('parameters', 'key'),
    [
        ({'model': {'cutoff': 4.0}}, '`cutoff`'),
        ({'name': 'soap_bpnn', 'model': {'soap': {'cutoff': {'radius': 4.0}}}}, '`cutoff`'),
        ({'training': {'num_epochs': 5}}, '`epochs`'),
        ({'training': {'batch_size': 5}}, '`batch_size`'),
        ({'training': {'learning_rate': 0.1}}, '`learning_rate`'),
        ({'training': {'atomic_baseline': {'energy': 0.0}}}, 'reference energies'),
        ({'training': {'finetune': {'read_from': 'x.ckpt'}}}, '`foundation`'),
        ({'training': {'loss': {'energy': {'weight': 2.0}}}}, '`weights`'),
        ({'training': {'loss': {'energy': {'forces': {'type': 'mse', 'weight': 2.0}}}}}, '`weights`'),
        ({'training': {'loss': {'energy': {'gradients': {'strain': {'weight': 2.0}}}}}}, '`weights`'),
        ({'device': 'cuda'}, '`device`'),
        ({'base_precision': 64}, '`dtype`'),
        ({'seed': 3}, 'seeds of the members'),
        ({'test_set': 0.1}, 'splits'),
    ],
)
def test_what_every_training_has_is_refused_here(parameters, key):
    sentence = refusal(parameters)
    assert key in sentence
    assert 'leave' in sentence


@pytest.mark.parametrize('name', ['pet', 'soap_bpnn', 'gap', 'experimental.space', 'experimental.dpa3'])
def test_the_cutoff_is_put_where_the_architecture_keeps_it(name):
    architecture = architecture_of(settings_of({'name': name}, cutoff=4.25))
    assert look_up(architecture.model, CUTOFFS[name]) == 4.25
    assert look_up(defaults_of(name)['model'], CUTOFFS[name]) != 4.25


def test_an_architecture_whose_cutoff_has_no_known_place():
    assert 'give `cutoff: null`' in refusal({'name': 'experimental.flashmd'})
    assert architecture_of(settings_of({'name': 'experimental.flashmd'}, cutoff=None)).model == {}


def test_the_loss_has_the_weights_of_the_settings_and_the_kinds_that_are_given():
    def loss(given, **weights):
        settings = settings_of({'training': {'loss': given}}, weights=weights)
        return training_options(architecture_of(settings), settings)['loss']['energy']

    found = loss('huber', energy=2.0, forces=3.0, stress=4.0)
    assert (found['type'], found['weight']) == ('huber', 2.0)
    assert {name: term['weight'] for name, term in found['gradients'].items()} == {'positions': 3.0, 'strain': 4.0}
    assert {term['type'] for term in found['gradients'].values()} == {'huber'}
    for given in (
        {'forces': {'type': 'huber', 'delta': 0.1}},
        {'gradients': {'positions': {'type': 'huber', 'delta': 0.1}}},
    ):
        found = loss({'energy': given}, energy=1.0, forces=5.0, stress=0.0)
        assert found['type'] == 'mse'
        assert found['gradients'] == {
            'positions': {'type': 'huber', 'reduction': 'mean', 'delta': 0.1, 'weight': 5.0},
        }


def test_gap_is_given_no_epochs_and_its_dependencies_are_named():
    settings = settings_of({'name': 'gap'}, weights={'energy': 1.0, 'forces': 1.0, 'stress': 0.0}, learning_rate=None)
    assert training_options(architecture_of(settings), settings) == {}
    try:
        import skmatter  # noqa: F401
    except ImportError:
        assert 'pip install "metatrain[gap]"' in refusal({'name': 'gap'}, weights={'stress': 0.0})
        return
    MetatrainTrainer(settings).check_options()
    assert '`weights.stress: 0`' in refusal({'name': 'gap'})
    assert 'float64' in refusal({'name': 'gap'}, dtype='float32')
    assert '`learning_rate`' in refusal({'name': 'gap'}, learning_rate=0.1)


def test_what_gap_cannot(monkeypatch):
    """The code of GAP stands in for its dependencies, which do not go together with ours."""
    import torch

    class Model:
        __supported_devices__ = ('cpu',)
        __supported_dtypes__ = (torch.float64,)

    class Gap:
        __model__ = Model

    monkeypatch.setattr('aiida_alpot.worker.training.metatrain.options.import_architecture', lambda name: Gap)
    without = {'energy': 1.0, 'forces': 1.0, 'stress': 0.0}
    MetatrainTrainer(settings_of({'name': 'gap'}, weights=without)).check_options()
    assert '`weights.stress: 0`' in refusal({'name': 'gap'})
    assert 'float64 only: give `dtype: float64`' in refusal({'name': 'gap'}, weights=without, dtype='float32')
    assert 'leave out `learning_rate`' in refusal({'name': 'gap'}, weights=without, learning_rate=0.1)
    assert 'runs on cpu only' in refusal({'name': 'gap'}, weights=without, device='cuda')


def test_fine_tuning_that_metatrain_does_not_have_is_refused():
    assert 'no replay' in refusal(fine_tuning={'method': 'replay'})
    assert '`parameters.training.finetune.method: heads`' in refusal(fine_tuning={'freeze': 2})
    assert "no LoRA for 'soap_bpnn'" in refusal({'name': 'soap_bpnn'}, fine_tuning={'lora_rank': 4})
    assert 'leave them out' in refusal({'training': {'finetune': {'method': 'heads'}}}, fine_tuning={'lora_rank': 4})
    MetatrainTrainer(settings_of(fine_tuning={'lora_rank': 4})).check_options()
    MetatrainTrainer(settings_of({'training': {'finetune': {'method': 'heads'}}})).check_options()


def test_the_tasks_of_a_job_are_not_taken_for_ranks(monkeypatch):
    for name, value in {'SLURM_JOB_ID': '7', 'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}.items():
        monkeypatch.setenv(name, value)
    MetatrainTrainer(settings_of({'training': {'distributed': False}})).check_options()
