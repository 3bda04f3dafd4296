"""The judges of DPG-Bench: each answers as if it were asked one question at a time, but looks at an image once."""

from __future__ import annotations

import csv
import io
import random
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.judges import vqa
from benchmarks.judges.chat import ChatReply, Question
from benchmarks.judges.vqa import BlipVqa, ChatModelVqa, ChatVqa, Mplug, ReplayVqa, VqaJudge, yes_or_no
from benchmarks.shapes.scene import random_scene, render
from benchmarks.types import BenchError, Json, JudgeError
from tests.conftest import ROOT

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"),
    *("is", "the", "a", "there", "an", "red", "blue", "circle", "ring", "star", "yes", "no", "?"),
)
QUESTIONS = [
    "Is there a red circle?",
    "Is the ring blue?",
    "Is there a ring?",
    "Is the red star a ring?",
    "Is the circle red?",
]


def picture(seed: int) -> Image.Image:
    return render(random_scene(random.Random(seed)))


def tokenizer() -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


class Calls:
    """Counts the images that a torch module is called with."""

    def __init__(self, module: Any) -> None:
        self.images: list[int] = []
        forward = module.forward

        def counted(*inputs: Any, **named: Any) -> Any:
            self.images.append(len(next(v for v in (*inputs, *named.values()) if isinstance(v, torch.Tensor))))
            return forward(*inputs, **named)

        module.forward = counted


# BLIP --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BLIP for VQA of a few thousand parameters."""
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("judges") / "blip"
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 32, "max_position_embeddings": 64, "projection_dim": 32}
    ids = {"bos_token_id": 5, "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3}
    config = BlipConfig(
        text_config={**size, **text, **ids, "initializer_range": 1.0},
        vision_config={**size, "image_size": 32, "patch_size": 8, "projection_dim": 32, "initializer_range": 0.3},
        projection_dim=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BlipForQuestionAnswering(config)
    model.save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer())
    processor.save_pretrained(folder)
    return folder


def blip_alone(judge: BlipVqa, image: Image.Image, question: str) -> str:
    """One question through transformers' own processor and generate()."""
    model, processor = judge._loaded
    inputs = processor(images=image, text=question, return_tensors="pt")
    return str(processor.decode(model.generate(**inputs, max_new_tokens=vqa.MAX_TOKENS)[0], skip_special_tokens=True))


def test_blip_answers_as_if_asked_one_by_one(blip: Path) -> None:
    judge = vqa.local_judge(blip, "tiny")
    assert isinstance(judge, BlipVqa)
    seen = set()
    for seed in range(3):
        image = picture(seed)
        replies = judge.answer(image, QUESTIONS, key="a/0")
        assert replies == [blip_alone(judge, image, question) for question in QUESTIONS]
        seen.update(replies)
    assert len(seen) > 2  # a judge that always says the same would pass too


def test_blip_encodes_an_image_once(blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vqa, "BATCH", 2)
    judge = BlipVqa(blip, "tiny")
    model = judge._loaded[0]
    calls, keys = Calls(model.vision_model), Calls(model.text_encoder.encoder.layer[1].crossattention.self.key)
    first, second = judge.answer(picture(0), QUESTIONS, key="a/0"), judge.answer(picture(1), QUESTIONS, key="a/1")
    assert calls.images == keys.images == [1, 1]
    fresh = BlipVqa(blip, "tiny")
    assert (first, second) == tuple(fresh.answer(picture(n), QUESTIONS, key="") for n in (0, 1))


def test_a_judge_that_is_not_there_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot load the judge owner/name"):
        vqa.local_judge(tmp_path, "owner/name")


# A chat model ------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's vision-language backbone with a chat template; it does see what is in an image."""
    folder = tmp_path_factory.mktemp("judges") / "vlm"
    shutil.copytree(ROOT / "model" / "toy" / "backbone", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def test_a_chat_model_answers_as_if_asked_one_by_one(vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vqa, "yes_or_no", str)  # the questions are not such, so that replies differ
    judge = vqa.local_judge(vlm, "toy")
    assert isinstance(judge, ChatModelVqa)
    model, tokens = judge._loaded
    asked = ["What color is the star?", "How many shapes are there?", "What shape is the red object?"]
    calls = Calls(model.model.visual)
    seen: set[object] = set()
    for seed in range(3):
        image = picture(seed)
        calls.images.clear()
        replies = judge.answer(image, asked, key="a/0")
        assert len(calls.images) == 1
        alone = []
        for question in asked:
            inputs = judge._inputs(image, question)
            row = model.generate(**inputs, max_new_tokens=vqa.MAX_TOKENS)[0, inputs["input_ids"].shape[1] :]
            alone.append(tokens.decode(row, skip_special_tokens=True))
        assert replies == alone
        assert judge.answer(image, asked[:1], key="a/0") == alone[:1]
        seen.update(replies)
    assert len(seen) > 1
    assert judge.answer(picture(0), [], key="a/0") == []


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Yes.", "yes"),
        ("**No**, it is not.", "no"),
        ("yes", "yes"),
    ],
)
def test_a_chat_models_first_word_counts(reply: str, read: str) -> None:
    assert yes_or_no(reply) == read


