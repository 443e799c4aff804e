"""Plain and adversarial training of Keras models that take pixels and return logits.

    history = training.train(model, dataset, training.TrainingSettings(method="pgd", eps="8/255"), folder, seed=0)

Read first: settings.py (the methods and what a YAML file may say), steps.py (one training step a method), then loop.py
(`train`, from data to history). A kill loses the epoch that runs: checkpoint.py keeps the others, and names a training
after what decides its outcome. batches.py: what a step sees; certified.py: training towards proofs; precision.py:
bfloat16 where it is fast; checks.py: what is refused.
"""
from kitlib.base.setup import check_backend

check_backend()     # before Keras is imported

from kitlib.training.batches import augment
from kitlib.training.loop import train
from kitlib.training.precision import precision_of
from kitlib.training.settings import Augmentation, RobustCheck, TrainingSettings
from kitlib.training.steps import training_for

__all__ = ["Augmentation", "RobustCheck", "TrainingSettings", "augment", "precision_of", "train", "training_for"]
