"""Optimizers and learning-rate schedules. A schedule is a function of the step alone, so that a
training that goes on after a kill is at the same place of it."""
from __future__ import annotations

import keras
import tensorflow as tf

from kitlib.training.settings import TrainingSettings


class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam with the update of each variable in one pass over memory instead of about ten."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        beta_1, beta_2 = tf.cast(self.beta_1, variable.dtype), tf.cast(self.beta_2, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self._momentums[index].value.handle, v=self._velocities[index].value.handle,
            beta1_power=tf.pow(beta_1, step), beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, variable.dtype), beta1=beta_1, beta2=beta_2,
            epsilon=tf.cast(self.epsilon, variable.dtype), grad=gradient)


def optimizer_for(settings: TrainingSettings, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """`steps_per_epoch` counts updates of the weights."""
    rate = schedule_for(settings, settings.epochs * steps_per_epoch)
    decay = settings.weight_decay or None
    if settings.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=settings.momentum, weight_decay=decay)
    return FusedAdam(rate, weight_decay=decay)


def schedule_for(settings: TrainingSettings, total_steps: int):
    peak = settings.learning_rate
    if settings.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(peak, total_steps)
    if settings.schedule == "one_cycle":
        return OneCycle(peak, total_steps)
    if settings.schedule == "steps":
        boundaries = [max(1, total_steps // 2), max(2, total_steps * 3 // 4)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [peak, peak / 10, peak / 100])
    return peak


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to `peak` in the first two fifths, then linear to 0 (Wong et al. 2020, section 4)."""

    def __init__(self, peak: float, total_steps: int):
        self.peak, self.total_steps = peak, total_steps

    def __call__(self, step):
        done = tf.cast(step, tf.float32) / self.total_steps
        return self.peak * tf.maximum(0.0, tf.minimum(done / 0.4, (1 - done) / 0.6))

    def get_config(self):
        return {"peak": self.peak, "total_steps": self.total_steps}