@pytest.mark.parametrize("reply", ["Yesterday", "I cannot say that.", ""])
def test_a_chat_models_other_words_are_no_answer(reply: str) -> None:
    assert isinstance(yes_or_no(reply), JudgeError)


# mPLUG -------------------------------------------------------------------------------------------------------------


class Visual(torch.nn.Module):
    """Stands in for the image tower: features [images, 3, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 8)

    def forward(self, image: torch.Tensor, skip_last_layer: bool = False) -> torch.Tensor:
        assert skip_last_layer
        features: torch.Tensor = self.linear(image.mean((2, 3))[:, [0, 1, 2, 0]])
        return features[:, None].expand(-1, 3, -1).contiguous()


class FakeMplug(torch.nn.Module):
    """The interface of modelscope's MPlugForVisualQuestionAnswering; its reply depends on image and question."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_encoder = SimpleNamespace(visual=Visual())
        self.questions: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor, question: Any, train: bool = True) -> tuple[list[list[torch.Tensor]], None]:
        assert not train
        features = self.visual_encoder.visual(image, skip_last_layer=True)
        self.questions.append(question.input_ids)
        words = (features.sum((1, 2)).abs() * 1000).long() + question.input_ids.sum(1)
        return [[torch.tensor([5, 7 + int(word) % (len(WORDS) - 7), 3])] for word in words], None


