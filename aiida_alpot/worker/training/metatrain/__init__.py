"""metatrain (https://github.com/metatensor/metatrain): PET, SOAP-BPNN, GAP and what else it trains."""

from aiida_alpot.worker.training.metatrain.trainer import MetatrainTrainer

__all__ = ['MetatrainTrainer']
