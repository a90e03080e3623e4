"""transformers' own outputs on the real model stories260K -> packages/model-zoo/src/golden/stories260k.json.

Run: python tools/golden/stories260k.py
"""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from golden_file import SHARED_DATA, array, versions, write

# Two prompts of real text, cut to the same number of tokens so that the batch needs no padding.
PROMPTS = [
    "Once upon a time, there was a little girl named Lily. She loved to play",
    "Describe a process of making crepes. Making crepes is an easy and delicious",
]
PROMPT_TOKENS = 16
NEW_TOKENS = 200


def greedy(model, tokenizer) -> dict:
    """Greedy continuation of `<s>` alone; `margin` is the smallest top-1 minus top-2 logit met on the way."""
    start = torch.tensor([[tokenizer.bos_token_id]])
    output = model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=False, max_new_tokens=NEW_TOKENS,
        pad_token_id=0, output_logits=True, return_dict_in_generate=True,
    )
    ids = output.sequences[0].tolist()
    top2 = torch.stack(output.logits, 1)[0].topk(2, -1).values
    return {
        "ids": ids,
        "text": tokenizer.decode(ids, skip_special_tokens=True),
        "margin": round((top2[:, 0] - top2[:, 1]).min().item(), 6),
    }


def batch_outputs(model, tokenizer) -> dict:
    """Logits [B, T, V] and hidden states [B, T, H] of a batch: after embedding, after layer 0, after the final norm."""
    ids = [tokenizer(text)["input_ids"][:PROMPT_TOKENS] for text in PROMPTS]
    input_ids = torch.tensor(ids)
    with torch.no_grad():
        output = model(input_ids, output_hidden_states=True, use_cache=False)
    return {
        "inputIds": ids,
        "logits": array(output.logits),
        "hiddenStates": {
            "embedding": array(output.hidden_states[0]),
            "layer0": array(output.hidden_states[1]),
            "finalNorm": array(output.hidden_states[-1]),
        },
    }


def main() -> None:
    folder = SHARED_DATA / "models" / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    write("model-zoo", "stories260k.json", {
        "description": "Greedy text, logits and hidden states of stories260K by transformers, float32 on CPU.",
        "command": "python tools/golden/stories260k.py",
        "versions": versions("transformers", "tokenizers"),
        "greedy": greedy(model, tokenizer),
        "batch": batch_outputs(model, tokenizer),
    })


if __name__ == "__main__":
    main()
