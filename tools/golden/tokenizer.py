"""Ids and texts of the Python packages tokenizers, transformers and jinja2 -> packages/loaders/src/golden/tokens.json.

Also trains the small byte-level tokenizer with the special tokens of Llama 3 that tests use where ../shared is missing
(packages/loaders/src/golden/byte-level/), from the sentences below.

Run: python tools/golden/tokenizer.py      (needs tokenizers, transformers, jinja2; no torch)
"""

import json
import os
import platform
import random
from importlib.metadata import version
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = Path(__file__).resolve()
GOLDEN = HERE.parents[2] / "packages" / "loaders" / "src" / "golden"
SHARED = Path(os.environ.get("BLOCKWISE_DATA", HERE.parents[3] / "shared" / "data")) / "models"

STRINGS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "a", " a", "a ", "  a  b   c    d",
    "Hello", "Hello world", " Hello world", "Hello  world", "Hello world ", "Hello\nworld", "Hello\n\nworld\n", "\nHello",
    "The quick brown fox jumps over the lazy dog.", "don't can't won't I'll we've it's", "DON'T SHOUT'S",
    "1", "12", "123", "1234567890", "3.14159e-10", "2024-01-31T23:59:59Z", "$5.00 & 10%", "x = y ** 2 + z[0]; // done",
    "def f(x):\n    return x  # comment\n\n\tif True:\n\t\tpass", "{\"a\": [1, 2, {\"b\": null}]}", "<html><p>text</p></html>",
    "café", "cafe\u0301", "naïve façade Ünïcödé", "ﬁ ligature ½ ²", "你好，世界", "こんにちは世界", "안녕하세요", "Привет, мир", "مرحبا بالعالم", "שלום",
    "हिन्दी में", "ไทย", "😀", "😀😃😄 mixed 🎉", "👩‍👩‍👧‍👦", "🇨🇭 flag", "👍🏽", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\u200bzero\u200bwidth", "\u00a0nbsp\u00a0", "\u3000ideographic",
    "▁", "▁under", "a▁b", "▁▁two", "<0x41>", "<0x0A>", "\x00", "\x07bell", "\x7f", "\ufeffbom", "\ufffd",
    "<s>", "</s>", "<unk>", "<s>hi</s>", "hi <s> there", "hi</s> there </s>", " </s>", "<s><s>", "< s >", "<S>",
    "<|begin_of_text|>hi<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|eot_id", "|eot_id|>",
    "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello </s>", "### Instruction:\nSay hi.\n\n### Response:\n",
    "Human: hi\nAssistant:", "a" * 300, "ab" * 200, " " * 50, "\n" * 20, "word " * 60, "!" * 40, "antidisestablishmentarianism",
]

TRAINING_TEXT = [
    "Once upon a time there was a small robot who wanted to learn the names of all the flowers in the garden.",
    "Describe how to make tea. First boil the water, then pour it over the leaves and wait for three minutes.",
    "Give three tips for staying healthy. Eat well, sleep enough, and take a walk every day.",
    "What is the capital of France? The capital of France is Paris.",
    "Write a short poem about the sea. The waves come in, the waves go out, and gulls are crying all about.",
    "Translate the sentence. Sort the numbers 1, 2, 3, 10 and 42 in descending order: 42, 10, 3, 2, 1.",
    "You are a helpful assistant. Answer the user's question as well as you can, and don't make things up.",
]
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"]

# Written for these tests in the manner of the chat formats of Llama 3, ChatML and Llama 2.
CHAT_TEMPLATES = {
    "headers": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "chatml": (
        "{%- if messages[0].role != 'system' %}\n    {{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}\n{%- endif %}\n"
        "{%- for message in messages %}\n    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}"
    ),
    "inst": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set sys = false %}{% endif %}"
        "{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and sys %}{% set content = '<<SYS>>\n' + sys + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": " And of Italy?  "},
    {"role": "assistant", "content": "Rome."},
]


def train_byte_level() -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    folder = GOLDEN / "byte-level"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": "<|end_of_text|>",
        "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATES["headers"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


def record(name: str, folder: Path) -> dict:
    """Every string's ids (without and with special tokens), and texts of random ids and of byte pieces cut anywhere."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    transformers_tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = [tokenizer.encode(s, add_special_tokens=False).ids for s in STRINGS]
    special = [tokenizer.encode(s, add_special_tokens=True).ids for s in STRINGS]
    differ = [s for s, ids in zip(STRINGS, special) if transformers_tokenizer.encode(s) != ids]
    rng = random.Random(7)
    sequences = [[rng.randrange(tokenizer.get_vocab_size()) for _ in range(n)] for n in (1, 2, 5, 20, 60)]
    sequences += [ids[:k] for ids in plain[46:52] for k in range(1, len(ids))]
    decoded = [
        {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False), "skipped": tokenizer.decode(ids)}
        for ids in [*special, *sequences]
    ]
    return {"name": name, "transformersDiffersOn": differ, "plain": plain, "special": special, "decoded": decoded}


def chats(folder: Path) -> list:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [
        {
            "name": name, "template": template, "messages": TALK[:n], "addGenerationPrompt": prompt,
            "text": tokenizer.apply_chat_template(TALK[:n], chat_template=template, add_generation_prompt=prompt, tokenize=False),
        }
        for name, template in CHAT_TEMPLATES.items()
        for n, prompt in [(2, True), (3, False), (4, True), (5, False)]
    ]


def main() -> None:
    byte_level = train_byte_level()
    folders = {"byte-level": byte_level, "llama2": SHARED / "llama2_tokenizer", "stories260K": SHARED / "stories260K"}
    golden = {
        "command": "python tools/golden/tokenizer.py",
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("tokenizers", "transformers", "jinja2")}},
        "strings": STRINGS,
        "tokenizers": [record(name, folder) for name, folder in folders.items()],
        "chats": chats(byte_level),
    }
    path = GOLDEN / "tokens.json"
    aside = path.with_suffix(".json.part")
    aside.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="utf-8")
    os.replace(aside, path)
    for tokenizer in golden["tokenizers"]:
        print(tokenizer["name"], "transformers differs from tokenizers on", tokenizer["transformersDiffersOn"])
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
