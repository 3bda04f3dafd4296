"""Endless training examples of the shapes world. Example ``index`` of a seed is always the same.

Evaluation scenes come from other seeds; a scene of the evaluation is never drawn here but by chance. Objects of
``HELD_OUT`` are never drawn here at all, but the evaluation asks for them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import TypeVar

from PIL import Image

from benchmarks.shapes import dpg, wise
from benchmarks.shapes.geneval import RELATIONS, TAGS, Metadata, random_metadata, scene_for
from benchmarks.shapes.questions import (
    CORNERS,
    INKS,
    NAMES,
    WORDS,
    Item,
    Maker,
    colored_word,
    count_shape,
    name,
    on_map,
    price,
    relation,
    sign,
    title,
    unlike,
    where,
    word,
)
from benchmarks.shapes.scene import (
    CANVAS,
    CELL,
    CELL_NAMES,
    COLORS,
    SHAPES,
    Color,
    Object,
    Scene,
    Shape,
    random_scene,
    render,
)
from benchmarks.shapes.understanding import LETTERS, MMBENCH, MME, MMMU, MMVET, SEEDBENCH, offered, spoken
from benchmarks.shapes.vqa import KINDS, ask

#: One color of each shape: whoever draws or names these has put together what was learned apart.
HELD_OUT: frozenset[tuple[Shape, Color]] = frozenset(
    {
        ("circle", "pink"),
        ("square", "brown"),
        ("triangle", "orange"),
        ("star", "green"),
        ("cross", "purple"),
        ("ring", "white"),
    }
)

#: What lmms-eval's task files put behind a question (pre_prompt and post_prompt under tasks/*/*.yaml).
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
#: RealWorldQA's rows bring theirs themselves (understanding.py).
ONLY_LETTER = "\nPlease answer directly with only the letter of the correct option and nothing else."
DIRECTLY = " Please answer directly with a single word or number."
#: MM-Vet's comes before the question.
REASONING = (
    "First please perform reasoning, and think step by step to provide best answer to the following question: \n\n"
)
DESCRIBE = "Describe the image."

#: What a small model learns to say last: what is written, how many, and where.
HARD: Sequence[Maker] = (word, word, title, title, colored_word, sign, name, count_shape, where, relation, on_map)
#: Pixels of the image that one of the toy model's image tokens stands for, in each direction.
TOKEN = 16

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """An image with a caption to draw it from, or with a conversation about it: (question, answer) in turn.

    ``labels`` tell what each image token of a conversation shows.
    """

    image: Image.Image
    caption: str
    turns: tuple[tuple[str, str], ...]
    labels: tuple[str, ...] = ()
    key: str = ""  # endless and drawn in no time: nothing computed from it is worth keeping


# Drawing ----------------------------------------------------------------------------------------------------------


def generation(seed: int, index: int) -> Example:
    """A GenEval prompt of a random tag and a scene that satisfies it."""

    def drawn(rng: random.Random) -> tuple[Metadata, Scene]:
        metadata = random_metadata(rng.choice(TAGS), rng)
        return metadata, scene_for(metadata, rng)

    metadata, scene = _known(random.Random(f"generation/{seed}/{index}"), drawn, lambda pair: pair[1])
    return Example(render(scene), metadata["prompt"], ())


def bindings(seed: int, index: int) -> Example:
    """The part of ``generation`` with two shapes in a prompt: to keep apart what belongs to each is learned last."""

    def drawn(rng: random.Random) -> tuple[Metadata, Scene]:
        metadata = random_metadata(rng.choice(("two_object", "position", "color_attr")), rng)
        return metadata, scene_for(metadata, rng)

    metadata, scene = _known(random.Random(f"bindings/{seed}/{index}"), drawn, lambda pair: pair[1])
    return Example(render(scene), metadata["prompt"], ())


def dense_generation(seed: int, index: int) -> Example:
    """A random scene and a caption that tells every object's shape, color and cell."""
    scene = _known(random.Random(f"dense/{seed}/{index}"), random_scene, lambda scene: scene)
    return Example(render(scene), description(scene), ())


