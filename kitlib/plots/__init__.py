"""Every picture of the kit; sliders to move by hand in sliders.py.

    plots.keep(plots.epsilon_curve(curves, epsilons, guessing), "sweep.png")

Read first: style.py (one style, one image), then images.py, curves.py and bars.py, each a page of small functions that
take arrays and records and return a matplotlib Figure.
"""
from kitlib.plots.bars import (
    accuracy_against_cost,
    accuracy_bars,
    claims,
    class_counts,
    confusion_matrices,
    naive_against_adaptive,
    recalls,
    similarity_maps,
    transfer_heatmap,
)
from kitlib.plots.curves import (
    along_axis,
    epsilon_curve,
    loss_along,
    neighbour_curves,
    over_seeds,
    roc_curves,
    specification_curve,
    training_curves,
)
from kitlib.plots.images import (
    attack_grid,
    explanations,
    first_look,
    image_pairs,
    image_row,
    one_attack,
    predictions,
    samples,
)
from kitlib.plots.style import COLOURS, GUESSING, PALETTE, finished, keep, picture, prediction, short, styled

__all__ = ["COLOURS", "GUESSING", "PALETTE", "accuracy_against_cost", "accuracy_bars", "along_axis", "attack_grid",
           "claims", "class_counts", "confusion_matrices", "epsilon_curve", "explanations", "finished", "first_look",
           "image_pairs", "image_row", "keep", "loss_along", "naive_against_adaptive", "neighbour_curves", "one_attack",
           "over_seeds", "picture", "prediction", "predictions", "recalls", "roc_curves", "samples", "short",
           "similarity_maps", "specification_curve", "styled", "training_curves", "transfer_heatmap"]
