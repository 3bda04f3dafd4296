"""Judges that answer questions about an image, as DPG-Bench asks them: mPLUG, models of transformers, a chat, a file.

DPG-Bench's rule takes the reply ``yes`` and nothing else. It asks about a dozen questions of each image: what a network
makes of the image is computed once for all of them.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from benchmarks.judges.chat import Chat, LocalModel, Question, ask_many, file_of_replies
from benchmarks.types import BenchError, Json, JudgeError

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

#: ELLA's judge (dpg_bench/compute_dpg_bench.py); modelscope serves it as iic/... too.
MPLUG = "damo/mplug_visual-question-answering_coco_large_en"
#: What a chat model is told behind the question; mPLUG gets the question alone.
YES_OR_NO = "Answer yes or no."
#: More than yes or no and a full stop take.
MAX_TOKENS = 16
#: Questions that go through a network together.
BATCH = 16


class VqaJudge(Protocol):
    """Something that answers questions about an image."""

    def describe(self) -> Mapping[str, Json]:
        """Everything about the judge that determines its replies."""

    def answer(self, image: Image.Image, questions: Sequence[str], *, key: str) -> list[str | JudgeError]:
        """One reply per question, in their order, or why there is none.

        ``key`` names the image, as ``ITEM/CROP``. Raises BenchError when there will be no reply to any image.
        """


def yes_or_no(reply: str) -> str | JudgeError:
    """A chat model's reply as the rule takes it: its first word, also that of "Yes." and "**No**, it is not.".

    One that begins otherwise, such as a refusal, is no answer; the rule would take it for a no.
    """
    words = reply.lower().split()
    first = words[0].strip(".,:;!*\"'") if words else ""
    return first if first in ("yes", "no") else JudgeError(f"neither yes nor no: {reply[:80]!r}")


# mPLUG through modelscope ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mplug:
    """mPLUG-large for VQA as modelscope's pipeline runs it (profile dpg-official's judge).

    The steps are modelscope's: the image to RGB, bicubic to a square whatever its shape, CLIP's mean and deviation; the
    question in lower case, cut or padded to 25 tokens of BERT; beam search, the best sequence. The official script
    runs them once per question; here the image's features are computed once, and questions go through in batches. It
    runs in fp32 whatever ``--mixed_precision`` says (ELLA calls the pipeline, not the prepared model), so here too.
    """

    model: str = MPLUG
    device: str = "cpu"

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "mplug", "model": self.model, "library": "modelscope"}

    def answer(self, image: Image.Image, questions: Sequence[str], *, key: str) -> list[str | JudgeError]:
        """As ``VqaJudge.answer``. Raises BenchError when modelscope is not installed."""
        import torch

        preprocessor, model = self._pipeline.preprocessor, self._pipeline.model.model
        pixels = preprocessor({"image": image, "question": ""})["image"].to(self.device)
        replies: list[str | JudgeError] = []
        with torch.inference_mode(), encoded_once(model.visual_encoder.visual):
            for batch in _batches(questions):
                tokens = preprocessor.tokenizer(
                    [question.lower() for question in batch],
                    padding="max_length",
                    truncation=True,
                    max_length=preprocessor.tokenizer_max_length,
                    return_tensors="pt",
                ).to(self.device)
                beams, _ = model(pixels.expand(len(batch), -1, -1, -1), tokens, train=False)
                replies += [preprocessor.tokenizer.decode(found[0], skip_special_tokens=True) for found in beams]
        return replies

    @cached_property
    def _pipeline(self) -> Any:
        try:
            from modelscope.pipelines import pipeline
        except ImportError as error:
            raise BenchError(
                f"DPG-Bench's official judge needs modelscope ({error}): pip install 'blip3o-bench[mplug]', "
                "or name another judge"
            ) from error
        return pipeline("visual-question-answering", model=self.model, device=self.device)


# Models of transformers --------------------------------------------------------------------------------------------


def local_judge(folder: Path, name: str, device: str = "cpu") -> VqaJudge:
    """A judge from a folder that transformers saved: BLIP for VQA, or a chat model that sees.

    Raises BenchError when the folder holds neither.
    """
    import torchvision_guard

    torchvision_guard.install()  # transformers imports torchvision
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BenchError(f"cannot load the judge {name}: {' '.join(str(error).split())[:200]}") from error
    if "BlipForQuestionAnswering" in (config.architectures or ()):
        return BlipVqa(folder, name, device)
    return ChatModelVqa(folder, name, device)


@dataclass(frozen=True)
class BlipVqa:
    """A ``BlipForQuestionAnswering`` in ``folder``, as transformers saves it; ``name`` is for the record.

    It decodes as the checkpoint says, greedily as a rule.
    """

    folder: Path
    name: str
    device: str = "cpu"

    def describe(self) -> Mapping[str, Json]:
        return {**LocalModel(self.folder, self.name).describe(), "kind": "blip"}

    def answer(self, image: Image.Image, questions: Sequence[str], *, key: str) -> list[str | JudgeError]:
        return list(blip_replies(*self._loaded, image, questions))

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model in evaluation mode, and processor."""
        from transformers import AutoProcessor, BlipForQuestionAnswering

        try:
            processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
            model = BlipForQuestionAnswering.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BenchError(f"cannot load the judge {self.name}: {' '.join(str(error).split())[:200]}") from error
        return model.to(self.device).eval(), processor


