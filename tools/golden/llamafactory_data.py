"""LLaMA-Factory's own examples, prompts and packing -> packages/loaders/src/golden/llamafactory.json.

Runs its unmodified template and processor code on the small byte-level tokenizer (tools/golden/tokenizer.py makes it) and,
where present, the Llama 2 tokenizer of ../shared. Its multimodal plugin, logging and data-set packages, which text needs
not, are stubs. `vanilla` comes from v0.6.3, the last to have it, fed to the same processor.

Run, in a LLaMA-Factory clone C (only `transformers` is needed):
  mkdir lf && git -C C archive ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30 src/llamafactory | tar x -C lf
  git -C C archive f8e219dc81bbfb5418fd6155c019190f2ac78caf^ src/llmtuner | tar x -C lf
  python tools/golden/llamafactory_data.py lf/src
"""

import importlib
import json
import os
import platform
import random
import sys
import types
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

from transformers import AutoTokenizer

HERE = Path(__file__).resolve()
GOLDEN = HERE.parents[2] / "packages" / "loaders" / "src" / "golden"
SHARED = Path(os.environ.get("BLOCKWISE_DATA", HERE.parents[3] / "shared" / "data")) / "models"


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


CONVERSATIONS = [
    {"messages": [user("What is the capital of France?"), assistant("The capital of France is Paris.")]},
    {"system": "You are a pirate.", "messages": [user("Say hi.\nTwice"), assistant("Arr! Arr!")]},
    {"messages": [user("Hi"), assistant("Hello."), user(" And now? "), assistant("Now, too."), user("Bye"), assistant("Bye!")]},
    {"system": "Be brief.", "messages": [user("One"), assistant("1"), user("Two"), assistant("2")]},
    {"messages": [user("Costs $& or $1? {{content}}"), assistant("It costs $$5 and {{content}}.")]},
    {"messages": [user("Say nothing."), assistant("")]},
    {"messages": [user("Émojis 🎉 and 你好"), assistant("🎉你好\n\nÉ")]},
    {"messages": [user("A token </s> or <|eot_id|> in the text"), assistant("<s> and <|end_of_text|> too")]},
    {"messages": [user("List the numbers up to thirty. " * 4), assistant("one two three four five six seven eight " * 4)]},
    {"messages": [user("Long question here, once more. " * 6), assistant("No."), user("Sure?"), assistant("Quite sure, yes. " * 6)]},
]
TEXTS = ["Once upon a time there was a small robot.", "Sort 1, 2, 3.", "", "The waves come in, the waves go out. " * 3]
CUTOFFS = [2048, 64, 33, 16]
TEMPLATES = ["alpaca", "default", "empty", "llama2", "llama2_zh", "llama3", "mistral", "vanilla", "vicuna", "zephyr"]


def stub(name: str, **attributes) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def official(source: Path):
    """The modules of both versions, with stubs for what text does not need."""
    for package in ("llamafactory", "llamafactory.data", "llamafactory.data.processor", "llmtuner", "llmtuner.data"):
        stub(package, __path__=[str(source / package.replace(".", "/"))])
    plugin = types.SimpleNamespace(
        process_messages=lambda messages, *_: messages, process_token_ids=lambda ids, labels, *_: (ids, labels)
    )
    stub("fsspec")
    stub("datasets", DatasetDict=dict, concatenate_datasets=None, interleave_datasets=None)
    stub("llamafactory.extras", logging=MagicMock())
    stub("llamafactory.extras.constants", IGNORE_INDEX=-100)
    stub("llamafactory.data.mm_plugin", get_mm_plugin=lambda name, **_: plugin)
    stub("llmtuner.extras", __path__=[])
    stub("llmtuner.extras.logging", get_logger=lambda _: MagicMock())
    modules = [
        importlib.import_module(name)
        for name in (
            "llamafactory.data.template", "llmtuner.data.template", "llamafactory.data.processor.supervised",
            "llamafactory.data.processor.pretrain", "llamafactory.data.processor.processor_utils",
        )
    ]
    return (*modules, plugin)


