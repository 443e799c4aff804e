"""The training steps: one Keras model per method, each with its own `train_step`.

A step is a forward and a backward pass (about 1 : 2 in cost), so what matters is which passes are
made. The comments give each method's cost in passes of a plain step.
"""
from __future__ import annotations

import keras
import tensorflow as tf

from kitlib.training.settings import TrainingSettings


class Training(keras.Model):
    """Plain training of `network` (pixels in, logits out), and the base of the other methods.

    class_weights: float32 per class, or None. seed: of the attacks' randomness. The logits are divided by the
    settings' temperature for the loss.
    """

    def __init__(self, network: keras.Model, settings: TrainingSettings, class_weights=None, seed: int = 0):
        super().__init__(name="training")
        self.network = network
        self.settings = settings
        self.training_mode = True
        self._class_weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
        self._seed = seed
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.accuracy_metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def call(self, pixels, training=False):
        return self.network(pixels, training=training)

    def _maybe_symbolic_build(self, **_batch) -> None:
        """Nothing is left to build, and Keras's way to it fails where devices get unequal parts of a batch."""

    def train_step(self, batch):
        images, labels = batch
        loss, gradients = self.loss_and_gradients(images, labels)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        return self._measured(loss)

    def loss_and_gradients(self, images, labels):
        """The loss, and its gradients for the network's trainable variables."""
        with tf.GradientTape() as tape:
            logits = self.logits(images)
            loss = self.mean_loss(logits / self.settings.temperature, labels)
        self.accuracy_metric.update_state(labels, logits)
        return loss, tape.gradient(loss, self.network.trainable_variables)

    def test_step(self, batch):
        images, labels = batch
        logits = self.logits(images, training=False)
        self.loss_metric.update_state(cross_entropy(labels, logits))
        self.accuracy_metric.update_state(labels, logits)
        return {"loss": self.loss_metric.result(), "accuracy": self.accuracy_metric.result()}

    def logits(self, images, training: bool | None = None):
        """Float32, also of a network that ends in a function of what it computes in bfloat16."""
        return tf.cast(self.network(images, training=self.training_mode if training is None else training), tf.float32)

    def mean_loss(self, logits, labels):
        """Cross-entropy, weighted by class, of this replica's part of the mean over the global batch."""
        return self.weighted_mean(cross_entropy(labels, logits, self.settings.label_smoothing), labels)

    def weighted_mean(self, losses, labels):
        """The same of any losses, one an image."""
        if self._class_weights is not None:
            losses *= tf.gather(self._class_weights, labels)
        return tf.reduce_mean(losses) / _replicas()

    def step_seeds(self, number: int) -> list:
        """`number` seeds that differ from step to step and from one replica to the next."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.stack([self._seed, tf.cast(self.optimizer.iterations, tf.int32)])
        return [tf.random.fold_in(tf.random.fold_in(seed, replica), each) for each in range(number)]

    def attack_in_training_mode(self) -> bool:
        return self.settings.sees_training_mode() and self.training_mode

    def _measured(self, loss) -> dict:
        self.loss_metric.update_state(loss * _replicas())
        return {metric.name: metric.result() for metric in (self.loss_metric, *self.training_metrics())}

    def training_metrics(self) -> list[keras.metrics.Metric]:
        """What a training step measures beside the loss."""
        return [self.accuracy_metric]


class Distilled(Training):
    """Defensive distillation (Papernot et al. 2016, arXiv:1511.04508, section IV): the targets are the teacher's
    probabilities, and both soften theirs with the temperature. A plain step and a pass forward of the teacher.
    """

    def __init__(self, network, settings, teacher: keras.Model, **named):
        super().__init__(network, settings, **named)
        self.teacher = teacher
        teacher.trainable = False

    def loss_and_gradients(self, images, labels):
        temperature = self.settings.temperature
        targets = tf.nn.softmax(tf.cast(self.teacher(images, training=False), tf.float32) / temperature)
        with tf.GradientTape() as tape:
            logits = self.logits(images)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits / temperature)
            loss = self.weighted_mean(losses, labels)
        self.accuracy_metric.update_state(labels, logits)
        return loss, tape.gradient(loss, self.network.trainable_variables)


class AdversarialTraining(Training):
    """What the adversarial methods share: they also measure the accuracy on the attacked images."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.adversarial_metric = keras.metrics.SparseCategoricalAccuracy(name="adversarial_accuracy")

    def training_metrics(self):
        return [self.accuracy_metric, self.adversarial_metric]


