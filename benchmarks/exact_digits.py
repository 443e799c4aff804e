"""Digits exactly: what is proved, what is true and what an attack finds, of a network small enough to be solved.

    python -m benchmarks.exact_digits           # about a minute on two cores

The truth is a mixed-integer programme (Tjeng, Xiao & Tedrake 2019, arXiv:1711.07356), solved by scipy's HiGHS.
"""
from __future__ import annotations

import argparse
import time

import keras
import numpy as np
import scipy.optimize
import tensorflow as tf
from sklearn.datasets import load_digits

from benchmarks import common
from kitlib import attacks, certify
from kitlib.certify import graph, interval, linear
from kitlib.evaluation import Accuracy
from kitlib.training import certified


class Programme:
    """The outputs of a piecewise linear network on one box of pixels, in variables and constraints.

    An expression is a matrix, numbers x (variables + 1), whose last column is the constant. Every relu that is in doubt
    gets a variable y and a binary z: y >= p, y <= u z, y <= p - l (1 - z), y >= 0, for its argument p of l to u.
    """

    def __init__(self, nodes, ends, image, eps: float):
        """nodes: of `open_model`; ends: a lower and an upper bound of each node's numbers, of this image."""
        self.nodes, self.ends = nodes, ends
        self.lower, self.upper, self.integer = ([] for _ in range(3))
        self.rows, self.limits, self.shape = [], [], image.shape
        low, high = np.maximum(image - np.float32(eps), 0), np.minimum(image + np.float32(eps), 1)
        pixels = np.array([self._variable(*ends) for ends in zip(low.ravel(), high.ravel(), strict=True)])
        expressions = [self._of_variables(pixels)]
        for number in range(1, len(self.nodes)):
            expressions.append(self._expression(number, expressions))
        self.output = self._widened(expressions[-1])

    def least_margin(self, label: int) -> tuple[float, np.ndarray]:
        """The least margin of the label over all other classes and pixels in the box, and the pixels that have it."""
        found = [self._least(self.output[label] - self.output[other]) for other in range(len(self.output))
                 if other != label]
        return min(found, key=lambda each: each[0])

    def _least(self, expression):
        matrix = [np.pad(row, (0, len(self.lower) - len(row))) for row in self.rows]
        constraints = [scipy.optimize.LinearConstraint(np.array(matrix), -np.inf, self.limits)] if matrix else []
        solved = scipy.optimize.milp(expression[:-1], integrality=self.integer, constraints=constraints,
                                     bounds=scipy.optimize.Bounds(self.lower, self.upper),
                                     options={"mip_rel_gap": 0})
        if solved.x is None:
            raise RuntimeError(f"HiGHS: {solved.message}")
        pixels = solved.x[:int(np.prod(self.shape))].reshape(self.shape)
        return solved.fun + expression[-1], pixels.astype(np.float32)

    def _variable(self, lower: float, upper: float, integer: bool = False) -> int:
        self.lower.append(float(lower))
        self.upper.append(float(upper))
        self.integer.append(int(integer))
        return len(self.lower) - 1

    def _of_variables(self, places):
        expression = np.zeros((len(places), len(self.lower) + 1))
        expression[np.arange(len(places)), places] = 1
        return expression

    def _widened(self, expression):
        """The constant stays last when variables have been added."""
        missing = len(self.lower) + 1 - expression.shape[1]
        return np.insert(expression, [expression.shape[1] - 1] * missing, 0.0, axis=1)

    def _expression(self, number: int, expressions):
        node = self.nodes[number]
        inputs = [self._widened(expressions[place]) for place in node.inputs]
        lower, upper = self.ends[node.inputs[0]]
        if node.kind == "affine":
            return self._through_layer(node, inputs, [self.ends[place][0].shape for place in node.inputs])
        if node.kind == "max":
            return self._largest(inputs[0], lower, upper)
        if node.function != "relu":
            raise ValueError(f"{node.function} is not piecewise linear")
        above = self._relu(inputs[0], lower.ravel(), upper.ravel())
        return node.slope * self._widened(inputs[0]) + (1 - node.slope) * self._widened(above)

    @staticmethod
    def _through_layer(node, inputs, shapes):
        """Each column is an image to the layer, and the last one alone meets its bias."""
        columns = [tf.constant(each.T.reshape(-1, *shape), tf.float32) for each, shape in
                   zip(inputs, shapes, strict=True)]
        done = node.linear(columns, tf.identity).numpy().astype(float)
        if node.bias is not None:
            done[-1:] += node.bias()[0].numpy()
        return done.reshape(len(done), -1).T

    def _relu(self, inner, lower, upper):
        """One expression for each row of `inner`, whose values lie between `lower` and `upper`."""
        result = []
        for row, low, high in zip(inner, lower, upper, strict=True):
            if low >= 0 or high <= 0:
                result.append(row if low >= 0 else 0 * row)
                continue
            y, z = self._variable(0, high), self._variable(0, 1, integer=True)
            for own, of_y, of_z, limit in ((1, -1, 0, 0.0), (0, 1, -high, 0.0), (-1, 1, -low, -low)):
                constraint = np.zeros(z + 1)
                constraint[:len(row) - 1] = own * row[:-1]
                constraint[[y, z]] = of_y, of_z
                self.rows.append(constraint)
                self.limits.append(limit - own * row[-1])
            result.append(np.eye(1, z + 2, y)[0])
        return np.array([self._widened(each[None])[0] for each in result])

    def _largest(self, inner, lower, upper):
        """max(a, b) is a + relu(b - a). A pooling's padding counts as zeros, which is right behind a relu."""
        columns = np.moveaxis(inner.reshape(*lower.shape, -1), -3, 0)
        low, high = (np.moveaxis(end, -2, 0) for end in (lower, upper))
        best, least, most = columns[0].reshape(-1, inner.shape[1]), low[0].ravel(), high[0].ravel()
        for other, down, up in zip(columns[1:], low[1:], high[1:], strict=True):
            other = self._widened(other.reshape(-1, inner.shape[1]))
            best = self._widened(best)
            above = self._relu(other - best, down.ravel() - most, up.ravel() - least)
            best = self._widened(best) + above
            least, most = np.maximum(least, down.ravel()), np.maximum(most, up.ravel())
        return best


