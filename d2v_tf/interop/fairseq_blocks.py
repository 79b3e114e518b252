"""The Transformer blocks of fairseq's models, the same in speech and text."""

from d2v_tf.interop.layouts import QUERY_KEY_VALUE, SAME, TRANSPOSED

BLOCK = "encoder.blocks.{i}"


def block_keys(layer):
    """Rows of a key map (see `key_map`) for the blocks.

    Args:
        layer: str. What a block's keys begin with, with `{i}` for its number.
    """
    attention = f"{layer}.self_attn"
    return (
        (
            f"{BLOCK}.attention.qkv_kernel",
            QUERY_KEY_VALUE,
            f"{attention}.q_proj.weight",
            f"{attention}.k_proj.weight",
            f"{attention}.v_proj.weight",
        ),
        (f"{BLOCK}.attention.query_bias", SAME, f"{attention}.q_proj.bias"),
        (f"{BLOCK}.attention.key_bias_weight", SAME, f"{attention}.k_proj.bias"),
        (f"{BLOCK}.attention.value_bias", SAME, f"{attention}.v_proj.bias"),
        (f"{BLOCK}.attention.output_dense.kernel", TRANSPOSED, f"{attention}.out_proj.weight"),
        (f"{BLOCK}.attention.output_dense.bias", SAME, f"{attention}.out_proj.bias"),
        (f"{BLOCK}.attention_norm.gamma", SAME, f"{layer}.self_attn_layer_norm.weight"),
        (f"{BLOCK}.attention_norm.beta", SAME, f"{layer}.self_attn_layer_norm.bias"),
        (f"{BLOCK}.intermediate_dense.kernel", TRANSPOSED, f"{layer}.fc1.weight"),
        (f"{BLOCK}.intermediate_dense.bias", SAME, f"{layer}.fc1.bias"),
        (f"{BLOCK}.output_dense.kernel", TRANSPOSED, f"{layer}.fc2.weight"),
        (f"{BLOCK}.output_dense.bias", SAME, f"{layer}.fc2.bias"),
        (f"{BLOCK}.output_norm.gamma", SAME, f"{layer}.final_layer_norm.weight"),
        (f"{BLOCK}.output_norm.beta", SAME, f"{layer}.final_layer_norm.bias"),
    )
