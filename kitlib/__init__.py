"""kitlib: what the notebooks of the reproduction kit share. Whoever looks for a thing knows its door; arrows go down.

    cli          the command `kitlib`
    experiments  an experiment read and checked; runs, results, verdicts; batch, sweeps; publishing, reports of runs
    audit        a model, images and an epsilon -> nineteen checks, a verdict, a report; knows nothing of runs
    evaluation   accuracies and intervals, defences, detection, explanations
    plots        every picture; sliders
    training     plain, adversarial and certified training, checkpoints
    certify      what can be proved: interval and linear bounds, randomised smoothing
    attacks      ours and CleverHans's, one interface
    models       build, wiring, precision, predict: one place that calls a model
    data         pictures of any origin -> one Dataset
    base         settings and errors, whole files, digests, places, preparing TensorFlow

Words used throughout: *pixels* are float32, N x H x W x C, in [0, 1]; a *model* takes pixels and returns *logits*;
every *epsilon* is in pixels and written n/255. Importing does nothing: `kitlib.prepare()` starts TensorFlow.
"""
from kitlib.base.setup import Prepared, prepare

__version__ = "0.2.0"
__all__ = ["Prepared", "__version__", "prepare"]
