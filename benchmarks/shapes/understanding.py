"""Rows of the nine understanding columns in the shapes world, in the columns and types of the official data sets.

Each function gives the same rows every time. A question is drawn by a generator that is named after its benchmark
(``_rng``); training names its own otherwise (training.py), so it sees a scene of these by chance only. A column
``choices`` beyond the official ones is how many answers a guesser picks from; it gives the chance level.
Official columns: the cards of lmms-lab-encoder/{VQAv2, MMBench, SEED-Bench, MMVet, MME, MMMU, RealWorldQA, textvqa}.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.shapes import questions, vqa
from benchmarks.shapes.questions import Item, Maker
from benchmarks.shapes.scene import CANVAS, Scene, random_scene, render
from benchmarks.types import Json

if TYPE_CHECKING:
    from datasets import Dataset

    from benchmarks.harness import TaskName

Row = dict[str, Any]

LETTERS = "ABCD"

#: MMBench's categories that shapes and words can stand for: L3 category -> (L2 category, maker).
MMBENCH: Mapping[str, tuple[str, Maker]] = {
    "attribute_recognition": ("finegrained_perception (instance-level)", questions.color),
    "object_localization": ("finegrained_perception (instance-level)", questions.where),
    "ocr": ("finegrained_perception (instance-level)", questions.word),
    "attribute_comparison": ("finegrained_perception (cross-instance)", questions.same_color),
    "spatial_relationship": ("finegrained_perception (cross-instance)", questions.relation),
    "image_scene": ("coarse_perception", questions.arrangement),
    "image_topic": ("coarse_perception", questions.title),
    "physical_property_reasoning": ("attribute_reasoning", questions.corners),
    "function_reasoning": ("attribute_reasoning", questions.traffic_light),
    "structuralized_imagetext_understanding": ("logic_reasoning", questions.price),
}

#: SEED-Bench's nine kinds of question about images: question_type_id -> maker.
SEEDBENCH: Mapping[int, Maker] = {
    1: questions.arrangement,  # scene understanding
    2: questions.presence,  # instance identity
    3: questions.color,  # instance attributes
    4: questions.where,  # instance location
    5: questions.count_shape,  # instances counting
    6: questions.relation,  # spatial relation
    7: questions.same_color,  # instance interaction
    8: questions.traffic_light,  # visual reasoning
    9: questions.word,  # text understanding
}

#: MM-Vet's capabilities -> makers of questions that need just these; all are among its 16 combinations.
MMVET: Sequence[tuple[str, Maker]] = (
    ("rec", questions.color),
    ("rec", questions.count_shape),
    ("rec,spat", questions.relation),
    ("rec,know", questions.traffic_light),
    ("rec,spat,know", questions.on_map),
    ("ocr", questions.word),
    ("ocr,rec", questions.colored_word),
    ("ocr,spat", questions.sign),
    ("ocr,rec,spat", questions.name),
    ("ocr,math", questions.calculation),
    ("ocr,spat,math", questions.total),
    ("rec,spat,gen,ocr", questions.description),
    ("rec", questions.any_shape),
)

#: MME's fourteen categories, in its order: perception up to OCR, cognition behind it.
MME: Mapping[str, Maker] = {
    "existence": questions.presence,
    "count": questions.count_shape,
    "position": questions.relation,
    "color": questions.color,
    "posters": questions.title,
    "celebrity": questions.name,  # nobody is famous here: a name is written below each shape
    "scene": questions.arrangement,
    "landmark": questions.on_map,  # nor is a place: what stands in a corner of the map
    "artwork": questions.main_color,
    "OCR": questions.word,
    "commonsense_reasoning": questions.traffic_light,
    "numerical_calculation": questions.calculation,
    "text_translation": questions.translation,
    "code_reasoning": questions.code,
}

#: Subjects of MMMU -> makers, one question of each in turn.
MMMU: Mapping[str, Sequence[Maker]] = {
    "Accounting": (questions.price, questions.total),
    "Art": (questions.main_color, questions.color),
    "Computer_Science": (questions.code,),
    "Design": (questions.shape, questions.same_color),
    "Geography": (questions.on_map,),
    "Literature": (questions.translation,),
    "Math": (questions.corners, questions.count_all),
}
#: The subject whose questions show two images, of which the second is meant.
TWO_IMAGES = "Design"


def vqav2(images: int = 60) -> Dataset:
    """Up to five questions about each image."""
    from datasets import Image, List, Value

    rows = [{**row, "image": render(scene)} for scene, asked in vqa.rows(images) for row in asked]
    answer = {"answer": Value("string"), "answer_confidence": Value("string"), "answer_id": Value("int64")}
    return _dataset(
        rows,
        {
            **_strings("question_type", "multiple_choice_answer"),
            "answers": List(answer),
            "image_id": Value("int64"),
            "answer_type": Value("string"),
            "question_id": Value("int64"),
            "question": Value("string"),
            "image": Image(),
        },
    )


def mmbench() -> Dataset:
    """Ten categories of seven questions with two to four options, each asked with every rotation of its options.

    ``index`` is the question's number plus 1,000,000 for each rotation; options that are not there are "nan".
    """
    from datasets import Image, Value

    rows: list[Row] = []
    for number, (category, i) in enumerate((category, i) for category in MMBENCH for i in range(7)):
        level, maker = MMBENCH[category]
        rng = _rng("mmbench", category, i)
        item = maker(rng)
        options = offered(item, 2 + i % 3, rng)
        image = render(item.scene)
        for rotation in range(len(options)):
            rotated = options[rotation:] + options[:rotation]
            rows.append(
                {
                    "index": number + 1_000_000 * rotation,
                    "question": item.question,
                    "hint": "The image shows shapes and words on grey paper." if i % 4 == 0 else "nan",
                    "answer": LETTERS[rotated.index(item.answer)],
                    **dict(zip(LETTERS, rotated + ["nan"] * len(LETTERS), strict=False)),
                    "category": category,
                    "image": image,
                    "source": "shapes",
                    "L2-category": level,
                    "comment": "nan",
                    "split": "dev",
                    "choices": len(options),
                }
            )
    rows.sort(key=lambda row: row["index"])
    return _dataset(
        rows,
        {
            "index": Value("int64"),
            **_strings("question", "hint", "answer", *LETTERS, "category"),
            "image": Image(),
            **_strings("source", "L2-category", "comment", "split"),
        },
    )


def seedbench() -> Dataset:
    """24 questions of each of the nine kinds about images. Those about videos are left out: nothing moves here."""
    from datasets import Image, List, Value

    rows = []
    for kind, maker in SEEDBENCH.items():
        for i in range(24):
            rng = _rng("seedbench", kind, i)
            item = maker(rng)
            options = offered(item, 4, rng)
            rows.append(
                {
                    "answer": LETTERS[options.index(item.answer)],
                    **dict(zip((f"choice_{letter}" for letter in LETTERS.lower()), options, strict=True)),
                    "data_id": f"{kind}_{i}",
                    "data_type": "image",
                    "question": item.question,
                    "question_id": str(100 * kind + i),
                    "question_type_id": kind,
                    "image": [render(item.scene)],
                    "segment": None,
                    "choices": len(options),
                }
            )
    return _dataset(
        rows,
        {
            **_strings("answer", "choice_a", "choice_b", "choice_c", "choice_d"),
            **_strings("data_id", "data_type", "question", "question_id"),
            "question_type_id": Value("int16"),
            "image": List(Image()),
            "segment": List(Value("int64")),
        },
    )


def mmvet() -> Dataset:
    """16 open questions of each kind, some with <AND> or <OR> in the answer.

    No ``choices``: a judge grades free text, which has no chance level.
    """
    from datasets import Image, Value

    asked = [
        (capability, maker(_rng("mmvet", f"{capability}/{maker.__name__}", i)))
        for capability, maker in MMVET
        for i in range(16)
    ]
    rows = [
        {
            "question_id": f"v1_{number}",
            "image": render(item.scene),
            "question": item.question,
            "answer": item.answer,
            "image_source": "shapes",
            "capability": capability,
        }
        for number, (capability, item) in enumerate(asked)
    ]
    return _dataset(
        rows,
        {
            "question_id": Value("string"),
            "image": Image(),
            **_strings("question", "answer", "image_source", "capability"),
        },
    )


def mme() -> Dataset:
    """Eight images of each category with two questions each, one to be answered yes and one no."""
    from datasets import Image, Value

    rows = []
    for category, maker in MME.items():
        for i in range(8):
            rng = _rng("mme", category, i)
            item = maker(rng)
            image = render(item.scene)
            for answer, claimed in (("Yes", item.answer), ("No", rng.choice(item.wrong))):
                rows.append(
                    {
                        "question_id": f"{category}/{i:04d}.png",
                        "image": image,
                        "question": f"{item.claim.format(claimed)} Please answer yes or no.",
                        "answer": answer,
                        "category": category,
                        "choices": 2,
                    }
                )
    return _dataset(
        rows,
        {
            "question_id": Value("string"),
            "image": Image(),
            **_strings("question", "answer", "category"),
        },
    )


def mmmu() -> Dataset:
    """30 questions of each of seven subjects, every sixth of them open, the others with four options."""
    from datasets import Image

    slots = [f"image_{k}" for k in range(1, 8)]
    rows = []
    for subject, makers in MMMU.items():
        for i in range(30):
            rng = _rng("mmmu", subject, i)
            item = makers[i % len(makers)](rng)
            is_open = i % 6 == 4
            options = [] if is_open else offered(item, 4, rng)
            scenes = [random_scene(rng), item.scene] if subject == TWO_IMAGES else [item.scene]
            marks = " ".join(f"<image {k}>" for k in range(1, len(scenes) + 1))
            which = "Look at the second image. " if subject == TWO_IMAGES else ""
            rows.append(
                {
                    "id": f"validation_{subject}_{i + 1}",
                    "question": f"{marks} {which}{item.question}",
                    "options": repr(options),
                    "explanation": "",
                    **dict.fromkeys(slots),
                    **dict(zip(slots, map(render, scenes), strict=False)),
                    "img_type": "['Diagrams']",
                    "answer": item.answer if is_open else LETTERS[options.index(item.answer)],
                    "topic_difficulty": "Easy",
                    "question_type": "open" if is_open else "multiple-choice",
                    "subfield": subject.replace("_", " "),
                    "choices": 1 + len(item.wrong) if is_open else len(options),
                }
            )
    return _dataset(
        rows,
        {
            **_strings("id", "question", "options", "explanation"),
            **{slot: Image() for slot in slots},
            **_strings("img_type", "answer", "topic_difficulty", "question_type", "subfield"),
        },
    )


def realworldqa() -> Dataset:
    """34 questions of each of six kinds: three with three options, three to be answered with a number or a word."""
    from datasets import Image, Value

    letter = "Please answer directly with only the letter of the correct option and nothing else."
    direct = "Please answer directly with a single word or number."
    rows: list[Row] = []
    for i in range(34):
        for maker in (questions.relation, questions.where, questions.traffic_light):
            rng = _rng("realworldqa", maker.__name__, i)
            item = maker(rng)
            options = offered(item, 3, rng)
            listed = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, options, strict=False))
            answer = LETTERS[options.index(item.answer)]
            rows.append(_real_world(item.scene, f"{item.question}\n\n{listed}\n{letter}", answer, len(options)))
        for maker in (questions.count_shape, questions.sign):
            item = maker(_rng("realworldqa", maker.__name__, i))
            rows.append(_real_world(item.scene, f"{item.question} {direct}", item.answer, 1 + len(item.wrong)))
        rng = _rng("realworldqa", "presence", i)
        item = questions.presence(rng)
        answer, claimed = ("Yes", item.answer) if i % 2 == 0 else ("No", rng.choice(item.wrong))
        rows.append(_real_world(item.scene, f"{item.claim.format(claimed)} {direct}", answer, 2))
    for number, row in enumerate(rows):
        row["image_path"] = f"{number}.webp"
    return _dataset(
        rows,
        {"image": Image(), "image_path": Value("string"), "question": Value("string"), "answer": Value("string")},
    )


def textvqa() -> Dataset:
    """Two questions about each of 100 images with two words; the ten annotators agree."""
    from datasets import Image, List, Value

    rows = []
    for image_id in range(100):
        for number, item in enumerate(questions.signs(_rng("textvqa", "signs", image_id))):
            question = item.question.lower()
            rows.append(
                {
                    "image_id": f"{image_id:016x}",
                    "question_id": 34602 + 2 * image_id + number,  # the first of the official validation split
                    "question": question,
                    "question_tokens": re.findall(r"\w+", question),
                    "image": render(item.scene),
                    "image_width": CANVAS,
                    "image_height": CANVAS,
                    "flickr_original_url": "",
                    "flickr_300k_url": "",
                    "answers": [item.answer.lower()] * 10,
                    "image_classes": [thing.shape for thing in item.scene.objects],
                    "set_name": "val",
                    "ocr_tokens": [line.text for line in item.scene.texts],
                    "choices": 1 + len(item.wrong),
                }
            )
    return _dataset(
        rows,
        {
            "image_id": Value("string"),
            "question_id": Value("int32"),
            "question": Value("string"),
            "question_tokens": List(Value("string")),
            "image": Image(),
            "image_width": Value("int32"),
            "image_height": Value("int32"),
            **_strings("flickr_original_url", "flickr_300k_url"),
            "answers": List(Value("string")),
            "image_classes": List(Value("string")),
            "set_name": Value("string"),
            "ocr_tokens": List(Value("string")),
        },
    )


def oracle_answer(task: TaskName, doc: Mapping[str, Json]) -> str:
    """The reply that gets full marks."""
    match task:
        case "vqav2_val":
            return str(doc["multiple_choice_answer"])
        case "textvqa_val":
            return str(doc["answers"][0])
        case _:
            return spoken(doc["answer"])


def spoken(answer: str) -> str:
    """An answer as a reply: of those that MM-Vet joins by <OR> the first, all of those that it joins by <AND>."""
    return answer.split("<OR>")[0].replace("<AND>", ", ")


#: The columns by name: lmms-eval's task and the rows.
COLUMNS: Mapping[str, tuple[TaskName, Callable[[], Dataset]]] = {
    "vqav2": ("vqav2_val", vqav2),
    "mmbench": ("mmbench_en_dev", mmbench),
    "seedbench": ("seedbench", seedbench),
    "mmvet": ("mmvet", mmvet),
    "mme": ("mme", mme),
    "mmmu": ("mmmu_val", mmmu),
    "realworldqa": ("realworldqa", realworldqa),
    "textvqa": ("textvqa_val", textvqa),
}


def _rng(benchmark: str, kind: str | int, number: int) -> random.Random:
    return random.Random(f"understanding rows/{benchmark}/{kind}/{number}")


def offered(item: Item, count: int, rng: random.Random) -> list[str]:
    """The answer and ``count`` - 1 wrong ones in any order."""
    options = [item.answer, *rng.sample(item.wrong, count - 1)]
    rng.shuffle(options)
    return options


def _real_world(scene: Scene, question: str, answer: str, choices: int) -> Row:
    return {"image": render(scene), "question": question, "answer": answer, "choices": choices}


def _strings(*names: str) -> dict[str, Any]:
    from datasets import Value

    return {name: Value("string") for name in names}


def _dataset(rows: list[Row], features: Mapping[str, Any]) -> Dataset:
    """The rows with the official features, and with ``choices`` where the rows have it."""
    from datasets import Dataset, Features, Value

    extra = {"choices": Value("int64")} if "choices" in rows[0] else {}
    return Dataset.from_list(rows, features=Features({**features, **extra}))
