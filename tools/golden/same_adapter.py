"""Checks that PEFT loads an adapter folder that we saved, and that base and adapter say there what our merged model says.

Run: python tools/golden/same_adapter.py <base folder> <adapter folder> <merged folder>

The merged folder is saveLlama() of mergeAndUnload() with the same adapter, in float32.
"""

import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

LENGTH = 32


def main(base_folder: str, adapter_folder: str, merged_folder: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    alone = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of missing and unexpected weights
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        model = PeftModel.from_pretrained(base, adapter_folder).eval()
    merged = AutoModelForCausalLM.from_pretrained(merged_folder, dtype=torch.float32).eval()
    ids = torch.randint(3, merged.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, ours, plain = (m(input_ids=ids).logits for m in (model, merged, alone))
    difference, effect = (logits - ours).abs().max().item(), (logits - plain).abs().max().item()
    assert difference < 1e-4 * logits.abs().max().item() < effect, (difference, effect)
    count = sum("lora_" in n for n, _ in model.named_parameters())
    print(f"{adapter_folder}: {count} factors loaded; logits differ from the merged model's by {difference:.1e}, from the base's by {effect:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
