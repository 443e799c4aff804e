"""A Keras model opened into four kinds of node, of which every bound is made: `open_model`.

    input      the pixels
    affine     a linear function of one or more earlier nodes, plus a bias: convolutions, dense layers, batch norm in
               inference, average pooling, additions, and whatever only moves numbers about
    pointwise  relu (with any slope of 0 to 1 below zero), sigmoid, tanh
    max        the largest along the last axis but one, along which the node before has laid out each pooling window

A node reads its layer's weights whenever it is computed, so a graph stays true while the model is trained.
"""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

from kitlib.base.settings import KitError
from kitlib.models.reading import WithoutActivation
from kitlib.models.wiring import is_graph


def _not_affine(tensors: list, sizes: Callable) -> tf.Tensor:
    raise TypeError("only affine nodes are linear")


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One step. inputs: places of earlier nodes in the list that `open_model` returns.

    Of affine nodes: linear is (tensors, what is done with the layer's weights first: tf.identity, tf.abs or
    tf.square) -> tensor, one row an image, without the bias. bias, where there is one: () -> its value and the sum of
    the sizes of its parts. form: copy (numbers move), diagonal (each is scaled) or mixing. terms: how many numbers the
    layer or its transpose adds up at most. squares: whether squaring the weights squares all coefficients.
    Of pointwise nodes: the function's name, and relu's slope below zero.
    """

    kind: str
    inputs: tuple[int, ...] = ()
    linear: Callable = _not_affine
    bias: Callable | None = None
    form: str = ""
    terms: int = 0
    squares: bool = False
    function: str = ""
    slope: float = 0.0

    def affine(self, tensors: list) -> tf.Tensor:
        """What the layer returns."""
        result = self.linear(tensors, tf.identity)
        return result if self.bias is None else result + self.bias()[0]

    def size(self, tensors: list) -> tf.Tensor:
        """The sum of the sizes of all that is added up for each output, where the inputs are at most so large."""
        result = self.linear(tensors, tf.abs)
        return result if self.bias is None else result + self.bias()[1]


def open_model(model: keras.Model) -> list[Node]:
    """The nodes of a wired model in an order in which they can be computed; the last one makes the logits.

    Raises KitError for a layer that no bound is known for, by its name.
    """
    nodes = [Node("input")]
    _open(nodes, model, [0])
    return nodes


def _open(nodes: list[Node], model, inputs: list[int]) -> int:
    if not is_graph(model):
        raise KitError(f"nothing can be proved of '{model.name}': it is code, was never built, or has several ends")
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = [_translate(nodes, layer, inputs)]
        return inputs[0]
    places = {id(model.inputs[0]): inputs[0]}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for step in model._nodes_by_depth[depth]:
            if not step.is_input:
                sources = [places[id(tensor)] for tensor in step.input_tensors]
                places[id(step.outputs[0])] = _translate(nodes, step.operation, sources)
    return places[id(model.outputs[0])]


def _translate(nodes: list[Node], layer, inputs: list[int]) -> int:
    """Append the nodes of one layer, nested model or operation; the place of the last one. A subclass of a known layer
    is an unknown one."""
    if isinstance(layer, keras.Model):
        return _open(nodes, layer, inputs)
    without = isinstance(layer, WithoutActivation)
    layer = layer.layer if without else layer
    name = type(layer).__name__
    known = _LAYERS.get(type(layer)) or type(layer).__module__.startswith("keras.src.ops.") and _OPERATIONS.get(name)
    if not known or getattr(layer, "data_format", None) == "channels_first" or getattr(layer, "quantization_mode", 0):
        raise _unknown(layer, name)
    last = known(nodes, layer, inputs)
    activation = None if without else getattr(layer, "activation", None)
    if isinstance(activation, layers.Layer):
        return _translate(nodes, activation, [last])
    return last if activation is None else _activation(nodes, activation, last, layer)


def _unknown(layer, what: str) -> KitError:
    hint = "; take it off, as bounds are of logits" if "softmax" in what.lower() else ""
    return KitError(f"no bounds are known for layer '{layer.name}' ({what}){hint}")


def _append(nodes: list[Node], kind: str, inputs: list[int], **parts) -> int:
    nodes.append(Node(kind, tuple(inputs), **parts))
    return len(nodes) - 1


def _activation(nodes, function, place: int, layer) -> int:
    name = getattr(function, "__name__", str(function))
    if function is not getattr(keras.activations, name, None) or name not in _ACTIVATIONS:
        raise _unknown(layer, f"{name}; of activations keras.activations.{', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name](nodes, place)


def _relu(nodes, place: int, slope: float = 0.0, most: float | None = None) -> int:
    """min(relu(x), most) is most - relu(most - relu(x))."""
    last = _append(nodes, "pointwise", [place], function="relu", slope=slope)
    if most is None:
        return last
    turned = {"form": "diagonal", "terms": 1, "bias": lambda: (tf.constant(float(most)), tf.constant(float(most))),
              "linear": lambda xs, on: xs[0] * on(tf.constant(-1.0))}
    return _append(nodes, "affine", [_relu(nodes, _append(nodes, "affine", [last], **turned))], **turned)


def _relu_layer(nodes, layer, inputs):
    slope = float(getattr(layer, "negative_slope", 0.0))
    if getattr(layer, "threshold", 0.0) or not 0 <= slope <= 1:
        raise _unknown(layer, f"{type(layer).__name__} with a threshold, or a slope not of 0 to 1")
    return _relu(nodes, inputs[0], slope, getattr(layer, "max_value", None))


def _with_kernel(terms: Callable, multiply: Callable):
    """A layer with a kernel: multiply is (layer, x, kernel) -> output; terms is of the kernel's shape and the layer."""
    def translate(nodes, layer, inputs):
        return _append(nodes, "affine", inputs, form="mixing", terms=terms(*layer.kernel.shape), squares=True,
                       bias=(lambda: (layer.bias, tf.abs(layer.bias))) if layer.use_bias else None,
                       linear=lambda xs, on: multiply(layer, xs[0], on(tf.convert_to_tensor(layer.kernel))))

    return translate