class SharedFGSM(AdversarialTraining):
    """Clean and FGSM images (paper A); one backward pass of the clean half serves weights and images.

    A plain step, plus the gradient of the first layer's input, plus a plain step on the adversarial
    images: 2. With predicted labels the image gradient is that of another loss and needs its own
    backward pass: 2.6.
    """

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.attack = self.settings.training_attacks()[0]
        self.clean_share = self.settings.share_of_clean()

    def loss_and_gradients(self, images, labels):
        variables = self.network.trainable_variables
        with tf.GradientTape(persistent=self.attack.labels == "predicted") as tape:
            tape.watch(images)
            logits = self.logits(images)
            clean_loss = self.clean_share * self.mean_loss(logits, labels)
            if self.attack.labels == "predicted":
                attack_loss = tf.reduce_sum(cross_entropy(tf.argmax(logits, axis=-1), logits))
        if self.attack.labels == "predicted":
            clean_gradients = tape.gradient(clean_loss, variables)
            image_gradient = tape.gradient(attack_loss, images)
        else:
            *clean_gradients, image_gradient = tape.gradient(clean_loss, [*variables, images])
        adversarial = self.attack.step_from_gradient(images, image_gradient)
        with tf.GradientTape() as tape:
            adversarial_logits = self.logits(adversarial)
            loss = (1 - self.clean_share) * self.mean_loss(adversarial_logits, labels)
        gradients = tape.gradient(loss, variables)
        self.accuracy_metric.update_state(labels, logits)
        self.adversarial_metric.update_state(labels, adversarial_logits)
        return clean_loss + loss, _added(clean_gradients, gradients)


class Mixed(AdversarialTraining):
    """Images of every attack and, with a weight above 0, the clean ones in one batch (paper B).

    With one attack and no clean images this is PGD training (Madry et al. 2018), FGSM training from a
    random start (Wong et al. 2020), or FGSM only: a plain step, plus the attack's k passes for the
    gradient of the images, each about 0.67 of a plain step.
    """

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.attacks = self.settings.training_attacks()
        share = self.settings.share_of_clean()
        self.shares = [share] * (share > 0) + [(1 - share) / len(self.attacks)] * len(self.attacks)

    def loss_and_gradients(self, images, labels):
        attacked = [
            attack.perturb(self.network, images, labels, seed=seed, training=self.attack_in_training_mode())
            for attack, seed in zip(self.attacks, self.step_seeds(len(self.attacks)), strict=True)]
        parts = [images, *attacked] if self._sees_clean_images() else attacked
        with tf.GradientTape() as tape:
            logits = tf.split(self.logits(tf.stop_gradient(tf.concat(parts, axis=0))), len(parts))
            loss = sum(share * self.mean_loss(part, labels) for share, part in zip(self.shares, logits, strict=True))
        if self._sees_clean_images():
            self.accuracy_metric.update_state(labels, logits[0])
        for part in logits[-len(attacked):]:
            self.adversarial_metric.update_state(labels, part)
        return loss, tape.gradient(loss, self.network.trainable_variables)

    def training_metrics(self):
        return super().training_metrics() if self._sees_clean_images() else [self.adversarial_metric]

    def _sees_clean_images(self) -> bool:
        return len(self.shares) > len(self.attacks)