def blip_replies(
    model: Any, processor: Any, image: Image.Image, questions: Sequence[str], max_tokens: int = MAX_TOKENS
) -> list[str]:
    """What a ``BlipForQuestionAnswering`` and its processor reply, in at most so many tokens."""
    import torch

    pixels = processor.image_processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
    pixels = pixels.to(model.device)
    tokens = [processor.tokenizer(question)["input_ids"] for question in questions]
    replies: dict[int, str] = {}
    # What its text encoder's cross-attention makes of the image is the same for every question too.
    attentions = [layer.crossattention.self for layer in model.text_encoder.encoder.layer]
    of_image = [model.vision_model, *(part for one in attentions for part in (one.key, one.value))]
    with torch.inference_mode(), ExitStack() as stack:
        for module in of_image:
            stack.enter_context(encoded_once(module))
        # Questions of one length only: BLIP's decoder looks at what its encoder makes of padding.
        for length in sorted({len(one) for one in tokens}):
            for batch in _batches([index for index, one in enumerate(tokens) if len(one) == length]):
                ids = torch.tensor([tokens[index] for index in batch], device=model.device)
                copies = pixels.expand(len(batch), -1, -1, -1)
                found = model.generate(ids, copies, torch.ones_like(ids), max_new_tokens=max_tokens)
                texts = processor.tokenizer.batch_decode(found, skip_special_tokens=True)
                replies.update(zip(batch, texts, strict=True))
    return [replies[index] for index in range(len(questions))]


@contextmanager
def encoded_once(encoder: Any) -> Iterator[None]:
    """Inside, ``encoder`` (a torch module) is to be called with batches of copies of one image, or of its features.

    It computes the first copy, at the first call, and repeats what comes out: a tensor, or of a sequence of
    tensors the first one. So the model's own code runs for all the rest.
    """
    import torch

    forward = encoder.forward
    features: list[Any] = []

    def first(value: Any) -> Any:
        return value[:1] if isinstance(value, torch.Tensor) else value

    def repeated(*inputs: Any, **named: Any) -> Any:
        copies = next(len(value) for value in (*inputs, *named.values()) if isinstance(value, torch.Tensor))
        if not features:
            features.append(forward(*map(first, inputs), **{name: first(value) for name, value in named.items()}))
        made = features[0]
        if isinstance(made, torch.Tensor):
            return made.expand(copies, *made.shape[1:])
        return (made[0].expand(copies, *made[0].shape[1:]),)

    encoder.forward = repeated
    try:
        yield
    finally:
        encoder.forward = forward