def _convolved(layer, x, kernel):
    parts = zip(tf.split(x, layer.groups, -1), tf.split(kernel, layer.groups, -1), strict=True)
    done = [tf.nn.convolution(part, own, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate)
            for part, own in parts]
    return done[0] if len(done) == 1 else tf.concat(done, -1)


def _depthwise(layer, x, kernel):
    return tf.nn.depthwise_conv2d(x, kernel, (1, *layer.strides, 1), layer.padding.upper(), None, layer.dilation_rate)


def _scaling(numbers: Callable):
    """A layer that computes scale * x + offset; `numbers` returns scale, offset and the size of the offset's parts."""
    def translate(nodes, layer, inputs):
        if isinstance(layer, layers.BatchNormalization) and layer.axis not in (-1, layer.input_spec.ndim - 1):
            raise _unknown(layer, "BatchNormalization of another axis than the last")
        return _append(nodes, "affine", inputs, form="diagonal", terms=1, squares=True, bias=lambda: numbers(layer)[1:],
                       linear=lambda xs, on: xs[0] * on(numbers(layer)[0]))

    return translate


def _rescaling(layer):
    offset = tf.convert_to_tensor(layer.offset, tf.float32)
    return tf.convert_to_tensor(layer.scale, tf.float32), offset, tf.abs(offset)


def _normalisation(layer):
    mean, deviation = tf.cast(layer.mean, tf.float32), tf.maximum(tf.sqrt(tf.cast(layer.variance, tf.float32)), 1e-7)
    scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return scale, offset, tf.abs(offset)


def _batch_norm(layer):
    scale = tf.math.rsqrt(tf.convert_to_tensor(layer.moving_variance) + layer.epsilon)
    scale = scale * layer.gamma if layer.scale else scale
    shift, centre = -layer.moving_mean * scale, layer.beta if layer.center else tf.zeros_like(scale)
    return scale, centre + shift, tf.abs(centre) + tf.abs(shift)


