"""Masks: which positions the student must predict without seeing them.

Graph functions of shape and seed: equal seeds give equal masks, in any batch.
"""

from d2v_tf.masking.block import block_mask as block_mask
from d2v_tf.masking.block import num_masked_patches as num_masked_patches
from d2v_tf.masking.span import channel_mask as channel_mask
from d2v_tf.masking.span import max_masked_frames as max_masked_frames
from d2v_tf.masking.span import span_mask as span_mask
from d2v_tf.masking.token import max_masked_tokens as max_masked_tokens
from d2v_tf.masking.token import token_mask as token_mask
