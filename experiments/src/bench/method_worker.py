"""PyTorch's side of bench-methods, in a process of its own: method_worker.py <job.json> lora|lomo|adalomo|galore|sparse
checkpointing|fastest bfloat16|float32.

Each method as its package's readme uses it, on a model of the given dtype, with nothing clipped; with gradient checkpointing, as in BAdam's
paper (appendix B) for all methods, or with nothing recomputed. See train-job.ts for what comes in and goes out.
"""

import json
import platform
import sys
import time
from importlib.metadata import version

import torch
import transformers

from official_worker import drop_cuda_pages, memory, report, tensors


def by_gradients(model, optimizer):
    """The usual step: backward, then one update of everything."""

    def step(batch):
        loss = model(**tensors(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def fused(model, optimizer, lr):
    """LOMO's step: updates happen inside backward."""

    def step(batch):
        loss = model(**tensors(batch)).loss
        optimizer.fused_backward(loss, lr)
        return loss.item()

    return step


def lora(model, options):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=options["loraRank"], lora_alpha=options["loraAlpha"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    return by_gradients(model, torch.optim.AdamW(trained, lr=options["learningRate"]))


def lomo(model, options):
    from lomo_optim import Lomo

    return fused(model, Lomo(model, lr=options["learningRate"]), options["learningRate"])


def adalomo(model, options):
    from lomo_optim import AdaLomo

    # It puts its moments on a GPU, wherever the model is.
    torch.Tensor.cuda = lambda self: self
    return fused(model, AdaLomo(model, lr=options["learningRate"]), options["learningRate"])


def galore(model, options):
    from galore_torch import GaLoreAdamW

    linear = [m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ("attn" in n or "mlp" in n)]
    projected = {id(weight) for weight in linear}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in projected]},
        {
            "params": linear,
            "rank": options["galoreRank"],
            "update_proj_gap": options["galoreUpdateInterval"],
            "scale": options["galoreScale"],
            "proj_type": "std",
        },
    ]
    return by_gradients(model, GaLoreAdamW(groups, lr=options["learningRate"], no_deprecation_warning=True))


def sparse(model, options):
    from badam import BlockOptimizerRatio

    named = list(model.named_parameters())
    optimizer = BlockOptimizerRatio(
        param_groups=[{"params": [p for _, p in named]}],
        named_parameters_list=named,
        switch_every=options["switchBlockEvery"],
        update_ratio=options["updateRatio"],
        mask_mode=options["maskMode"],
        lr=options["learningRate"],
        # On a tied model the head is the embedding, which stays frozen; asked to freeze the head too, the optimizer crashes.
        include_lm_head=True,
    )
    return by_gradients(model, optimizer)


METHODS = {"lora": lora, "lomo": lomo, "adalomo": adalomo, "galore": galore, "sparse": sparse}
PACKAGES = ["torch", "transformers", "peft", "lomo-optim", "galore-torch", "badam"]


def main(path, method, way, dtype):
    with open(path) as file:
        job = json.load(file)
    base = memory("VmRSS")
    begin = time.perf_counter()
    folder = job["weights"]["folder"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    model.config.use_cache = False
    model.train()
    if way == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    step = METHODS[method](model, job["method"])
    drop_cuda_pages()
    load_seconds = time.perf_counter() - begin

    begin = time.perf_counter()
    step(job["warmUp"][0])
    first_seconds = time.perf_counter() - begin
    for batch in job["warmUp"][1:]:
        step(batch)
    versions = {name: version(name) for name in PACKAGES}
    versions |= {"python": platform.python_version(), "torchThreads": str(torch.get_num_threads())}
    ready = {"versions": versions, "baseBytes": base, "loadSeconds": load_seconds, "firstSeconds": first_seconds}
    report(ready | {"peakResident": memory("VmHWM")})
    for count, _line in enumerate(sys.stdin):
        begin = time.perf_counter()
        for batch in job["rounds"][count % len(job["rounds"])]:
            loss = step(batch)
        report({"seconds": time.perf_counter() - begin, "loss": loss, "peakResident": memory("VmHWM")})


main(*sys.argv[1:])