def _by_layer(form: str, terms: Callable = lambda layer: 0):
    """A layer without weights whose coefficients are zero or more, so that it serves as its own absolute value."""
    def translate(nodes, layer, inputs):
        return _append(nodes, "affine", inputs, form=form, terms=terms(layer),
                       linear=lambda xs, on: layer(xs if len(xs) > 1 else xs[0]))

    return translate


def _add(nodes, layer, inputs):
    if len(inputs) < 2:
        raise _unknown(layer, "an addition of a constant")
    return _append(nodes, "affine", inputs, form="mixing", terms=len(inputs), linear=lambda xs, on: tf.add_n(xs))


def _pixels_of(layer) -> int:
    return max(math.prod(size or 1024 for size in node.input_tensors[0].shape[1:3]) for node in layer._inbound_nodes)


def _max_pool(nodes, layer, inputs):
    last = _append(nodes, "affine", inputs, form="copy", linear=lambda xs, on: tf.stack(_shifted(xs[0], layer), -2))
    return _append(nodes, "max", [last])


def _shifted(x, layer) -> list:
    """What the pooling's window holds at its first place, at its second, ...: each N x h x w x C; padding is zero."""
    spans = [_span(*axis, layer.padding) for axis in zip(x.shape[1:3], layer.pool_size, layer.strides, strict=True)]
    x = tf.pad(x, [(0, 0), *(padding for padding, _ in spans), (0, 0)])
    rows, columns = (starts for _, starts in spans)
    return [x[:, row, column] for row in rows for column in columns]


def _span(extent: int, size: int, stride: int, padding: str):
    """Along one axis: the padding before and after, and for each place in the window the slice that is seen there."""
    count = -(-extent // stride) if padding == "same" else (extent - size) // stride + 1
    missing = max((count - 1) * stride + size - extent, 0)
    return ((missing // 2, missing - missing // 2),
            [slice(first, first + (count - 1) * stride + 1, stride) for first in range(size)])


_COPY = _by_layer("copy")
_LAYERS = {
    layers.Dense: _with_kernel(max, lambda _, x, kernel: tf.tensordot(x, kernel, 1)),
    layers.Conv2D: _with_kernel(lambda h, w, inputs, filters: h * w * max(inputs, filters), _convolved),
    layers.DepthwiseConv2D: _with_kernel(lambda h, w, _, times: h * w * times, _depthwise),
    layers.Rescaling: _scaling(_rescaling), layers.Normalization: _scaling(_normalisation),
    layers.BatchNormalization: _scaling(_batch_norm), layers.Add: _add, layers.MaxPooling2D: _max_pool,
    layers.AveragePooling2D: _by_layer("mixing", lambda layer: math.prod(layer.pool_size)),
    layers.GlobalAveragePooling2D: _by_layer("mixing", _pixels_of), layers.Concatenate: _COPY,
    layers.Flatten: _COPY, layers.Reshape: _COPY, layers.Permute: _COPY, layers.ZeroPadding2D: _COPY,
    layers.ReLU: _relu_layer, layers.LeakyReLU: _relu_layer,
    **dict.fromkeys((layers.InputLayer, layers.Identity, layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise,
                     layers.Activation), lambda nodes, layer, inputs: inputs[0]),
}
_ACTIVATIONS: dict[str, Callable] = {
    "linear": lambda nodes, place: place, "relu": _relu, "relu6": lambda nodes, place: _relu(nodes, place, most=6.0),
    "leaky_relu": lambda nodes, place: _relu(nodes, place, 0.2),
    **{name: lambda nodes, place, name=name: _append(nodes, "pointwise", [place], function=name)
       for name in ("sigmoid", "tanh")},
}
_OPERATIONS = {
    "Add": _add, "Relu": _relu_layer, "LeakyRelu": _relu_layer,
    **{name: lambda nodes, layer, inputs: _ACTIVATIONS[type(layer).__name__.lower()](nodes, inputs[0])
       for name in ("Relu6", "Sigmoid", "Tanh")},
}
