"""Judging DPG-Bench with each crop encoded once, beside the official way of one full pasCPU s per question.

    python -m benchmarks.bench.dpg

The model has the size of BLIP-VQA-base (ViT-B/16 on 384 pixels, 12 + 12 layers of text) and random weights: what it
says means nothing, but has to be the same both ways. Thirteen questions are asked of a crop, as DPG-Bench does on
average. A reply is two tokens long, yes or no and the end, which random weights would not find by themselves. One run,
both ways in one process, in CPU seconds: other work on the machine does not count.
"""

from __future__ import annotations

import time
from itertools import groupby
from typing import Any

from PIL import Image

from benchmarks.judges.vqa import blip_replies
from benchmarks.shapes.dpg import rows, scene_for
from benchmarks.shapes.scene import render

CROPS = 1
QUESTIONS = 13
REPLY_TOKENS = 2


def random_blip() -> tuple[Any, Any]:
    """Model of the default configuration, and processor. Its words are those of the questions."""
    import torchvision_guard

    torchvision_guard.install()  # transformers imports torchvision
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForQuestionAnswering,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = {word for row in rows() for word in row["question_natural_language"].lower().rstrip("?").split()}
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "?")
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate((*special, *sorted(words)))})
    ids = {"bos_token_id": 5, "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    # Larger first weights than a model is trained from, or every reply would be the same.
    model = BlipForQuestionAnswering(
        BlipConfig(text_config={**ids, "initializer_range": 0.2}, image_text_hidden_size=256)
    )
    return model.eval(), BlipProcessor(BlipImageProcessor(), tokenizer)


def one_by_one(model: Any, processor: Any, image: Image.Image, questions: list[str]) -> list[str]:
    """A full pasCPU s per question, as transformers' documentation has it and as DPG-Bench's script calls its judge."""
    import torch

    replies = []
    with torch.inference_mode():
        for question in questions:
            inputs = processor(images=image, text=question, return_tensors="pt")
            found = model.generate(**inputs, max_new_tokens=REPLY_TOKENS)[0]
            replies.append(processor.decode(found, skip_special_tokens=True))
    return replies


def encoded_once(model: Any, processor: Any, image: Image.Image, questions: list[str]) -> list[str]:
    return blip_replies(model, processor, image, questions, REPLY_TOKENS)


def crops() -> list[tuple[Image.Image, list[str]]]:
    """The first scenes with so many questions or more."""
    blocks = ((item, [row["question_natural_language"] for row in own]) for item, own in groupby(rows(), _item))
    chosen = [(item, asked[:QUESTIONS]) for item, asked in blocks if len(asked) >= QUESTIONS][:CROPS]
    return [(render(scene_for(item)), asked) for item, asked in chosen]


def _item(row: dict[str, str]) -> str:
    return row["item_id"]


def main() -> None:
    model, processor = random_blip()
    work = crops()
    seconds: dict[str, float] = {}
    replies: dict[str, list[list[str]]] = {}
    for name, ask in (("one by one", one_by_one), ("encoded once", encoded_once)):
        started = time.process_time()
        replies[name] = [ask(model, processor, image, asked) for image, asked in work]
        seconds[name] = time.process_time() - started
        each = seconds[name] / sum(len(asked) for _, asked in work)
        print(f"{len(work)} x {QUESTIONS} questions  {name:12}  {each:6.3f} CPU s per question", flush=True)
    distinct = len({reply for own in replies["one by one"] for reply in own})
    same = replies["one by one"] == replies["encoded once"]
    ratio = seconds["one by one"] / seconds["encoded once"]
    print(f"{ratio:.1f} times as fast; {distinct} distinct replies, {'all equal' if same else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
