"""Logits before and after the processors that transformers' generate() builds from its options, in its order
-> packages/model-zoo/src/golden/sampling.json.

Run: python tools/golden/sampling.py
"""

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, LogitsProcessorList

from golden_file import array, versions, write

VOCABULARY = 40
# Token 7 stands twice: a penalty counts once. 3 and 31 cover both signs of a penalised logit.
IDS = [1, 7, 3, 31, 7, 12]
CASES = {
    "greedy": dict(do_sample=False),
    "greedy-penalty": dict(do_sample=False, repetition_penalty=1.7),
    "temperature": dict(temperature=0.6),
    "top-k": dict(top_k=5),
    "top-k-ties": dict(top_k=3),
    "top-k-all": dict(top_k=1000),
    "top-p": dict(top_p=0.8),
    "top-p-tiny": dict(top_p=0.01),
    "penalty": dict(repetition_penalty=1.3),
    "penalty-below-one": dict(repetition_penalty=0.8),
    # Each pair gives another result when its two are applied in the other order.
    "temperature-top-p": dict(temperature=2.5, top_p=0.7),
    "top-k-top-p": dict(top_k=6, top_p=0.75),
    "all": dict(temperature=1.8, top_k=12, top_p=0.9, repetition_penalty=1.4),
}


def logits() -> dict:
    """Two rows: a spread of likely and unlikely tokens, and one with three equal logits where top-k 3 cuts."""
    generator = torch.Generator().manual_seed(3)
    spread = 3 * torch.randn(VOCABULARY, generator=generator)
    spread[3], spread[31] = 2.25, -0.75
    ties = spread.clone()
    ties[[5, 6, 8, 9]] = torch.tensor([9.0, 7.5, 7.5, 7.5])
    ties[10] = 8.0
    return {"spread": spread, "ties": ties}


def processed(model: LlamaForCausalLM, options: dict, scores: torch.Tensor) -> torch.Tensor:
    # generate() fills top_k with 50 where a model does not say: 0 is "all".
    config = GenerationConfig(**{"do_sample": True, "top_k": 0, **options})
    config._eos_token_tensor = None  # generate() sets it; only beam search reads it here
    processors = model._get_logits_processor(
        generation_config=config, input_ids_seq_length=len(IDS), logits_processor=LogitsProcessorList(), device="cpu"
    )
    return processors(torch.tensor([IDS]), scores.clone()[None])[0]


def main() -> None:
    tiny = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **tiny))
    rows = logits()
    cases = []
    for name, options in CASES.items():
        row = "ties" if name == "top-k-ties" else "spread"
        cases.append({"name": name, "row": row, "options": options, "logits": array(processed(model, options, rows[row]))})
    write("model-zoo", "sampling.json", {
        "description": "Logits after transformers' own logits processors (as generate() builds them), float32.",
        "command": "python tools/golden/sampling.py",
        "versions": versions("transformers"),
        "ids": IDS,
        "rows": {name: array(row) for name, row in rows.items()},
        "cases": cases,
    })


if __name__ == "__main__":
    main()
