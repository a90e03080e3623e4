"""Checks that transformers loads a BitNet that we saved and what we packed of it, and that both compute the same.

Run: python tools/golden/same_bitnet.py <trained folder> <packed folder>   (after npx nx run experiments:bitnet:
results/quantization/bitnet/trained and results/quantization/bitnet/packed)
"""

import os
import sys

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # transformers' functions are decorated with torch.compile

import torch
from transformers import AutoModelForCausalLM


def load(folder: str, linear: str):
    """The model, after asserting that no weight was missing, unexpected or misshapen and that its layers are `linear`."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
    )
    problems = {kind: list(names) for kind, names in info.items() if names}
    assert not problems, f"{folder}: {problems}"
    assert type(model).__name__ == "BitNetForCausalLM", type(model)
    assert type(model.model.layers[0].mlp.down_proj).__name__ == linear, type(model.model.layers[0].mlp.down_proj)
    return model.eval()


def main(trained_folder: str, packed_folder: str) -> None:
    trained, packed = load(trained_folder, "AutoBitLinear"), load(packed_folder, "BitLinear")
    weight = packed.model.layers[0].mlp.down_proj.weight
    assert weight.dtype == torch.uint8, weight.dtype
    ids = torch.randint(3, trained.config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        losses = [model(ids, labels=ids).loss.item() for model in (trained, packed)]
    assert abs(losses[0] - losses[1]) < 1e-4 * losses[0], losses
    print(f"{trained_folder}: loss {losses[0]:.6f}; {packed_folder}: {losses[1]:.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
