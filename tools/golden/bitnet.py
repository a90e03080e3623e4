"""Tiny BitNets by transformers: logits, gradients, packed weights -> packages/model-zoo/src/golden/bitnet.json;
and 40 steps of AdamW -> packages/training/src/golden/bitnet-trajectory.json.

The 40 steps begin with weights that both sides compute (`hashed`), on the batches of badam-trajectories.json.

Run: python tools/golden/bitnet.py
"""

import json
import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # transformers' functions are decorated with torch.compile

import numpy as np
import torch
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations import replace_with_bitnet_linear
from transformers.integrations.bitnet import pack_weights
from transformers.utils.quantization_config import BitNetQuantConfig

from golden_file import PACKAGES, array, exact_products, number, numbers, versions, write
from llama_variants import batch

BASE = dict(
    vocab_size=24, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="relu2",
    tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
)
VARIANTS = {
    "relu2 and an untied head": {},
    "silu, biases and a tied head": dict(hidden_act="silu", attention_bias=True, tie_word_embeddings=True),
}
ONLINE = dict(quant_method="bitnet", linear_class="autobitlinear", quantization_mode="online")
PACKED = dict(quant_method="bitnet", linear_class="bitlinear", quantization_mode="offline")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def build(settings: dict, quantization: dict, attention="eager") -> BitNetForCausalLM:
    """The model as from_pretrained makes it for a config.json with this quantization_config."""
    model = BitNetForCausalLM(BitNetConfig(**{**BASE, **settings}, attn_implementation=attention))
    options = {key: value for key, value in quantization.items() if key != "quant_method"}
    model = replace_with_bitnet_linear(model, ["lm_head"], quantization_config=BitNetQuantConfig(**options))
    return model.to_empty(device="cpu") if any(p.is_meta for p in model.parameters()) else model


def restore_rotary(model) -> None:
    """to_empty() also forgets the rotary frequencies."""
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.rope_init_fn(rotary.config, "cpu")[0]
    rotary.original_inv_freq = rotary.inv_freq


def randomise(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * noise if "norm" in name else 0.35 * noise


def run(model):
    ids, mask, labels = batch()
    output = model(ids, attention_mask=mask, labels=labels, use_cache=False)
    return output.loss, output.logits


def margin(model) -> float:
    """How far the nearest code is from the middle between two, of activations that are seen and of weights."""
    nearest = []
    mask = batch()[1].bool()

    def distance(scaled):
        return (torch.frac(scaled.abs()) - 0.5).abs().min().item()

    def look(module, inputs):
        x = inputs[0][mask]
        nearest.append(distance(x * (127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5))))
        nearest.append(distance(module.weight / module.weight.abs().mean()))

    linear = [m for n, m in model.named_modules() if n.split(".")[-1] in LINEAR]
    hooks = [module.register_forward_pre_hook(look) for module in linear]
    with torch.no_grad():
        run(model)
    for hook in hooks:
        hook.remove()
    return min(nearest)