@pytest.fixture
def mplug(monkeypatch: pytest.MonkeyPatch) -> FakeMplug:
    """modelscope with a pipeline as its VisualQuestionAnsweringPipeline is built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FakeMplug()

    class Preprocessor:
        tokenizer_max_length = 25

        def __init__(self) -> None:
            self.tokenizer = tokenizer()

        def __call__(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
            from torchvision.transforms.functional import pil_to_tensor

            return {"image": pil_to_tensor(data["image"])[None].float() / 255}

    def pipeline(task: str, model: str, device: str) -> Any:
        assert (task, model, device) == ("visual-question-answering", vqa.MPLUG, "cpu")
        return SimpleNamespace(preprocessor=Preprocessor(), model=SimpleNamespace(model=fake))

    fake = model
    module = ModuleType("modelscope.pipelines")
    module.pipeline = pipeline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", ModuleType("modelscope"))
    monkeypatch.setitem(sys.modules, "modelscope.pipelines", module)
    return model


def test_mplug_gets_lower_case_questions_of_25_tokens_and_one_image(mplug: FakeMplug) -> None:
    judge = Mplug()
    calls = Calls(mplug.visual_encoder.visual)
    replies = judge.answer(picture(0), QUESTIONS, key="a/0")
    assert calls.images == [1]
    (ids,) = mplug.questions
    assert ids.shape == (len(QUESTIONS), 25)
    text = tokenizer().decode(ids[0], skip_special_tokens=True)
    assert text.replace(" ", "") == QUESTIONS[0].lower().replace(" ", "")
    assert replies == [judge.answer(picture(0), [question], key="a/0")[0] for question in QUESTIONS]
    assert len(set(replies)) > 1


def test_a_long_question_is_cut_after_25_tokens(mplug: FakeMplug) -> None:
    Mplug().answer(picture(0), ["red " * 60 + "?"], key="a/0")
    assert mplug.questions[0].tolist() == [[2, *[WORDS.index("red")] * 23, 3]]


def test_without_modelscope_the_official_judge_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(BenchError, match="needs modelscope"):
        Mplug().answer(picture(0), QUESTIONS, key="a/0")


# A server, and a file ----------------------------------------------------------------------------------------------


class FakeChat:
    """Says whether the question has the word that it holds for true."""

    concurrency = 2

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "fake"}

    def ask(self, question: Question) -> ChatReply:
        with Image.open(io.BytesIO(question.images[0])) as image:
            assert image.size == (64, 64)
        assert question.temperature == 0
        self.asked.append((question.key, question.prompt))
        if "ring" in question.prompt:
            raise JudgeError("overloaded")
        return ChatReply("Yes, it is." if "red" in question.prompt else "No", 0, 0, None)


def test_a_server_is_asked_each_question_with_the_image() -> None:
    chat = FakeChat()
    replies = ChatVqa(chat).answer(picture(0), QUESTIONS, key="item/2")
    assert [reply if isinstance(reply, str) else type(reply) for reply in replies] == [
        "yes",
        JudgeError,
        JudgeError,
        JudgeError,
        "yes",
    ]
    assert ("item/2/Is there a red circle?", "Is there a red circle? Answer yes or no.") in chat.asked
    assert ChatVqa(chat).describe() == {"kind": "fake", "instruction": "Answer yes or no."}


def replay(path: Path, text: str) -> VqaJudge:
    path.write_text(text, encoding="utf-8")
    return ReplayVqa(path)


def test_a_file_of_replies_is_read_by_item_crop_and_question(tmp_path: Path) -> None:
    judge = replay(
        tmp_path / "a.csv", "item_id,crop,question,answer\nx,0,Is it?,yes\nx,1,Is it?, yes\ny,0,Is it?,\ny,2,Is it?"
    )
    found = [judge.answer(picture(0), ["Is it?"], key=key)[0] for key in ("x/0", "x/1")]
    assert found == ["yes", " yes"]  # as they stand: the rule takes the first only
    for key in ("y/0", "y/1", "y/2"):  # empty, absent and cut off
        (missing,) = judge.answer(picture(0), ["Is it?"], key=key)
        assert isinstance(missing, JudgeError)
        assert f"no reply to 'Is it?' of {key}" in str(missing)


def test_a_file_that_holds_no_replies_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is no CSV file with the columns item_id, question, answer"):
        replay(tmp_path / "a.csv", "item_id,question\nx,Is it?\n").answer(picture(0), ["Is it?"], key="x/0")
    with pytest.raises(BenchError, match=r"is no CSV file .*field larger than field limit"):
        replay(tmp_path / "a.csv", '"' + "no end " * 20_000).answer(picture(0), ["Is it?"], key="x/0")
    with pytest.raises(BenchError, match="cannot read the judge's replies"):
        ReplayVqa(tmp_path / "none.csv").answer(picture(0), ["Is it?"], key="x/0")


def test_real_replies_of_mplug_are_replayed(bench_data: Path, tmp_path: Path) -> None:
    source = bench_data / "dsg_standin" / "mplug_dsg.csv"
    with source.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["t2i_model"], row["qg_model"]) == ("sd2dot1", "dsg")]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    judge = ReplayVqa(tmp_path / "a.csv")
    expected = {(row["item_id"], row["question"]): row["answer"] for row in rows}
    assert len(expected) > 1000
    image = picture(0)
    for (item, question), answer in expected.items():
        assert judge.answer(image, [question], key=f"{item}/0") == [answer]
