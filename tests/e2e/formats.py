"""One small GGUF file for each type that a matrix may be stored as, with random weights: what the formats' tests read.

The blocks' bytes are random, and their scales such that weights have about the size of a trained checkpoint's; no quantiser is needed.  Rows are
multiples of 256 (a super-group of the K types), and three query heads to a KV head with head and channel counts that two ranks cut inside a super-group.
"""
import numpy as np

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, CHANNELS, LAYERS, VOCAB = 512, 12, 3, 64, 768, 2, 512
# type: values and bytes of a block; the f16 numbers in it: (offset, value)
BLOCKS = {
    "Q8_0": (32, 34, [(0, 4e-4)]),
    "Q4_0": (32, 18, [(0, 5e-3)]), "Q4_1": (32, 20, [(0, 5e-3), (2, -3.75e-2)]),
    "Q5_0": (32, 22, [(0, 2.5e-3)]), "Q5_1": (32, 24, [(0, 2.5e-3), (2, -3.9e-2)]),
    "Q2_K": (256, 84, [(80, 4e-3), (82, 6e-3)]), "Q3_K": (256, 110, [(108, 5e-4)]),
    "Q4_K": (256, 144, [(0, 1.6e-4), (2, 1.2e-3)]), "Q5_K": (256, 176, [(0, 8e-5), (2, 1.2e-3)]), "Q6_K": (256, 210, [(208, 2e-5)]),
    "IQ4_NL": (32, 18, [(0, 5e-4)]),
}
FLOATS = ("F32", "F16", "BF16")
TYPES = (*FLOATS, *BLOCKS)


def blocks(rng, name, shape):
    """Raw bytes [rows, row bytes] of a matrix."""
    rows, cols = shape
    if name in FLOATS:
        w = rng.normal(0, 0.03, shape).astype(np.float32)
        if name == "BF16":
            return (w.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(rows, -1)
        return w.astype(np.float16 if name == "F16" else np.float32).view(np.uint8).reshape(rows, -1)
    values, size, numbers = BLOCKS[name]
    b = rng.integers(0, 256, (rows * cols // values, size), dtype=np.uint8)
    for offset, value in numbers: # scales differ from block to block
        scale = (value * rng.uniform(0.8, 1.2, len(b))).astype(np.float16)
        b[:, offset:offset + 2] = scale.view(np.uint8).reshape(-1, 2)
    return b.reshape(rows, -1)


def write(path, name, seed=1):
    import gguf
    rng, kind = np.random.default_rng(seed), gguf.GGMLQuantizationType[name]
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name(f"random {name}")
    w.add_block_count(LAYERS)
    w.add_context_length(512)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(CHANNELS)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(VOCAB)

    def matrix(key, rows, cols):
        w.add_tensor(key, blocks(rng, name, (rows, cols)), raw_dtype=kind)

    def norm(key):
        w.add_tensor(key, rng.uniform(0.8, 1.2, HIDDEN).astype(np.float32))

    matrix("token_embd.weight", VOCAB, HIDDEN)
    matrix("output.weight", VOCAB, HIDDEN)
    norm("output_norm.weight")
    for i in range(LAYERS):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        for key, rows, cols in (("attn_q", HEADS * HEAD_DIM, HIDDEN), ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN), ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
                                ("attn_output", HIDDEN, HEADS * HEAD_DIM), ("ffn_gate", CHANNELS, HIDDEN), ("ffn_up", CHANNELS, HIDDEN),
                                ("ffn_down", HIDDEN, CHANNELS)):
            matrix(f"blk.{i}.{key}.weight", rows, cols)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