def variant(name: str) -> dict:
    """Random weights such that no rounding hangs on the last bits: codes are then equal in any order of summation."""
    model = build(VARIANTS[name], ONLINE)
    restore_rotary(model)
    model.tie_weights()
    best = max(range(60), key=lambda seed: (randomise(model, seed), margin(model))[1])
    randomise(model, best)
    print(f"{name}: seed {best}, margin {margin(model):.1e} of a code's step")
    loss, logits = run(model)
    loss.backward()
    packed = {}
    offline = build(VARIANTS[name], PACKED)
    restore_rotary(offline)
    offline.tie_weights()
    state = dict(model.state_dict())
    for key, weight in list(state.items()):
        if key.split(".")[-2] in LINEAR and key.endswith(".weight"):
            scale = 1 / weight.abs().mean()
            state[key] = packed[key] = pack_weights((weight * scale).round().clamp(-1, 1))
            state[f"{key}_scale"] = scale.reshape(1)
    offline.load_state_dict(state)
    for module in offline.modules():  # made for a dtype that to_empty() does not know
        if hasattr(module, "weight_scale"):
            module.dtype = torch.float32
    with torch.no_grad():
        packed_logits = run(offline)[1]
    difference = (packed_logits - logits)[batch()[1].bool()].abs().max().item()
    assert difference < 1e-4, difference
    config = {
        **BASE, "model_type": "bitnet", "architectures": ["BitNetForCausalLM"], "quantization_config": ONLINE,
        **VARIANTS[name],
    }
    return {
        "name": name,
        "config": config,
        "weights": {n: array(p) for n, p in model.named_parameters()},
        "logits": array(logits),
        "loss": number(loss),
        "gradients": {n: array(p.grad) for n, p in model.named_parameters()},
        "packed": {n: p.tolist() for n, p in packed.items()},
        "packedLogits": array(packed_logits),
    }


TRAJECTORY = dict(
    vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False,
)
STEPS, LEARNING_RATE = 40, 2e-3


def hashed(count: int, salt: int) -> torch.Tensor:
    """Numbers in [-1, 1) from the finaliser of murmur3 over (salt * 2^20 + index), the upper 24 bits of each."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(salt << 20)
    x = x & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return torch.from_numpy((x >> np.uint64(8)).astype(np.float64) / 2**23 - 1).to(torch.float32)


def trajectory(swap_rows: bool = False, attention: str = "eager") -> list:
    batches = json.loads((PACKAGES / "training/src/golden/badam-trajectories.json").read_text())["batches"]
    model = build(TRAJECTORY, ONLINE, attention)
    restore_rotary(model)
    for salt, (name, parameter) in enumerate(sorted(model.named_parameters())):
        noise = hashed(parameter.numel(), salt).reshape(parameter.shape)
        parameter.data = torch.ones_like(noise) if "norm" in name else 0.125 * noise
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    losses = []
    for record in batches[:STEPS]:
        ids, labels, mask = (torch.tensor(record[key]) for key in ("inputIds", "labels", "attentionMask"))
        if swap_rows:
            ids, labels, mask = ids.flip(0), labels.flip(0), mask.flip(0)
        loss = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def noise(losses: list, *others: list) -> list:
    """The largest relative difference of equal runs up to each step: it grows when the first code falls to the other side."""
    steps = [max(abs(a - b) / a for b in bs) for a, *bs in zip(losses, *others)]
    return [float(f"{max(steps[: i + 1]):.3g}") for i in range(len(steps))]


def main() -> None:
    torch.set_num_threads(1)
    ids, mask, labels = batch()
    write("model-zoo", "bitnet.json", {
        "description": "Tiny BitNets: logits, loss, straight-through gradients and packed weights by transformers.",
        "command": "python tools/golden/bitnet.py",
        "versions": versions("transformers"),
        "inputIds": ids.tolist(),
        "attentionMask": mask.tolist(),
        "labels": labels.tolist(),
        "variants": [variant(name) for name in VARIANTS],
    })
    losses = trajectory()
    others = [trajectory(swap_rows=True), trajectory(attention="sdpa")]
    with exact_products():
        others.append(trajectory())
    noises = noise(losses, *others)
    print(f"{losses[0]:.4f} -> {losses[-1]:.4f}, noise", noises[::10], noises[-1])
    write("training", "bitnet-trajectory.json", {
        "description": "40 steps of AdamW on a tiny BitNet in transformers, float32 on CPU; batches of badam-trajectories.json.",
        "command": "python tools/golden/bitnet.py",
        "versions": versions("transformers"),
        "config": {**BASE, **TRAJECTORY, "model_type": "bitnet", "quantization_config": ONLINE},
        "learningRate": LEARNING_RATE,
        "losses": numbers(losses),
        "noise": noises,
    })


if __name__ == "__main__":
    main()
