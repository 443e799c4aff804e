"""What can be proved of a network: an attack finds how bad it is at least, a proof how bad it can be at most.

    found = certify.run({"name": "crown", "eps": "2/255"}, model, images, labels)      # found.proved, found.margins
    found = certify.smooth({"sigma": 0.25}, model, images, labels)                     # found.radii, found.accuracy(r)

Read first: bounds.py (the methods by name), then interval.py (boxes pushed forward, and why a proof survives rounding)
and linear.py (CROWN, weights pulled backward). graph.py opens a Keras model, lines.py has the lines around a curve,
smoothing.py is randomised smoothing. Training towards proofs is kitlib.training.certified.
"""
from kitlib.certify.bounds import CATALOGUE, Bounds, Method, read, run
from kitlib.certify.smoothing import ABSTAINS, Radii, Smoothing, radius_of, smooth

__all__ = ["ABSTAINS", "CATALOGUE", "Bounds", "Method", "Radii", "Smoothing", "radius_of", "read", "run", "smooth"]
