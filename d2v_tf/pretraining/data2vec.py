"""data2vec's learning rule: a student predicts what its own past sees without the mask."""

import keras
import tensorflow as tf
from keras import ops

from d2v_tf.backbones.initializers import without_drawing
from d2v_tf.backbones.transformer import FEATURE_KINDS
from d2v_tf.pretraining.ema import ema_decay, update_teacher
from d2v_tf.pretraining.masked_positions import masked_positions, most_masked
from d2v_tf.pretraining.micro_batches import sum_over_micro_batches
from d2v_tf.pretraining.part_compilers import parts_in_other_ways
from d2v_tf.pretraining.remat import rematerialized
from d2v_tf.pretraining.replicas import (
    replica_number,
    replicated_train_function,
    seed_states,
    seeds_apart,
    sum_over_replicas,
    update_as_it_is,
)
from d2v_tf.pretraining.targets import (
    TARGET_NORMS,
    average_targets,
    deviation,
    moment_sums,
    regression_loss,
    sequence_deviation_sums,
)


class Data2Vec(keras.Model):
    """Pre-trains a backbone by masked regression of an EMA teacher's averaged blocks.

    The whole rule of arXiv 2202.03555. Student and teacher share the frontend, which is evaluated
    once a step; only the Transformer encoder has an EMA copy, kept in float32. The teacher sees
    the unmasked features in inference mode. Head, targets and loss exist at masked positions only.

    A batch is a dict: the backbone's inputs (a backbone of a single input: under that input's
    name, `"images"`) and `"mask"`, bool `[B, T]`, True = hidden from the student. An input that
    differs for the teacher comes twice, the teacher's under `"target_" + name`. B and T may differ
    from batch to batch.

    Args:
        student: a `Data2VecBackbone`.
        num_target_layers: int. K, the number of last teacher blocks that are averaged.
        target_features: `"ffn"`, the feed-forward output before the block's last residual
            connection, or `"block"`, the block's output.
        target_norm: `"instance"`, `"layer"`, `"batch"` or `None`.
        normalize_average: bool. Normalise the average once more.
        loss_beta: float. Threshold of smooth L1; 0 is squared error.
        loss_scale: optional float. Defaults to `1 / sqrt(D)`.
        ema: (tau_0, tau_e, tau_n). The decay rises linearly from the first to the second over the
            first tau_n updates.
        head_layers: 1 (linear) or 2 (linear D -> 2 D, GELU, linear 2 D -> D).
        max_masked: optional int, or a function of T that gives it. The most masked positions in an
            example, fixed so that shapes are static; positions past it would be left out of the
            loss. Defaults to T.
        accumulate: int. Micro-batches that an update's batch is computed in, one after the other.
            The loss is divided by the masked positions of the whole batch, so the result depends on
            it only where dropout or stochastic depth draws for each part anew.
        remat: bool. Whether the student's blocks are computed a second time for the gradient: a
            block's input stays in memory, and not what it computes from it. So are the convolutions
            over waveforms, for one example after the other.
        compile_parts: bool. Whether XLA compiles what `backbones/compiled_parts.py` names, such as
            layer norms, each by itself, where `compile` is given `jit_compile=False`. On CPUs that
            is mostly faster than a step that is compiled as a whole.

    Raises:
        ValueError: for arguments outside these.

    Example:
    ```python
    model = d2v_tf.Data2Vec(backbone, num_target_layers=4, target_norm="layer", loss_beta=2.0,
                            normalize_average=True, ema=(0.99, 0.999, 1000))
    model.compile(keras.optimizers.AdamW(1e-3))
    model.fit(dataset, steps_per_epoch=2000)  # logs: loss, target_var, pred_var, ...
    ```
    """

    def __init__(
        self,
        student,
        num_target_layers,
        target_features="ffn",
        target_norm="layer",
        normalize_average=False,
        loss_beta=0.0,
        loss_scale=None,
        ema=(0.999, 0.9999, 30000),
        head_layers=1,
        max_masked=None,
        accumulate=1,
        remat=False,
        compile_parts=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        num_blocks = len(student.encoder.blocks)
        if not 1 <= num_target_layers <= num_blocks:
            raise ValueError(
                f"num_target_layers must be between 1 and the student's {num_blocks} blocks. "
                f"Received: {num_target_layers}"
            )
        if target_features not in FEATURE_KINDS:
            raise ValueError(
                f"target_features must be one of {FEATURE_KINDS}. Received: {target_features!r}"
            )
        if target_norm not in TARGET_NORMS:
            raise ValueError(
                f"target_norm must be one of {TARGET_NORMS}. Received: {target_norm!r}"
            )
        if head_layers not in (1, 2):
            raise ValueError(f"head_layers must be 1 or 2. Received: {head_layers!r}")
        if loss_beta < 0:
            raise ValueError(f"loss_beta must be at least 0. Received: {loss_beta}")
        tau_0, tau_e, tau_n = ema
        if not (0 <= tau_0 <= 1 and 0 <= tau_e <= 1 and tau_n >= 0):
            raise ValueError(
                f"ema must be (tau_0, tau_e, tau_n) with both taus in [0, 1]. Received: {ema}"
            )
        if isinstance(max_masked, int) and max_masked < 1:
            raise ValueError(f"max_masked must be at least 1. Received: {max_masked}")
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1. Received: {accumulate}")
        if accumulate > 1 and target_norm == "batch":
            raise ValueError(
                'target_norm="batch" takes its statistics from the whole batch and cannot be '
                f"accumulated. Received: accumulate={accumulate}"
            )
        self.student = student
        self.num_target_layers = num_target_layers
        self.target_features = target_features
        self.target_norm = target_norm
        self.normalize_average = normalize_average
        self.loss_beta = loss_beta
        self.loss_scale = loss_scale
        self.ema = (tau_0, tau_e, tau_n)
        self.head_layers = head_layers
        self.max_masked = max_masked
        self.accumulate = accumulate
        self.remat = remat
        self.compile_parts = compile_parts
        self._halves = None

        dim = student.output_shape[-1]
        self.teacher = type(student.encoder).from_config(
            {**student.encoder.get_config(), "name": "teacher"}
        )
        with without_drawing():  # it gets the student's weights
            self.teacher.build((None, student.output_shape[1], dim))
        self.teacher.trainable = False  # after build: it reaches only layers that exist
        self.reset_teacher()
        widths = [dim] if head_layers == 1 else [2 * dim, dim]
        self.head = keras.Sequential(
            [
                keras.layers.Dense(
                    width,
                    activation="gelu" if i + 1 < len(widths) else None,
                    kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
                    dtype=student.dtype_policy,
                    name=f"dense_{i}",
                )
                for i, width in enumerate(widths)
            ],
            name="head",
        )
        self.head.build((None, None, dim))
        self.built = True

    def reset_teacher(self):
        """Makes the teacher a copy of the student, as at the start of a run."""
        for target, source in zip(self.teacher.weights, self.student.encoder.weights, strict=True):
            target.assign(source)

    def call(self, batch, training=False):
        return self.predictions(batch, training=training)

    def predictions(self, batch, training=False):
        """The student's predictions at every position: float32 `[B, T, D]`."""
        embedded = self.student.frontend(self._inputs(batch), training=training)
        hidden = self._student_hidden(embedded, batch["mask"], training)
        return self._predict(hidden)

    def targets(self, batch):
        """The regression targets at every position: float32 `[B, T, D]`."""
        embedded = self.student.frontend(self._target_inputs(batch), training=False)
        blocks = self._teacher_blocks(embedded)
        return average_targets(
            blocks, self.target_norm, self.normalize_average, embedded.get("padding_mask")
        )

    @property
    def num_replicas(self):
        """int. The parts that an update's batch is computed in at the same time."""
        return self.distribute_strategy.num_replicas_in_sync

    def compile(self, *args, **kwargs):
        """As Keras'."""
        self._halves = None
        super().compile(*args, **kwargs)

    def make_train_function(self, force=False):
        """As Keras', but of a step that XLA compiles in parts.

        Forward and backward pass are worth compiling. The update is one ready kernel a variable,
        and compiling it takes longer than all the rest; replicas add up gradients before it, which
        XLA cannot compile along.
        """
        if self.train_function is not None and not force:
            return
        self._halves = self._make_halves()
        if self.num_replicas > 1:
            if self.steps_per_execution > 1:
                raise ValueError(
                    "In replicas an execution is one update. "
                    f"Received: steps_per_execution={self.steps_per_execution}"
                )
            update_as_it_is(self.optimizer)
            self.train_function = replicated_train_function(
                self.distribute_strategy, self.train_step, self.run_eagerly
            )
            return
        jit_compile, self.jit_compile = self.jit_compile, self.jit_compile and self._compiles_whole
        super().make_train_function(force)
        self.jit_compile = jit_compile

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Everything is built; Keras would reduce a first batch over the replicas to find out."""

    @property
    def _compiles_whole(self):
        """Whether the step is compiled as one: TPUs have it so, the all-reduce with it."""
        return isinstance(self.distribute_strategy, tf.distribute.TPUStrategy)

    def _make_halves(self):
        """The two halves of a step, before and after the all-reduce."""
        gradients_of = self._gradients_of if self.num_replicas == 1 else self._gradients_apart
        # XLA has no all-reduce between its devices here, and batch norm needs one inside.
        reduces = self.num_replicas > 1 and self.target_norm == "batch"
        if self.jit_compile and not (self.run_eagerly or self._compiles_whole or reduces):
            gradients_of = tf.function(
                gradients_of, jit_compile=True, reduce_retracing=True, autograph=False
            )
        return gradients_of, self._update

    def train_step(self, batch):
        """One update of the student and one step of the EMA. Returns the logs.

        In replicas: of all of them together. Sums over positions are added up before anything is
        divided, clipped or logged, so the result is that of the whole batch in one replica.
        """
        gradients_of, update = self._halves or (self._gradients_of, self._update)
        add_up = sum_over_replicas if self.num_replicas > 1 else lambda x: x
        # The divisor is known before the first forward pass, so micro-batches add up exactly.
        counts = tf.math.count_nonzero(batch["mask"], axis=1, dtype=tf.int32)  # [B]
        counts = tf.minimum(counts, most_masked(batch["mask"], self.max_masked))
        total, examples = add_up(
            [
                tf.cast(tf.reduce_sum(counts), tf.float32),
                tf.cast(tf.shape(counts)[0], tf.float32),
            ]
        )
        replica = () if self.num_replicas == 1 else (replica_number(),)
        gradients, sums = add_up(gradients_of(batch, tf.maximum(total, 1.0), *replica))
        return {
            "loss": sums["loss"],
            "target_var": deviation(sums["targets"]),
            "pred_var": deviation(sums["predictions"]),
            "frontend_var": sums["frontend"][0] / tf.maximum(sums["frontend"][1], 1.0),
            **update(gradients),
            "examples": examples,
        }

    def _update(self, gradients):
        """Applies the batch's gradients and moves the teacher."""
        decay = ema_decay(self.optimizer.iterations, *self.ema)
        learning_rate = ops.convert_to_tensor(self.optimizer.learning_rate)
        self.optimizer.apply(gradients, self.trainable_variables)
        update_teacher(self.teacher.weights, self.student.encoder.weights, decay)
        return {"ema_decay": decay, "learning_rate": learning_rate}

    def _gradients_apart(self, batch, total, replica):
        """`_gradients_of` with dropout that no other replica draws."""
        with seeds_apart(seed_states(self), replica):
            return self._gradients_of(batch, total)

    def _gradients_of(self, batch, total):
        gradients = self._gradients if self.accumulate == 1 else self._accumulated_gradients
        with self.part_compilers():  # also where blocks are computed again for the gradient
            return gradients(batch, total)

    def part_compilers(self):
        """A context for what `compile_parts` and `remat` ask of parts of the model."""
        wanted = self.compile_parts and not self.jit_compile
        return parts_in_other_ways(wanted, self.student.compute_dtype, self.remat)

    def _gradients(self, batch, total):
        """Gradients of the loss summed over `batch` divided by `total`, and the sums to log."""
        with tf.GradientTape() as tape:
            predictions, targets, weights, frontend = self._masked_regression(batch)
            losses = regression_loss(predictions, targets, self.loss_beta, self.loss_scale)
            loss = tf.reduce_sum(losses * weights) / total
        gradients = tape.gradient(loss, [v.value for v in self.trainable_variables])
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        return gradients, {
            "loss": loss,
            "targets": moment_sums(targets, weights),
            "predictions": moment_sums(predictions, weights),
            "frontend": frontend,
        }

    def _accumulated_gradients(self, batch, total):
        dim = self.student.output_shape[-1]
        zeros = (
            [tf.zeros(v.shape, v.dtype) for v in self.trainable_variables],
            {
                "loss": tf.zeros([]),
                "targets": tf.zeros([3, dim]),
                "predictions": tf.zeros([3, dim]),
                "frontend": tf.zeros([2]),
            },
        )
        return sum_over_micro_batches(
            lambda part: self._gradients(part, total), batch, self.accumulate, zeros
        )

    def _masked_regression(self, batch):
        """Predictions and targets at masked positions, float32 `[B, M, D]`, their weights `[B, M]`.

        Also the sums `[2]` for the frontend's deviation over the sequence.
        """
        mask = batch["mask"]
        gather, weights = masked_positions(mask, self.max_masked)
        embedded = target_embedded = self.student.frontend(self._inputs(batch), training=True)
        if self._has_target_inputs(batch):
            target_embedded = self.student.frontend(self._target_inputs(batch), training=False)

        def keep(x):
            return gather(x[:, self.student.num_prefix_tokens :])

        if self.target_norm in (None, "layer"):  # no position's target depends on another's
            blocks = self._teacher_blocks(target_embedded, keep)
            targets = average_targets(blocks, self.target_norm, self.normalize_average)
        else:
            targets = gather(
                average_targets(
                    self._teacher_blocks(target_embedded),
                    self.target_norm,
                    self.normalize_average,
                    target_embedded.get("padding_mask"),
                    sum_over_replicas if self.num_replicas > 1 else None,
                )
            )
        hidden = self._student_hidden(embedded, mask, training=True, keep=keep)
        frontend = sequence_deviation_sums(embedded["features"], embedded.get("padding_mask"))
        return self._predict(hidden), targets, weights, frontend

    def _student_hidden(self, embedded, mask, training, keep=None):
        """The student's last block with the masked positions hidden from it.

        `[B, T, D]`, or with `keep` what that picks.
        """
        student, padding_mask = self.student, embedded.get("padding_mask")
        features = embedded["features"]
        if student.mask_token is not None:
            features = student.mask_token(features, mask)
        features = student.positions(features, padding_mask, training=training)
        run_block = rematerialized if self.remat and training else None
        hidden = student.encoder(
            features, padding_mask, training=training, run_block=run_block, keep=keep
        )
        return hidden[:, student.num_prefix_tokens :] if keep is None else hidden

    def _predict(self, hidden):
        if self.student.final_norm is not None:
            hidden = self.student.final_norm(hidden)
        return ops.cast(self.head(hidden), "float32")

    def _teacher_blocks(self, embedded, keep=None):
        """The last K teacher blocks of unmasked features: each `[B, T, D]` or what `keep` picks."""
        student, padding_mask = self.student, embedded.get("padding_mask")
        features = ops.stop_gradient(embedded["features"])
        features = student.positions(features, padding_mask, training=False)
        _, blocks = self.teacher(
            features, padding_mask, training=False, features=self.target_features, keep=keep
        )
        blocks = blocks[-self.num_target_layers :]
        if keep is None:
            return [block[:, student.num_prefix_tokens :] for block in blocks]
        return [*map(keep, blocks[:-1]), blocks[-1]]

    def _inputs(self, batch):
        names = self.student.input_names
        if len(names) == 1:
            return batch[names[0]]
        return {name: batch[name] for name in names if name in batch}  # a padding mask is optional

    def _has_target_inputs(self, batch):
        return any(f"target_{name}" in batch for name in self.student.input_names)

    def _target_inputs(self, batch):
        names = self.student.input_names
        targets = {name: batch[f"target_{name}"] for name in names if f"target_{name}" in batch}
        return self._inputs({**batch, **targets})