def long_captions(seed: int, index: int) -> Example:
    """A dense caption as in DPG-Bench, and its scene."""
    rng = random.Random(f"long captions/{seed}/{index}")
    caption, scene, _ = _known(rng, dpg.random_item, lambda item: item[1])
    return Example(render(scene), caption, ())


def knowledge(seed: int, index: int) -> Example:
    """A prompt that takes a fact to understand, as in WISE, and a scene that satisfies it."""
    rng = random.Random(f"knowledge/{seed}/{index}")
    caption, scene = _known(rng, wise.random_item, lambda item: item[1])
    return Example(render(scene), caption, ())


def description(scene: Scene) -> str:
    """Every object with its color and cell, in reading order."""
    objects = sorted(scene.objects, key=lambda item: item.cell)
    return ", ".join(f"{CELL_NAMES[item.cell]} {item.color} {item.shape}" for item in objects)


# Questions --------------------------------------------------------------------------------------------------------


def understanding(seed: int, index: int) -> Example:
    """A random scene with one short question of each kind in any order, then its full description.

    The description comes last: in front of a question it would give the answer away. A fact, which has nothing to do
    with the image, is asked for in between.
    """
    rng = random.Random(f"understanding/{seed}/{index}")
    scene = _known(rng, random_scene, lambda scene: scene)
    asked = [ask(scene, kind, rng) for kind in rng.sample(range(len(KINDS)), len(KINDS))]
    turns = dict.fromkeys((question.text + SHORT_ANSWER, question.answer) for question in asked)
    return _asked(scene, *turns, wise.fact_turns(rng), (DESCRIBE, description(scene)))


#: Every kind of question that a column asks.
MAKERS: Sequence[Maker] = tuple(
    dict.fromkeys(
        [maker for _, maker in MMBENCH.values()]
        + list(SEEDBENCH.values())
        + [maker for _, maker in MMVET]
        + list(MME.values())
        + [maker for makers in MMMU.values() for maker in makers]
    )
)

#: Those that may be claimed or chosen.
CLAIMED: Sequence[Maker] = tuple(maker for maker in MAKERS if maker(random.Random(0)).wrong)


def columns(seed: int, index: int) -> Example:
    """A question of the other columns in several of their forms."""
    rng = random.Random(f"columns/{seed}/{index}")
    maker = rng.choice(MAKERS)
    item = _known(rng, maker, lambda item: item.scene)
    forms = rng.sample(FORMS, 3) if item.wrong else [open_question]
    return _asked(item.scene, *(form(item, rng) for form in forms))


def looking(seed: int, index: int) -> Example:
    """A scene without a word about it but the labels: to see comes before to answer, and takes a tenth of the time."""

    def drawn(rng: random.Random) -> Scene:
        return random_scene(rng) if rng.random() < 0.5 else rng.choice(MAKERS)(rng).scene

    return _asked(_known(random.Random(f"looking/{seed}/{index}"), drawn, lambda scene: scene))


def places(seed: int, index: int) -> Example:
    """Where each of four things is, in any order, asked by its shape, its color or both."""
    rng = random.Random(f"places/{seed}/{index}")
    scene = _known(rng, partial(unlike, 4), lambda scene: scene)
    turns = []
    for thing in rng.sample(scene.objects, len(scene.objects)):
        called = rng.choice((thing.shape, f"{thing.color} {thing.shape}", f"{thing.color} object"))
        item = Item(scene, f"Where in the image is the {called}?", CELL_NAMES[thing.cell])
        turns.append(short_answer(item, rng))
    return _asked(scene, *turns)