class Free(AdversarialTraining):
    """Free adversarial training (Shafahi et al. 2019, arXiv:1904.12843, algorithm 1).

    Each batch is replayed; each replay's one backward pass gives a step of the weights and a step of
    the perturbation, which is carried over to the next batch. A replay costs a plain step.
    """

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        shape = (self.settings.batch_size // tf.distribute.get_strategy().num_replicas_in_sync,
                 *self.network.input_shape[1:])
        self.perturbation = tf.Variable(tf.zeros(shape), trainable=False, name="perturbation",
                                        synchronization=tf.VariableSynchronization.ON_READ,
                                        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    def train_step(self, batch):
        images, labels = batch
        variables, eps = self.network.trainable_variables, self.settings.eps
        for _ in range(self.settings.replays):
            adversarial = tf.clip_by_value(images + self.perturbation, 0.0, 1.0)
            with tf.GradientTape() as tape:
                tape.watch(adversarial)
                logits = self.logits(adversarial)
                loss = self.mean_loss(logits, labels)
            *gradients, image_gradient = tape.gradient(loss, [*variables, adversarial])
            self.optimizer.apply(gradients, variables)
            self.perturbation.assign(tf.clip_by_value(self.perturbation + eps * tf.sign(image_gradient), -eps, eps))
            self.adversarial_metric.update_state(labels, logits)
        return self._measured(loss)

    def training_metrics(self):
        return [self.adversarial_metric]


class Trades(AdversarialTraining):
    """TRADES (Zhang et al. 2019, arXiv:1901.08573, algorithm 1): cross-entropy of the clean images plus
    beta times the divergence KL(clean || attacked), maximised by the attack and minimised by the weights.

    Two plain steps, plus k passes for the gradient of the images and one pass forward.
    """

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.attack = self.settings.training_attacks()[0]

    def loss_and_gradients(self, images, labels):
        adversarial = self._most_divergent(images)
        with tf.GradientTape() as tape:
            logits, attacked_logits = self.logits(images), self.logits(adversarial)
            divergence = tf.reduce_mean(kl_divergence(logits, attacked_logits)) / _replicas()
            loss = self.mean_loss(logits, labels) + self.settings.beta * divergence
        self.accuracy_metric.update_state(labels, logits)
        self.adversarial_metric.update_state(labels, attacked_logits)
        return loss, tape.gradient(loss, self.network.trainable_variables)

    def _most_divergent(self, images):
        attack, training = self.attack, self.attack_in_training_mode()
        clean_logits = self.logits(images, training)
        start = 0.001 * tf.random.stateless_normal(tf.shape(images), self.step_seeds(1)[0])

        def ascend(number, adversarial):
            with tf.GradientTape() as tape:
                tape.watch(adversarial)
                divergence = kl_divergence(clean_logits, self.logits(adversarial, training))
            direction = tape.gradient(divergence, adversarial)
            return number + 1, attack.project(adversarial + attack.steepest_step(direction, attack.stride), images)

        _, adversarial = tf.while_loop(
            lambda number, _: number < attack.steps, ascend, (tf.constant(0), images + start), parallel_iterations=1)
        return tf.stop_gradient(adversarial)


def training_for(
    settings: TrainingSettings, network: keras.Model, class_weights=None, seed: int = 0, teacher=None
) -> Training:
    """The Keras model whose `fit` trains `network` by the settings' method; not compiled yet.

    teacher: for method distilled, a model of its own (it becomes untrainable).
    """
    if settings.method == "distilled":
        return Distilled(network, settings, teacher, class_weights=class_weights, seed=seed)
    return class_for(settings)(network, settings, class_weights=class_weights, seed=seed)


def class_for(settings: TrainingSettings) -> type[Training]:
    """The model of the settings' method."""
    if settings.method in ("plain", "static"):
        return Training
    if settings.method == "fgsm" and settings.share_of_clean() > 0 and settings.sees_training_mode():
        attack = settings.training_attacks()[0]
        return SharedFGSM if hasattr(attack, "step_from_gradient") else Mixed
    return {"free": Free, "trades": Trades, "distilled": Distilled}.get(settings.method, Mixed)


def cross_entropy(labels, logits, smoothing: float = 0.0):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if not smoothing:
        return losses
    return (1 - smoothing) * losses - smoothing * tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)


def kl_divergence(logits, other_logits):
    """KL(softmax(logits) || softmax(other_logits)) per image."""
    log_p, log_q = tf.nn.log_softmax(logits), tf.nn.log_softmax(other_logits)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def _replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def _added(some: list, others: list) -> list:
    """Sums of gradients; None, of a weight that the loss does not depend on, counts as zero."""
    def total(one, other):
        given = [tf.convert_to_tensor(each) for each in (one, other) if each is not None]   # of embeddings it is sparse
        return tf.add_n(given) if given else None

    return [total(one, other) for one, other in zip(some, others, strict=True)]
