"""Keras models from pixels to logits: build, save, load, ask.

    model = models.build(models.ModelSettings(name="even_deeper_cnn"), (32, 32, 3), classes=10, seed=0)
    logits = models.predict_logits(model, images)

Read first: networks.py (the papers' networks), then predict.py (the one place that calls a model). reading.py finds out
what anybody's model takes (ranges.py: 0..1, 0..255 or another range) and returns, wiring.py looks into its layers,
precision.py keeps judging in float32, loading.py and saving.py go to files and back.
"""
from kitlib.base.setup import check_backend

check_backend()     # before Keras is imported

from kitlib.models.networks import BUILDERS, ModelSettings, build, normalisation_of, weights_file
from kitlib.models.normalisation import IMAGENET, Normalisation
from kitlib.models.precision import NARROW, copy_weights, exact_float32, in_float32
from kitlib.models.predict import as_pixels, predict_logits, softmax
from kitlib.models.reading import NOT_FINITE, Target, from_pixels, pixels_to_logits, prepare, taking_pixels
from kitlib.models.saving import load, origin_of, save, with_origin

__all__ = ["BUILDERS", "IMAGENET", "ModelSettings", "NARROW", "NOT_FINITE", "Normalisation", "Target", "as_pixels",
           "build", "copy_weights", "exact_float32", "from_pixels", "in_float32", "load", "normalisation_of",
           "origin_of", "pixels_to_logits", "predict_logits", "prepare", "save", "softmax", "taking_pixels",
           "weights_file", "with_origin"]
