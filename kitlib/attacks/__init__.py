"""Attacks on image classifiers: one interface for all, compiled, judged in float32.

    attack = attacks.read({"name": "pgd", "eps": "8/255", "steps": 20})
    result = attacks.run(attack, model, images, labels)        # result.accuracy, result.images, ...
    images = attack.perturb(model, images, labels)             # tensors, inside a train_step
    patch = attacks.universal(model, images, labels, patch=(8, 8))      # one pattern for all images

`CATALOGUE` maps the names that YAML files use to the classes; each class cites its source.

Read first: gradient.py (FGSM, PGD and its step in `move`), then base.py (what every attack is made of) and driver.py
(`run`). limits.py: 8 bits and masks; minimal.py: C&W, DeepFool; square.py; patterns.py: one pattern for all images;
published.py: the papers' own; by_cleverhans.py.
"""
from __future__ import annotations

from kitlib.base.setup import check_backend

check_backend()     # before Keras is imported

from kitlib.attacks.base import Attack, InBall
from kitlib.attacks.by_cleverhans import CleverHans
from kitlib.attacks.driver import AttackResult, run, worst_case
from kitlib.attacks.gradient import APGD, FGSM, MIM, PGD, Clean, Noise
from kitlib.attacks.limits import Region
from kitlib.attacks.minimal import CarliniWagnerL2, DeepFool
from kitlib.attacks.patterns import Universal, universal
from kitlib.attacks.published import PaperAFGSM, PaperBCW, PaperBFGSM, PaperBPGD
from kitlib.attacks.square import Square
from kitlib.base.settings import read_named

_CLASSES = (Clean, Noise, FGSM, PGD, MIM, APGD, CarliniWagnerL2, DeepFool, Square,
            PaperAFGSM, PaperBFGSM, PaperBPGD, PaperBCW, CleverHans)
CATALOGUE: dict[str, type[Attack]] = {kind.model_fields["name"].default: kind for kind in _CLASSES}

__all__ = ["CATALOGUE", "Attack", "AttackResult", "InBall", "Region", "Universal", "read", "run", "universal",
           "worst_case",
           *(kind.__name__ for kind in _CLASSES)]


def read(settings: dict | str, where: str = "attack") -> Attack:
    """An attack from its settings, or from its name alone with the defaults that it has.

    `where` names their origin in error messages. Raises KitError for unknown names, keys and bad values.
    """
    return read_named(settings, CATALOGUE, "attack", where)
