"""transformers' rotary frequencies and tables of released models -> packages/model-zoo/src/golden/rotary-tables.json.

Run: python tools/golden/rotary_tables.py
"""

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from golden_file import array, versions, write

# config.json as the model's publisher wrote it, cut to what the tables need.
CONFIGS = {
    "llama-2-7b": dict(hidden_size=4096, num_attention_heads=32, rope_theta=10000.0),
    "llama-3-8b": dict(hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, rope_theta=500000.0),
    "linear-4": dict(
        hidden_size=64, num_attention_heads=8, rope_theta=10000.0, rope_scaling=dict(rope_type="linear", factor=4.0),
    ),
    "llama-3.1-8b": dict(
        hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, rope_theta=500000.0,
        max_position_embeddings=131072,
        rope_scaling=dict(
            rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
    ),
    "llama-3.2-1b": dict(
        hidden_size=2048, num_attention_heads=32, num_key_value_heads=8, head_dim=64, rope_theta=500000.0,
        max_position_embeddings=131072,
        rope_scaling=dict(
            rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
    ),
}
POSITIONS = [0, 1, 2, 63, 511, 4095]


def tables(name: str) -> dict:
    settings = {"model_type": "llama", **CONFIGS[name]}
    rotary = LlamaRotaryEmbedding(LlamaConfig(**CONFIGS[name]))
    cos, sin = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
    assert rotary.attention_scaling == 1
    return {
        "name": name,
        "config": settings,
        "inverseFrequencies": array(rotary.inv_freq),
        "cos": array(cos[0]),
        "sin": array(sin[0]),
    }


def main() -> None:
    write("model-zoo", "rotary-tables.json", {
        "description": "Inverse frequencies [D/2], cosines and sines [positions, D] by transformers, float32 on CPU.",
        "command": "python tools/golden/rotary_tables.py",
        "versions": versions("transformers"),
        "positions": POSITIONS,
        "cases": [tables(name) for name in CONFIGS],
    })


if __name__ == "__main__":
    main()
