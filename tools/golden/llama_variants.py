"""Tiny random Llamas, one per feature, with outputs and gradients by transformers and autograd
-> packages/model-zoo/src/golden/llama-variants.json.

Run: python tools/golden/llama_variants.py
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from golden_file import array, number, versions, write

BASE = dict(
    vocab_size=24, hidden_size=16, intermediate_size=10, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
    tie_word_embeddings=True, attention_bias=False, mlp_bias=False, bos_token_id=1, eos_token_id=2,
)
# head_dim 8 gives four rotary frequencies; theta and the original length put them in all three regimes of the
# llama3 rule: wavelengths 6.3 (kept), 29.7 (blended), 140 and 664 (divided by the factor).
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32,
)
VARIANTS = {
    "grouped-query": {},
    "untied-head": dict(tie_word_embeddings=False),
    "biases": dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "head-dim": dict(head_dim=6),
    "rope-theta": dict(rope_theta=500000.0, num_key_value_heads=4),
    "rope-linear": dict(rope_scaling=dict(rope_type="linear", factor=4.0)),
    "rope-llama3": dict(
        num_attention_heads=2, num_key_value_heads=1, rope_theta=500.0, max_position_embeddings=256,
        rope_scaling=LLAMA3_ROPE,
    ),
    # Token 20 stands twice in the batch as a real token; its row gets the head's gradient only.
    "pad-token": dict(pad_token_id=20),
    "pad-token-untied": dict(pad_token_id=20, tie_word_embeddings=False, num_hidden_layers=1),
}
# What each variant must differ from; the script fails when its feature does not move the logits.
WITHOUT = {
    "untied-head": None,  # compared with lm_head.weight equal to the embedding
    "biases": None,  # compared with biases of zero
    "rope-theta": dict(rope_theta=10000.0),
    "rope-linear": dict(rope_scaling=None),
    "rope-llama3": dict(rope_scaling=None),
}
LENGTHS = [20, 14]  # tokens of the two rows; the shorter one is padded on the right
PROMPTS = [5, 3]  # leading tokens of each row that carry no label


def build(settings: dict) -> LlamaForCausalLM:
    """The model with weights of a size that makes attention and norms matter (transformers' own 0.02 hides errors)."""
    model = LlamaForCausalLM(LlamaConfig(**{**BASE, **settings}, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * noise if "norm" in name else 0.35 * noise
    return model


def batch() -> tuple:
    """Input ids, attention mask and labels [B, T]: labels -100 on prompts and padding, not shifted."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, BASE["vocab_size"], (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS)):
        ids[row, length:] = 0
        mask[row, :length] = 1
        labels[row, prompt:length] = ids[row, prompt:length]
    return ids, mask, labels


def run(model: LlamaForCausalLM) -> tuple:
    ids, mask, labels = batch()
    output = model(ids, attention_mask=mask, labels=labels, use_cache=False)
    return output.loss, output.logits


def check_feature_matters(name: str, model: LlamaForCausalLM, logits: torch.Tensor) -> None:
    if name not in WITHOUT:
        return
    if WITHOUT[name] is not None:
        other = build({**VARIANTS[name], **WITHOUT[name]})
    else:
        other = build(VARIANTS[name])
        for parameter_name, parameter in other.named_parameters():
            if parameter_name.endswith(".bias"):
                parameter.data.zero_()
            if parameter_name == "lm_head.weight":
                parameter.data.copy_(other.model.embed_tokens.weight.data)
    change = (run(other)[1] - logits)[batch()[1].bool()].abs().max().item()
    assert change > 0.05, f"{name}: the feature moves the logits by {change} only"
    print(f"{name}: without the feature the logits move by {change:.3f}")


def variant(name: str) -> dict:
    model = build(VARIANTS[name])
    loss, logits = run(model)
    loss.backward()
    check_feature_matters(name, model, logits)
    config = {**BASE, "model_type": "llama", "architectures": ["LlamaForCausalLM"], **VARIANTS[name]}
    return {
        "name": name,
        "config": config,
        "weights": {n: array(p) for n, p in model.named_parameters()},
        "logits": array(logits),
        "loss": number(loss),
        "gradients": {n: array(p.grad) for n, p in model.named_parameters()},
    }


def main() -> None:
    ids, mask, labels = batch()
    write("model-zoo", "llama-variants.json", {
        "description": "Tiny Llamas, one per feature: logits, loss and all gradients by transformers, float32 on CPU.",
        "command": "python tools/golden/llama_variants.py",
        "versions": versions("transformers"),
        "inputIds": ids.tolist(),
        "attentionMask": mask.tolist(),
        "labels": labels.tolist(),
        "variants": [variant(name) for name in VARIANTS],
    })


if __name__ == "__main__":
    main()
