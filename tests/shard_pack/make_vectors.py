#!/usr/bin/env python3
"""Writes vectors.json: random blocks of every GGUF type and what the `gguf` package (0.19, numpy) makes of them.

    pip install gguf==0.19.0 && tests/shard_pack/make_vectors.py > tests/shard_pack/vectors.json

Random bytes are valid codes in every one of these formats; only the f16 scales are set to finite numbers of both signs.
"""
import json
import sys

import numpy as np
from gguf import GGMLQuantizationType, quants

# type -> byte offsets of its f16 scales
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0]}
SIZES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176,
         "Q6_K": 210, "IQ4_NL": 18}
rng = np.random.default_rng(20240229)
out = {}
for name, size in SIZES.items():
    n = 2 if size > 40 else 6
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in SCALES[name]:
        scale = (rng.standard_normal(n) * 0.05).astype(np.float16)
        scale[0] = np.float16(3e-7)  # a subnormal
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(n, 2)
    values = quants.dequantize(blocks.reshape(1, -1), GGMLQuantizationType[name]).astype("<f4")
    out[name] = {"blocks": blocks.tobytes().hex(), "values": values.tobytes().hex()}
json.dump(out, sys.stdout, indent=0)
print()
