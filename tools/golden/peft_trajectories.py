"""LoRA as PEFT does it, on a real model and real data -> packages/adapters/src/golden/peft-trajectories.json, and one adapter in PEFT's own files
-> packages/adapters/src/golden/peft-adapter/.

Each case trains adapters of stories260K for 40 steps in float32 on the CPU over the batches of badam-trajectories.json. Initial adapters follow a
formula (`initial`), so that they need not be stored. Each case is run again under variations that change nothing but rounding; the largest
difference is the case's noise.

Run: python tools/golden/peft_trajectories.py
"""

import contextlib
import io
import json
import math
import shutil
import warnings
from dataclasses import dataclass, field
from typing import Optional

import bitsandbytes as bnb
import torch
from badam import BlockOptimizer
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from golden_file import PACKAGES, SHARED_DATA, array, numbers, versions, write

STEPS = 40
MODEL = SHARED_DATA / "models" / "stories260K"
BATCHES = PACKAGES / "training" / "src" / "golden" / "badam-trajectories.json"
ADAPTER = PACKAGES / "adapters" / "src" / "golden" / "peft-adapter"
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Case:
    """One run. `lora` holds LoraConfig's arguments; `block` BlockOptimizer's, or None for the bare optimizer."""

    name: str
    lora: dict
    optimizer: str = "AdamW"
    options: dict = field(default_factory=lambda: {"lr": 3e-3})
    block: Optional[dict] = None
    biases: bool = False  # attention and MLP get biases, see `add_biases`
    nf4: bool = False  # linear layers of the base in bitsandbytes' Linear4bit with double quantisation


def lora(**options) -> dict:
    return {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **options}


CASES = [
    Case("q-v", lora()),
    Case("all-linear", lora(target_modules="all-linear")),
    Case("rslora", lora(use_rslora=True, lora_alpha=6)),
    Case("layers-regex", lora(target_modules=r".*layers\.[13]\..*(up|down)_proj")),
    Case("layers-to-transform", lora(target_modules=["k_proj", "gate_proj"], layers_to_transform=[0, 4])),
    Case("bias-all", lora(bias="all"), biases=True),
    Case("bias-lora-only", lora(bias="lora_only"), biases=True),
    Case("modules-to-save", lora(modules_to_save=["lm_head", "norm"]), options={"lr": 1e-3}),
    Case("embedding-to-save", lora(modules_to_save=["embed_tokens"]), options={"lr": 1e-3}),
    Case("head-adapted", lora(target_modules=["o_proj", "lm_head"])),
    Case("weight-decay", lora(target_modules="all-linear"), options={"lr": 3e-3, "weight_decay": 0.5}),
    Case("sgd", lora(target_modules="all-linear"), "SGD", {"lr": 0.01, "momentum": 0.9}),
    Case("badam", lora(target_modules="all-linear"), block={"switch_mode": "ascending", "switch_block_every": 5}),
    Case(
        "badam-embedding",
        lora(),
        block={"switch_mode": "descending", "switch_block_every": 4, "include_embedding": True, "include_lm_head": True},
    ),
    Case("qlora", lora(target_modules="all-linear"), nf4=True),
    # r = 64: bitsandbytes keeps states of fewer than 4096 elements in 32 bits.
    Case("qlora-8bit", lora(r=64, lora_alpha=16, target_modules="all-linear"), "AdamW8bit", {"lr": 1e-3}, nf4=True),
]
VARIATIONS = {"swappedRows": {"swap_rows": True}, "sdpaAttention": {"attention": "sdpa"}}


def initial(name: str, shape) -> torch.Tensor:
    """float32(0.05 * sin(0.7 i + 0.3 n)) for the i-th element (float64) of a factor whose name has n characters: no random numbers to store.

    B is not zero, so that A has a gradient from the first step on."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.05 * torch.sin(0.7 * index + 0.3 * len(name))).reshape(shape).float()


def add_biases() -> LlamaForCausalLM:
    """stories260K with biases of 0 in attention and MLP."""
    plain = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    config = AutoConfig.from_pretrained(MODEL, attention_bias=True, mlp_bias=True)
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(plain.state_dict(), strict=False)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data.zero_()
    return model


def quantise(model) -> None:
    """Puts every linear module but the head into 4 bits, as QLoRA's `load_in_4bit` with `bnb_4bit_use_double_quant` does."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        packed = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False,
            compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True,
        )
        packed.load_state_dict({"weight": module.weight.data})
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, packed.to("cpu"))


def peft_model(case: Case, attention: str):
    model = add_biases() if case.biases else AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model.set_attn_implementation(attention)
    if case.nf4:
        quantise(model)
    model = get_peft_model(model, LoraConfig(**case.lora))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(initial(file_name(name), parameter.shape))
    return model.train()


def file_name(name: str) -> str:
    """The name that PEFT saves a parameter under."""
    return name.replace(".modules_to_save.default", "").replace(".default", "")


def tensors(batch: dict, swap: bool):
    values = (torch.tensor(batch[key]) for key in ("inputIds", "labels", "attentionMask"))
    return [v.flip(0) if swap else v for v in values]


