"""``python -m alpot_linear.run config.json``: train one member by a program of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from aiida_alpot.worker.training.settings import parse_settings
from aiida_alpot.worker.training.trainer import Member, Task, TrainingData
from alpot_linear.trainer import LinearTrainer

job = json.loads(Path(sys.argv[1]).read_text())
settings = parse_settings({**job['settings'], 'parameters': {**job['settings']['parameters'], 'separate': False}})
fields = job['task']['data']
data = TrainingData(**{**fields, 'train': Path(fields['train']), 'validation': Path(fields['validation'])})
given = job['member']
paths = {name: Path(given[name]) if given[name] else None for name in ('folder', 'start')}
indices = None if given['indices'] is None else np.array(given['indices'])
trainer = LinearTrainer(settings)
task = Task(Path(job['task']['folder']), settings, data)
trainer.load(task)
trainer.train(task, Member(**{**given, **paths, 'indices': indices}))
