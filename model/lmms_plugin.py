"""Our model as lmms-eval's model ``blip3o``, for its own command line:

    lmms-eval --model blip3o --model_args checkpoint=FOLDER_OR_HUB_NAME --tasks mme

lmms-eval finds ``manifests`` by the entry point group ``lmms_eval.models``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms
from tqdm import tqdm

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelManifest
    from PIL import Image


def manifests() -> list[ModelManifest]:
    """What the entry point gives to lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest("blip3o", simple_class_path="model.lmms_plugin.Blip3oLmms")]


@dataclass(frozen=True)
class Decoding:
    """Temperature 0 is greedy."""

    max_new_tokens: int
    stop: tuple[str, ...]
    temperature: float


@dataclass(frozen=True)
class Question:
    """One request, as the model takes it."""

    id: str
    prompt: str
    images: tuple[Callable[[], Image.Image], ...]
    decoding: Decoding


class Blip3oLmms(lmms):
    """Takes text and images (lmms-eval's "simple" kind) and generates; it gives no likelihoods."""

    def __init__(
        self,
        checkpoint: str,
        seed: int = 0,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """``checkpoint`` and ``seed`` come from --model_args.

        lmms-eval passes its options --batch_size and --device to every model. The batch sizes change nothing here:
        the model answers one question at a time. Any device but the CPU means a GPU if there is one.
        """
        from model.generate import load_answerer

        super().__init__()
        self.seed = seed
        self._answerer = load_answerer(checkpoint, device="cpu" if device == "cpu" else "auto")
        self.device = self._answerer.device  # lmms-eval's evaluator reads it when there are several processes

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """One reply per request, in their order."""
        replies: list[str] = []
        for request in tqdm(requests, desc="blip3o", unit="question", disable=True if self.rank > 0 else None):
            question = self._question(request)
            (reply,) = self._answerer.answer([question], [_seed(self.seed, question.id)])
            if isinstance(reply, Exception):
                raise reply
            replies.append(reply)
        return replies

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("blip3o answers in one round: tasks of several rounds cannot be run")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("blip3o gives no likelihoods: only tasks of type generate_until can be run")

    def _question(self, request: Instance) -> Question:
        # The arguments of a "simple" request (ConfigurableTask.construct_requests, lmms_eval/api/task.py).
        prompt, options, doc_to_visual, doc_id, task, split = request.args
        images = doc_to_visual(self.task_dict[task][split][doc_id]) or ()
        return Question(
            id=f"{task}/{doc_id}",
            prompt=prompt,
            images=tuple(partial(_same, image) for image in images),
            decoding=decoding(options),
        )


def decoding(options: Mapping[str, Any]) -> Decoding:
    """A task's generation_kwargs in our words. Raises ValueError at one that would change the reply and is not ours."""
    rest = dict(options)
    until = rest.pop("until", None) or ()
    # 128 tokens and greedy where the task does not say, as in BLIP3-o's own model class for lmms-eval.
    result = Decoding(
        max_new_tokens=rest.pop("max_new_tokens", 128),
        stop=(until,) if isinstance(until, str) else tuple(until),
        temperature=float(rest.pop("temperature", None) or 0),
    )
    rest.pop("do_sample", None)  # BLIP3-o's class samples when the temperature is above 0, whatever do_sample says
    rest.pop("image_aspect_ratio", None)  # of LLaVA's preprocessing
    if result.temperature == 0:
        rest.pop("top_p", None)
    changing = {name: value for name, value in rest.items() if value not in (None, 1)}  # num_beams 1, top_p 1.0
    if changing:
        raise ValueError(f"generation_kwargs {changing} are not supported by blip3o")
    return result


def _same(image: Image.Image) -> Image.Image:
    return image


def _seed(base_seed: int, question_id: str) -> int:
    """In [0, 2**63), of the question alone, so that a sampled reply does not depend on order or process."""
    digest = hashlib.sha256(f"{base_seed}/{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