def programmes(model, images, eps: float) -> list[Programme]:
    """One of each image."""
    nodes = graph.open_model(model)
    boxes = linear.linear_forward(nodes, interval.input_set(tf.constant(images), eps, "linf"))
    ends = [(box.lower.numpy(), box.upper.numpy()) for box in boxes]
    return [Programme(nodes, [(lower[number], upper[number]) for lower, upper in ends], image, eps)
            for number, image in enumerate(images)]


def small_network(seed: int) -> keras.Model:
    """From 8 x 8 digits to logits; 64 relus."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Flatten(), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(10)])


def train(model, images, labels, eps: float, method: str, epochs: int = 40) -> None:
    """method: plain, pgd (10 steps) or ibp; Adam, batches of 100, in place."""
    schedule = certified.Schedule(eps=eps)
    optimizer, attack = keras.optimizers.Adam(3e-3), attacks.read({"name": "pgd", "eps": eps, "steps": 10})
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(images, labels, done):
        now, kappa, _ = schedule.at(done)
        if method == "pgd":
            images = attack.perturb(model, images, labels)
        with tf.GradientTape() as tape:
            if method == "ibp":
                losses = certified.certified_loss(model, images, labels, now, kappa)
            else:
                losses = keras.losses.sparse_categorical_crossentropy(labels, model(images), from_logits=True)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    batches = len(images) // 100
    for number in range(epochs * batches):
        chosen = slice(number % batches * 100, (number % batches + 1) * 100)
        step(images[chosen], labels[chosen], tf.constant(number / (epochs * batches)))


def three_numbers(model, images, labels, eps: float) -> dict:
    """Of each of the three, how many images it leaves standing: proved, truly robust, not broken by PGD."""
    started = time.perf_counter()
    true = np.array([programme.least_margin(label)[0] > 0
                     for programme, label in zip(programmes(model, images, eps), labels, strict=True)])
    seconds = time.perf_counter() - started
    attack = attacks.read({"name": "pgd", "eps": eps, "steps": 50, "restarts": 5})
    standing = ~attacks.run(attack, model, images, labels, keep_images=False).fooled
    proved = {name: certify.run({"name": name, "eps": eps}, model, images, labels).proved for name in certify.CATALOGUE}
    for name, those in proved.items():
        assert not (those & ~true).any() and not (true & ~standing).any(), f"{name}, the truth and PGD disagree"
    clean = model.predict(images, verbose=0).argmax(1) == labels
    return {"clean": clean, **proved, "true": true, "attacked": standing, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eps", type=float, default=0.08)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    data = load_digits()
    images, labels = (data.images[..., None] / 16).astype(np.float32), data.target.astype(np.int32)
    tested, rows = slice(1200, 1200 + chosen.images), []
    for method in ("plain", "pgd", "ibp"):
        model = small_network(chosen.seed)
        train(model, images[:1200], labels[:1200], chosen.eps, method)
        found = three_numbers(model, images[tested], labels[tested], chosen.eps)
        seconds = found.pop("seconds")
        rows.append({"training": method, "seconds_exact": seconds} |
                    {name: Accuracy.of(those).record() for name, those in found.items()})
        print(common.table(f"{method} training, eps {chosen.eps}", list(found),
                           [[f"{100 * those.mean():.1f} %" for those in found.values()]]), flush=True)
    common.write("exact_digits", {"eps": chosen.eps, "seed": chosen.seed, "rows": rows})


if __name__ == "__main__":
    main()