def quick(seed: int, index: int) -> Example:
    """Twelve claims of two or three words about one scene, each right or wrong on its own.

    To compare what is said with what is seen is the last thing that a small model learns, and the one word that tells
    whether it did is lost among those of longer talks.
    """
    rng = random.Random(f"quick/{seed}/{index}")
    scene = _known(rng, partial(unlike, rng.randint(2, 4)), lambda scene: scene)
    return _asked(scene, *(_quick_claim(scene, rng) for _ in range(12)))


def sought(seed: int, index: int) -> Example:
    """Twelve questions such as "red shape?", answered by what the red thing is, or by "none" where nothing is red.

    To tell that something is not there comes from finding what is there; from claims alone it did not come.
    """
    rng = random.Random(f"sought/{seed}/{index}")
    scene, kinds = _kinds(rng)
    turns = []
    for _ in range(12):
        given, wanted = rng.sample(range(3), 2)
        absent = kinds[given][1]
        thing = _told(rng.choice(scene.objects))
        value, answer = thing[given], thing[wanted]
        if absent and rng.random() < 0.5:
            value, answer = rng.choice(absent), "none"
        turns.append((f"{value} {('place', 'color', 'shape')[wanted]}?", answer))
    return _asked(scene, *turns)


def brief(seed: int, index: int) -> Example:
    """Twelve claims of one word about one scene: is that cell taken, does that color or shape occur?

    The step before ``quick``, where something is to be compared with what was found.
    """
    rng = random.Random(f"brief/{seed}/{index}")
    scene, kinds = _kinds(rng)
    turns = []
    for _ in range(12):
        present, absent = rng.choice([kind for kind in kinds if kind[1]])  # all cells may be taken
        said = rng.choice(("yes", "no"))
        turns.append((f"{rng.choice(present if said == 'yes' else absent)}?", said))
    return _asked(scene, *turns)


def _kinds(rng: random.Random) -> tuple[Scene, list[tuple[list[str], list[str]]]]:
    """A scene, and of cells, colors and shapes those that it has and those that it has not."""
    scene = _known(rng, partial(unlike, rng.randint(1, 4)), lambda scene: scene)
    shown = zip(*map(_told, scene.objects), strict=True)
    return scene, [(sorted(of), sorted(set(every).difference(of))) for of, every in zip(shown, _ALL, strict=True)]


def _told(item: Object) -> tuple[str, str, str]:
    return CELL_NAMES[item.cell], item.color, item.shape