def template_of(name: str, new, old, plugin):
    if name != "vanilla":
        return new.TEMPLATES[name]
    vanilla = old.templates["vanilla"]
    vanilla.encode = vanilla.encode_multiturn
    return types.SimpleNamespace(
        mm_plugin=plugin, efficient_eos=True, preserve_thinking=False, stop_words=[],
        encode_multiturn=lambda tokenizer, messages, system, tools, _=False: vanilla.encode(tokenizer, messages, system, tools),
        encode_oneturn=vanilla.encode_oneturn, get_stop_token_ids=lambda tokenizer: [tokenizer.eos_token_id],
        fix_special_tokens=lambda tokenizer: None,
    )


def cases(name: str, folder: Path, modules) -> list:
    new, old, supervised, pretrain, _, plugin = modules
    records = []
    for template_name in TEMPLATES:
        if template_name == "llama3" and name != "byte-level":
            continue  # it would add tokens to the vocabulary
        tokenizer = AutoTokenizer.from_pretrained(folder)
        base_eos = tokenizer.eos_token
        template = template_of(template_name, new, old, plugin)
        template.fix_special_tokens(tokenizer)
        examples = []
        for cutoff in CUTOFFS:
            arguments = types.SimpleNamespace(cutoff_len=cutoff, mask_history=False, train_on_prompt=False)
            processor = supervised.SupervisedDatasetProcessor(template, tokenizer, None, arguments)
            for talk in CONVERSATIONS:
                messages = talk["messages"]
                ids, labels = processor._encode_data_example(
                    messages[:-1], messages[-1:], talk.get("system"), None, [], [], []
                )
                examples.append({"cutoffLen": cutoff, "inputIds": ids, "labels": labels})
        prompts = [
            template.encode_oneturn(tokenizer, [*talk["messages"][:-1], assistant("")], talk.get("system"), None)[0]
            for talk in CONVERSATIONS
        ]
        record = {
            "tokenizer": name, "template": template_name, "examples": examples, "prompts": prompts,
            "stopTokenIds": sorted(template.get_stop_token_ids(tokenizer)),
        }
        if template_name in ("default", "llama3"):
            if template_name == "default":
                tokenizer.eos_token = base_eos
            arguments = types.SimpleNamespace(cutoff_len=16, packing=True, template=template_name)
            batch = {"_prompt": [[user(text)] for text in TEXTS]}
            record["texts"] = pretrain.PretrainDatasetProcessor(template, tokenizer, None, arguments).preprocess_dataset(batch)["input_ids"]
        records.append(record)
    return records


def main() -> None:
    modules = official(Path(sys.argv[1]))
    folders = {"byte-level": GOLDEN / "byte-level", "llama2": SHARED / "llama2_tokenizer"}
    rng = random.Random(3)
    lengths = [rng.randrange(1, 101) for _ in range(200)]
    golden = {
        "command": "python tools/golden/llamafactory_data.py lf/src",
        "versions": {
            "python": platform.python_version(), "transformers": version("transformers"),
            "LLaMA-Factory": "ff6d4d12eeb035d6ce06805a5733dd7b29f2ac30 (vanilla: the parent of f8e219dc81bbfb5418fd6155c019190f2ac78caf)",
        },
        "conversations": CONVERSATIONS,
        "texts": TEXTS,
        "cases": [case for name, folder in folders.items() if folder.exists() for case in cases(name, folder, modules)],
        "packing": {"lengths": lengths, "capacity": 128, "rows": modules[4].greedy_knapsack(list(lengths), 128)},
    }
    path = GOLDEN / "llamafactory.json"
    aside = path.with_suffix(".json.part")
    aside.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="utf-8")
    os.replace(aside, path)
    print(f"{path}: {path.stat().st_size:,} bytes, {len(golden['cases'])} cases")


if __name__ == "__main__":
    main()
