"""Plain and adversarial training of Keras models that take pixels and return logits."""
from kitlib.base.setup import check_backend

check_backend()     # before Keras is imported

from kitlib.training.batches import augment
from kitlib.training.loop import train
from kitlib.training.precision import precision_of
from kitlib.training.settings import Augmentation, RobustCheck, TrainingSettings
from kitlib.training.steps import training_for

__all__ = ["Augmentation", "RobustCheck", "TrainingSettings", "augment", "precision_of", "train",
           "training_for"]