def _quick_claim(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Two of an object's cell, color and shape; if wrong, the second is another object's or of no object."""
    things = [_told(item) for item in scene.objects]
    first, second = rng.choice(((0, 1), (0, 2), (1, 2), (1, 2), (1, 0), (2, 0)))
    thing, said = rng.choice(things), rng.choice(("yes", "no"))
    told = thing[second]
    if said == "no":
        shown = [other[second] for other in things]
        absent = [value for value in _ALL[second] if value not in shown]
        told = rng.choice([value for value in shown if value != told] + rng.sample(absent, min(1, len(absent))))
    return f"{thing[first]} {told}?", said


_ALL: Sequence[Sequence[str]] = (tuple(CELL_NAMES.values()), COLORS, SHAPES)


@dataclass(frozen=True)
class Note:
    """What is asked for, what it is ("none" if it is not there), and what it might be."""

    asked: str
    answer: str
    options: tuple[str, ...]


def noted(seed: int, index: int) -> Example:
    """``sought`` and ``quick`` for the rest that columns ask: what is written, how many there are, how two things lie.

    Up to twelve of "red word?", answered by the word or by "none", and of "red word OPEN?", answered by yes or no.
    """
    rng = random.Random(f"noted/{seed}/{index}")
    maker, notes_of = rng.choice(NOTED)
    scene = _known(rng, maker, lambda item: item.scene).scene
    notes = notes_of(scene)
    shown = [note for note in notes if note.answer != "none"]
    missing = [note for note in notes if note.answer == "none"]
    turns = []
    for _ in range(12):
        note = rng.choice(missing if missing and (not shown or rng.random() < 0.25) else shown)
        if note in missing or rng.random() < 0.5:
            turns.append((f"{note.asked}?", note.answer))
            continue
        told, said = note.answer, rng.choice(("yes", "no"))
        if said == "no":
            wrong = [option for option in note.options if option != told]
            near = [other.answer for other in shown if other.options == note.options and other.answer != told]
            told = rng.choice(rng.choice((near or wrong, wrong)))
        turns.append((f"{note.asked} {told}?", said))
    return _asked(scene, *dict.fromkeys(turns))


def _words(scene: Scene) -> list[Note]:
    inks = {line.color: line.text for line in scene.texts}
    cells = {(line.y // CELL, line.x // CELL): line.text for line in scene.texts}
    notes = [Note(f"{ink} word", inks.get(ink, "none"), WORDS) for ink in INKS]
    return notes + [Note(f"{called} word", cells.get(cell, "none"), WORDS) for cell, called in CELL_NAMES.items()]


def _titles(scene: Scene) -> list[Note]:
    return [Note(called, line.text, WORDS) for called, line in zip(("title", "foot"), scene.texts, strict=True)]


def _names(scene: Scene) -> list[Note]:
    tagged = zip(scene.objects, scene.texts, strict=True)
    return [Note(f"{item.color} {item.shape} name", line.text, NAMES) for item, line in tagged]


def _prices(scene: Scene) -> list[Note]:
    listed = [line.text.split() for line in scene.texts]
    return [Note(f"{good.lower()} price", cost, tuple("123456789")) for good, cost in listed]


def _numbers(scene: Scene) -> list[Note]:
    shapes = [item.shape for item in scene.objects]
    return [Note(f"{shape} number", str(shapes.count(shape) or "none"), tuple("1234")) for shape in SHAPES]


def _sides(scene: Scene) -> list[Note]:
    """How each two neighbors lie to each other, and the corners of each shape."""
    counted = tuple(map(str, CORNERS.values()))
    notes = [Note(f"{item.color} corners", str(CORNERS.get(item.shape, "none")), counted) for item in scene.objects]
    for one, other in permutations(scene.objects, 2):
        step = (one.cell[0] - other.cell[0], one.cell[1] - other.cell[1])
        asked = f"{one.color} {one.shape} from {other.color} {other.shape}"
        notes += [Note(asked, side, tuple(RELATIONS)) for side in RELATIONS if RELATIONS[side] == step]
    return notes


NOTED: Sequence[tuple[Maker, Callable[[Scene], list[Note]]]] = (
    (word, _words),
    (colored_word, _words),
    (title, _titles),
    (name, _names),
    (price, _prices),
    (count_shape, _numbers),
    (on_map, _sides),
)


def alone(seed: int, index: int) -> Example:
    """One question in one form, more often a claim or letters than a word: no earlier answer gives it away."""
    rng = random.Random(f"alone/{seed}/{index}")
    item = _known(rng, rng.choice(MAKERS), lambda item: item.scene)
    forms = (claim, claim, claim, multiple_choice, multiple_choice, short_answer, short_answer, open_question)
    form = rng.choice(forms) if item.wrong else open_question
    return _asked(item.scene, form(item, rng))


def claims(seed: int, index: int) -> Example:
    """Several claims about one answer, and letters to choose."""
    return _claims(random.Random(f"claims/{seed}/{index}"))


def drill(seed: int, index: int) -> Example:
    """One short question of a kind that is learned late, or claims about its answer."""
    rng = random.Random(f"drill/{seed}/{index}")
    maker = rng.choice(HARD)
    if rng.random() < 0.7:
        return _claims(rng, (maker,))
    item = _known(rng, maker, lambda item: item.scene)
    return _asked(item.scene, short_answer(item, rng))


def choices(seed: int, index: int) -> Example:
    """The letter of the same answer among other options, five times; every other time the answer is said first.

    To find the letter of what is known is learned apart from what there is to know.
    """
    rng = random.Random(f"choices/{seed}/{index}")
    item = _known(rng, rng.choice(CLAIMED), lambda item: item.scene)
    said = [short_answer(item, rng)] * rng.randint(0, 1)
    return _asked(item.scene, *said, *(multiple_choice(item, rng) for _ in range(5)))


def _claims(rng: random.Random, makers: Sequence[Maker] = CLAIMED) -> Example:
    item = _known(rng, rng.choice(makers), lambda item: item.scene)
    forms = rng.sample((claim, claim, claim, multiple_choice, multiple_choice), 5)
    return _asked(item.scene, *dict.fromkeys(form(item, rng) for form in forms))


def short_answer(item: Item, rng: random.Random) -> tuple[str, str]:
    """As TextVQA, MMMU and RealWorldQA ask for a word."""
    question, ending = rng.choice(
        (
            (item.question.lower(), SHORT_ANSWER),
            (f"<image 1> {item.question}\n", SHORT_ANSWER),
            (item.question, DIRECTLY),
        )
    )
    return question + ending, item.answer.lower() if question.islower() else item.answer


def claim(item: Item, rng: random.Random) -> tuple[str, str]:
    """As MME asks, and RealWorldQA now and then."""
    answer, claimed = rng.choice((("Yes", item.answer), ("No", rng.choice(item.wrong))))
    return item.claim.format(claimed) + rng.choice((SHORT_ANSWER, SHORT_ANSWER, DIRECTLY)), answer


def multiple_choice(item: Item, rng: random.Random) -> tuple[str, str]:
    """As MMBench, SEED-Bench, MMMU and RealWorldQA ask for a letter."""
    given = offered(item, rng.randint(2, 4), rng)
    listed = "\n".join(f"{mark}. {option}" for mark, option in zip(LETTERS, given, strict=False))
    hint = rng.choice(("", "", "The image shows shapes and words on grey paper. "))
    question = rng.choice(
        (
            f"{hint}{item.question} There are several options:\n{listed}\n{LETTER}",
            f"{item.question}\n{listed}{LETTER}",
            f"<image 1> {item.question}\n{listed}\n{LETTER}",
            f"{item.question}\n\n{listed}{ONLY_LETTER}",
        )
    )
    return question, LETTERS[given.index(item.answer)]


def open_question(item: Item, rng: random.Random) -> tuple[str, str]:
    """As MM-Vet asks."""
    return REASONING + item.question, spoken(item.answer)


def _asked(scene: Scene, *turns: tuple[str, str]) -> Example:
    """With labels: the cell of each image token and what covers most of it, or nothing."""
    starts = range(0, CANVAS, TOKEN)
    return Example(render(scene), "", turns, tuple(_label(scene, x, y) for y in starts for x in starts))


def _label(scene: Scene, x: int, y: int) -> str:
    def covered(box: tuple[int, int, int, int]) -> int:
        left, top, right, bottom = box
        across, down = min(right, x + TOKEN) - max(left, x), min(bottom, y + TOKEN) - max(top, y)
        return max(across, 0) * max(down, 0)

    things = [(covered(item.box), f"{item.color} {item.shape}") for item in scene.objects]
    things += [(covered(line.box), f"{line.color} {line.text}") for line in scene.texts]
    area, shown = max(things, key=lambda thing: thing[0], default=(0, ""))
    return f"{CELL_NAMES[y // CELL, x // CELL]} {shown if area else 'nothing'}"


FORMS = (short_answer, claim, multiple_choice, open_question)


def _known(rng: random.Random, draw: Callable[[random.Random], T], scene_of: Callable[[T], Scene]) -> T:
    """The first draw without an object of ``HELD_OUT``."""
    while True:
        drawn = draw(rng)
        if HELD_OUT.isdisjoint((item.shape, item.color) for item in scene_of(drawn).objects):
            return drawn