def train(case: Case, batches: list, swap_rows: bool = False, attention: str = "eager") -> dict:
    torch.manual_seed(0)
    model = peft_model(case, attention)
    trained = {file_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    start = {n: p.detach().clone() for n, p in trained.items()}
    optimizer = getattr(bnb.optim if "8bit" in case.optimizer else torch.optim, case.optimizer)(trained.values(), **case.options)
    if case.block is not None:
        optimizer = BlockOptimizer(optimizer, named_parameters_list=list(model.named_parameters()), **case.block)
    losses, active = [], []
    for batch in batches:
        ids, labels, mask = tensors(batch, swap_rows)
        result = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False)
        result.loss.backward()
        losses.append(result.loss.item())
        if case.block is not None:
            active.append(sorted({file_name(n) for n, p in model.named_parameters() if p.grad is not None}))
        optimizer.step()
        model.zero_grad()
    return {
        "losses": losses,
        "trained": sorted(trained),
        "active": active,
        "weights": {n: checksum(p, start[n]) for n, p in trained.items()},
    }


def checksum(parameter, start) -> list:
    """[L2 norm, L2 norm of the change] in float64."""
    value, start = parameter.detach().double(), start.double()
    return [float(f"{v.item():.10g}") for v in (value.norm(), (value - start).norm())]


def quietly(function, *args, **options):
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def golden(case: Case, batches: list) -> dict:
    run = quietly(train, case, batches)
    noise = {}
    for name, variation in VARIATIONS.items():
        again = quietly(train, case, batches, **variation)
        noise[name] = float(f"{max(abs(a - b) / abs(b) for a, b in zip(again['losses'], run['losses'])):.3g}")
    print(f"{case.name:20} {run['losses'][0]:.4f} -> {sum(run['losses'][-5:]) / 5:.4f} noise {noise}", flush=True)
    return {
        "name": case.name,
        "loraConfig": case.lora,
        "optimizer": case.optimizer,
        "optimizerOptions": case.options,
        "blockOptions": case.block,
        "biases": case.biases,
        "nf4": case.nf4,
        "trained": run["trained"],
        "activeLayers": [sorted({n.split("layers.")[1].split(".")[0] for n in names}) for names in run["active"]],
        "losses": numbers(run["losses"]),
        "weights": run["weights"],
        "noise": {"losses": max(noise.values()), "by": noise},
    }


def saved_adapter(batch: dict) -> dict:
    """Trains nothing: an adapter of every kind in PEFT's own files, and what the model says with it and merged, in float32 and bfloat16."""
    case = Case("saved", lora(r=2, target_modules=["q_proj", "down_proj", "lm_head"], modules_to_save=["input_layernorm"], use_rslora=True))
    ids = torch.tensor(batch["inputIds"])[:1, :24]
    model = peft_model(case, "eager").eval()
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data.copy_(1 + initial(file_name(name), parameter.shape))
    shutil.rmtree(ADAPTER, ignore_errors=True)
    model.save_pretrained(ADAPTER)
    (ADAPTER / "README.md").unlink(missing_ok=True)
    config = json.loads((ADAPTER / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "stories260K"
    (ADAPTER / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, -4:]
        base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16)
        # An adapted head that is tied would carry the embedding along; ours lets go of it.
        base.config.tie_word_embeddings = False
        base.lm_head.weight = torch.nn.Parameter(base.model.embed_tokens.weight.detach().clone())
        merged = PeftModel.from_pretrained(base, ADAPTER).merge_and_unload()
        weight = merged.model.layers[2].mlp.down_proj.weight[:2]
        bf16 = merged.float()(input_ids=ids, use_cache=False).logits[0, -4:]
    return {
        "inputIds": ids.tolist(),
        "logits": array(logits),
        "mergedBfloat16": {"layer2DownProj": array(weight.float()), "logits": array(bf16)},
    }


def quantised_logits(batch: dict) -> dict:
    """What stories260K says with its linear layers in NF4, before any training."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    quantise(model)
    ids = torch.tensor(batch["inputIds"])[:1, :24]
    with torch.no_grad():
        return {"inputIds": ids.tolist(), "logits": array(model(input_ids=ids, use_cache=False).logits[0, -4:])}


def main() -> None:
    torch.set_num_threads(1)
    batches = json.loads(BATCHES.read_text())["batches"]
    write("adapters", "peft-trajectories.json", {
        "description": "40 steps of PEFT's LoRA (and bitsandbytes' NF4, badam's BlockOptimizer) on stories260K and Alpaca-GPT4, float32 on CPU.",
        "command": "python tools/golden/peft_trajectories.py",
        "versions": versions("transformers", "peft", "bitsandbytes", "badam"),
        "saved": quietly(saved_adapter, batches[0]),
        "nf4": quietly(quantised_logits, batches[0]),
        "cases": [golden(case, batches[:STEPS]) for case in CASES],
    })


if __name__ == "__main__":
    main()
