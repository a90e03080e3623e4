"""Checks that transformers loads a model folder that we saved, and that it computes what the folder it came from computes.

Run: python tools/golden/same_model.py <original folder> <saved folder>

The original is converted to the saved folder's dtype first, so a conversion of ours is held against torch's rounding.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

LENGTH = 32


def load(folder: str, dtype):
    """The model, after asserting that no weight was missing, unexpected or misshapen."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True,
    )
    problems = {kind: list(names) for kind, names in info.items() if names}
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def main(original_folder: str, saved_folder: str) -> None:
    config = json.loads((Path(saved_folder) / "config.json").read_text())
    dtype = getattr(torch, config.get("dtype") or config["torch_dtype"])
    saved = load(saved_folder, "auto")
    original = load(original_folder, dtype)
    assert saved.dtype == dtype, (saved.dtype, dtype)
    expected = dict(original.named_parameters())
    found = dict(saved.named_parameters())
    assert list(found) == list(expected), set(found) ^ set(expected)
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different, f"different weights: {different}"
    ids = torch.randint(3, saved.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(saved(ids).logits, original(ids).logits)
    print(f"{saved_folder}: {len(found)} parameters in {dtype} and {LENGTH} rows of logits equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
