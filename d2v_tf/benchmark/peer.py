"""The same training step with Hugging Face's encoders in PyTorch, to compare with."""

import numpy as np

from d2v_tf.errors import UserError
from d2v_tf.interop.huggingface import MODELS
from d2v_tf.interop.huggingface_config import write_config
from d2v_tf.training.schedules import build_schedule

# Precision, and whether torch.compile compiles the forward and backward pass.
SETTINGS = {
    "float32 eager": ("float32", False),
    "float32 compiled": ("float32", True),
    "bfloat16 eager": ("bfloat16", False),
    "bfloat16 compiled": ("bfloat16", True),
}


def import_peer(flag="--peer"):
    """Imports `torch` and `transformers`, which only the comparison of a flag needs.

    Raises:
        UserError: where they are not installed.
    """
    try:
        import torch
        import transformers
    except ImportError:
        raise UserError(
            f"{flag} compares with PyTorch: pip install torch transformers, or 'd2v_tf[test]'."
        ) from None
    return torch, transformers


class PeerStep:
    """data2vec's update of a model of the same architecture, written as one would in PyTorch.

    The models are those of `transformers`, their random weights, attention by PyTorch's fused
    kernel; student and teacher share what comes before the encoder, and waveforms go through it
    once, as in fairseq. Targets are the outputs of the last K blocks, where ours are what their
    feed-forward networks add: as much work. Parameters and the EMA are updated by PyTorch's fused
    or foreach kernels.

    Args:
        recipe: a resolved `Recipe`.
        backbone: the `Data2VecBackbone` of that recipe.
        batch: dict of arrays, a batch of the recipe's input.
        setting: a key of `SETTINGS`.

    Raises:
        UserError: where PyTorch is not installed, `transformers` has no such architecture, or the
            targets are normalized over the batch.
    """

    def __init__(self, recipe, backbone, batch, setting):
        self.torch, transformers = import_peer()
        self.precision, compiled = SETTINGS[setting]
        self.recipe, self.modality = recipe, recipe.modality
        if recipe.data2vec.target_norm == "batch":
            raise UserError(
                "data2vec.target_norm: batch is not compared; layer, instance and null are."
            )
        self.torch.manual_seed(recipe.seed)
        self.student = build_encoder(transformers, recipe, backbone)
        self.teacher = build_encoder(transformers, recipe, backbone).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.student.train()
        self.teacher.eval()
        if self.modality == "speech":
            self.teacher.feature_extractor = self.teacher.feature_projection = None
        else:
            self.teacher.embeddings = self.student.embeddings
        dim = recipe.model.hidden_dim
        linear = self.torch.nn.Linear
        layers = [linear(dim, dim)]
        if recipe.data2vec.head_layers == 2:
            layers = [linear(dim, 2 * dim), self.torch.nn.GELU(), linear(2 * dim, dim)]
        self.head = self.torch.nn.Sequential(*layers)
        self.parameters = [*self.student.parameters(), *self.head.parameters()]
        self.parameters = [p for p in self.parameters if p.requires_grad]
        group = recipe.optimizer
        self.optimizer = self.torch.optim.AdamW(
            self.parameters,
            lr=float(build_schedule(group.learning_rate, recipe.steps, recipe.schedule)(1)),
            betas=(group.beta_1, group.beta_2),
            eps=group.epsilon,
            weight_decay=group.weight_decay,
            fused=True,
        )
        self.batch = {
            name: self.torch.tensor(np.ascontiguousarray(value)) for name, value in batch.items()
        }
        if self.modality == "vision":
            images = self.batch["images"].permute(0, 3, 1, 2).contiguous()
            self.batch["images"] = images
        # Numbers of the masked positions of all examples: of one length, as a compiler wants them.
        self.batch["picked"] = self.batch["mask"].flatten().nonzero().flatten()
        self.loss = self.torch.compile(self._loss) if compiled else self._loss

    def __call__(self):
        """One update. Returns the loss, a float."""
        torch = self.torch
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss = self.loss(self.batch)
        loss.backward()
        if self.recipe.optimizer.global_clipnorm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.optimizer.global_clipnorm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            weight = 1.0 - self.recipe.data2vec.ema[0]
            torch._foreach_lerp_(
                list(self.teacher.encoder.parameters()),
                list(self.student.encoder.parameters()),
                weight,
            )
        return loss.item()

    def _loss(self, batch):
        functional, rule = self.torch.nn.functional, self.recipe.data2vec
        mask = batch["mask"]
        hidden, blocks = getattr(self, f"_{self.modality}")(batch, mask)
        dim = hidden.shape[-1]

        def pick(x):
            return x.reshape(-1, dim)[batch["picked"]]

        targets = 0.0
        for block in blocks[-rule.num_target_layers :]:
            block = block.float()
            if rule.target_norm == "instance":
                block = functional.instance_norm(block.transpose(1, 2)).transpose(1, 2)
            elif rule.target_norm == "layer":
                block = functional.layer_norm(pick(block), (dim,))
            targets = targets + block / rule.num_target_layers
        if rule.target_norm != "layer":
            targets = pick(targets)
        if rule.normalize_average:
            targets = functional.layer_norm(targets, (dim,))
        predictions = self.head(pick(hidden)).float()
        if rule.loss_beta == 0:
            losses = functional.mse_loss(predictions, targets, reduction="none")
        else:
            losses = functional.smooth_l1_loss(
                predictions, targets, reduction="none", beta=rule.loss_beta
            )
        return losses.sum(-1).mean() * dim**-0.5

    def _vision(self, batch, mask):
        with self.torch.no_grad():
            seen = self.teacher(batch["images"], output_hidden_states=True)
        out = self.student(batch["images"], bool_masked_pos=mask)
        return out.last_hidden_state[:, 1:], [block[:, 1:] for block in seen.hidden_states]

    def _text(self, batch, mask):
        attended = batch["padding_mask"].long()
        with self.torch.no_grad():
            ids = batch["target_token_ids"].long()
            seen = self.teacher(ids, attention_mask=attended, output_hidden_states=True)
        out = self.student(batch["token_ids"].long(), attention_mask=attended)
        return out.last_hidden_state, seen.hidden_states

    def _speech(self, batch, mask):
        student, teacher = self.student, self.teacher
        features = student.feature_extractor(batch["waveform"]).transpose(1, 2)
        features, _ = student.feature_projection(features)
        with self.torch.no_grad():
            blocks = _blocks_of(teacher.encoder, features.detach())
        token = student.masked_spec_embed.to(features.dtype)
        hidden = self.torch.where(mask[..., None], token, features)
        return student.encoder(hidden).last_hidden_state, blocks


def _blocks_of(encoder, hidden):
    """What each block of a speech encoder puts out: by itself it gives the last one's only."""
    hidden = encoder.layer_norm(hidden + encoder.pos_conv_embed(hidden))
    blocks = []
    for layer in encoder.layers:
        hidden = layer(hidden)
        blocks.append(hidden)
    return blocks


def build_encoder(transformers, recipe, backbone):
    """The model of `transformers` with a backbone's architecture and random weights.

    Raises:
        UserError: names what it has no word for.
    """
    model = next(m for m in MODELS.values() if isinstance(backbone, m.backbone_class))
    try:
        fields = write_config(model, backbone)
    except ValueError as error:
        raise UserError(f"transformers has no such model: {error}") from None
    for name in ("architectures", "model_type", "dtype", "d2v_tf"):
        fields.pop(name, None)
    config = getattr(transformers, f"{model.architecture.removesuffix('Model')}Config")(**fields)
    options = {} if recipe.modality == "speech" else {"add_pooling_layer": False}
    return getattr(transformers, model.architecture)(config, **options)