@dataclass(frozen=True)
class ChatModelVqa(LocalModel):
    """A vision-language chat model of transformers, asked greedily for yes or no.

    What its language model makes of the image and of all that stands before the questions is computed once.
    """

    def describe(self) -> Mapping[str, Json]:
        return {**super().describe(), "instruction": YES_OR_NO}

    def answer(self, image: Image.Image, questions: Sequence[str], *, key: str) -> list[str | JudgeError]:
        import torch

        if not questions:
            return []
        model, tokenizer = self._loaded
        inputs = [self._inputs(image, question).to(model.device) for question in questions]
        ids = [one["input_ids"][0].tolist() for one in inputs]
        with torch.inference_mode():
            cache = model(**_beginning(inputs[0], _shared(ids)), use_cache=True).past_key_values
            # generate() takes from the cache what it holds of the ids (transformers, "Prefill a cache").
            replies = [
                model.generate(
                    input_ids=one["input_ids"],
                    attention_mask=one["attention_mask"],
                    past_key_values=copy.deepcopy(cache),
                    max_new_tokens=MAX_TOKENS,
                )[0, one["input_ids"].shape[1] :]
                for one in inputs
            ]
        texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
        return [yes_or_no(text) for text in texts]

    def _inputs(self, image: Image.Image, question: str) -> Any:
        content = [
            {"type": "image", "image": image.convert("RGB")},
            {"type": "text", "text": f"{question} {YES_OR_NO}"},
        ]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


def _shared(ids: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with, but for each one's last, which generate() has to see."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*ids, strict=False))
    return min(sum(1 for _ in same), *(len(one) - 1 for one in ids))


def _beginning(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    """A model's inputs cut to so many tokens; pixels, which are not counted in tokens, stay whole."""
    whole = inputs["input_ids"].shape
    return {name: value[:, :length] if value.shape[:2] == whole else value for name, value in inputs.items()}


# A server, and a file ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChatVqa:
    """A chat that sees images, such as an OpenAI-compatible server, asked for yes or no at temperature 0."""

    chat: Chat

    def describe(self) -> Mapping[str, Json]:
        return {**self.chat.describe(), "instruction": YES_OR_NO}

    def answer(self, image: Image.Image, questions: Sequence[str], *, key: str) -> list[str | JudgeError]:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
        images = (buffer.getvalue(),)
        asked = [Question(f"{one} {YES_OR_NO}", 0.0, MAX_TOKENS, f"{key}/{one}", images) for one in questions]
        replies = ask_many(self.chat, asked)
        return [reply if isinstance(reply, JudgeError) else yes_or_no(reply.text) for reply in replies]


@dataclass(frozen=True)
class ReplayVqa:
    """Replies from a CSV file with the columns item_id, question, answer and, where images have several crops, crop.

    Crops count from 0; without the column all replies are of crop 0. Of equal rows the last counts.
    An empty answer is none: the file does not tell a judge that said nothing from one that failed.
    """

    path: Path

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "replay", "sha256": hashlib.sha256(self._data).hexdigest()}

    def answer(self, image: Image.Image, questions: Sequence[str], *, key: str) -> list[str | JudgeError]:
        """As ``VqaJudge.answer``, without a look at the image. Raises BenchError when the file is absent or another."""
        return [self._reply(key, question) for question in questions]

    def _reply(self, key: str, question: str) -> str | JudgeError:
        reply = self._replies.get((key, question), "")
        return reply if reply.strip() else JudgeError(f"{self.path} has no reply to {question!r} of {key}")

    @cached_property
    def _data(self) -> bytes:
        return file_of_replies(self.path)

    @cached_property
    def _replies(self) -> Mapping[tuple[str, str], str]:
        other = f"{self.path} is no CSV file with the columns item_id, question, answer and maybe crop"
        reader = csv.DictReader(io.StringIO(self._data.decode("utf-8-sig", "replace"), newline=""))
        try:
            rows = list(reader)
        except csv.Error as error:
            raise BenchError(f"{other}: {error}") from error
        if not {"item_id", "question", "answer"} <= set(reader.fieldnames or ()):
            raise BenchError(other)
        return {(f"{row['item_id']}/{row.get('crop') or 0}", row["question"]): row["answer"] or "" for row in rows}


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
