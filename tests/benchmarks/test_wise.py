"""WISE: its editions, the judge's wording, what is missing, official files, and published arithmetic."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import runner, wise
from benchmarks.folder import FolderImages
from benchmarks.intervals import Interval, clustered_mean, macro_mean
from benchmarks.judges.chat import ChatReply, Question, Replay
from benchmarks.shapes import wise as shapes
from benchmarks.shapes.reference import Blank
from benchmarks.shapes.scene import render
from benchmarks.types import BenchError, Json, JudgeError, Metric, Prediction, Sample, Score
from benchmarks.wise import LEGACY, VERIFIED, Edition, Wise
from benchmarks.wise_wording import Profile, Wording, find_wording
from benchmarks.work import Part, Settings

#: The models of leadboard.md (PKU-YuanGroup/WISE at eb51174): overall, then the categories in the table's order.
VERIFIED_LEADERBOARD = {
    "NanoBanana-Pro": (0.8760, 0.8975, 0.8167, 0.9333, 0.8167, 0.8667, 0.8750),
    "GPT-Image-1.5": (0.8250, 0.8900, 0.6917, 0.8833, 0.8000, 0.7583, 0.7750),
    "BAGEL (w/ CoT)": (0.6280, 0.7800, 0.6333, 0.5667, 0.3750, 0.5500, 0.5083),
    "DeepGen 1.0": (0.5700, 0.6500, 0.4100, 0.7200, 0.3900, 0.5900, 0.4500),
    "FLUX.2-dev": (0.5650, 0.6650, 0.5667, 0.6583, 0.3667, 0.5250, 0.3750),
    "QwenImage": (0.5100, 0.6275, 0.5250, 0.5583, 0.3417, 0.4833, 0.2500),
    "Qwen-Image-2512": (0.4990, 0.5950, 0.4750, 0.6000, 0.3500, 0.4917, 0.2583),
    "Z-Image": (0.4530, 0.5475, 0.4667, 0.5083, 0.3250, 0.4750, 0.1750),
    "FLUX.2-klein-9B": (0.4400, 0.4900, 0.3917, 0.5500, 0.3833, 0.4833, 0.2250),
    "HunyuanImage-3.0": (0.4350, 0.5250, 0.3917, 0.4833, 0.3083, 0.4500, 0.2417),
    "Uniworld_V1": (0.4260, 0.5150, 0.4917, 0.5500, 0.2250, 0.4000, 0.1667),
    "FLUX.1-dev": (0.4160, 0.5225, 0.4000, 0.5333, 0.1750, 0.3750, 0.2417),
    "SD-3.5-large": (0.4040, 0.4900, 0.4083, 0.4417, 0.3000, 0.3750, 0.2083),
    "FLUX.2-klein-4B": (0.4010, 0.4400, 0.3667, 0.4667, 0.3167, 0.3917, 0.3333),
    "SD-3-medium": (0.3850, 0.4700, 0.4083, 0.4000, 0.2000, 0.3750, 0.2583),
    "SD-3.5-medium": (0.3760, 0.4825, 0.3750, 0.3750, 0.1833, 0.3917, 0.2000),
    "FLUX.1-schnell": (0.3640, 0.4650, 0.3250, 0.4667, 0.2083, 0.3833, 0.1000),
    "SD-XL-0.9": (0.3640, 0.4925, 0.3667, 0.2417, 0.2667, 0.3333, 0.1833),
    "Bagel": (0.3520, 0.4125, 0.3500, 0.3083, 0.2000, 0.4417, 0.2583),
    "Janus-Pro-7B": (0.3340, 0.3700, 0.3500, 0.2833, 0.2833, 0.4000, 0.2333),
    "SD-1.5": (0.3090, 0.4450, 0.3083, 0.2083, 0.2083, 0.2167, 0.1500),
    "Janus-1.3B": (0.2730, 0.3175, 0.2833, 0.1833, 0.2250, 0.3417, 0.1833),
    "Janus-Pro-1B": (0.2650, 0.3050, 0.2333, 0.2333, 0.2167, 0.3083, 0.2000),
}
#: Published legacy scores in the same order, of two decimals.
LEGACY_PUBLISHED = {
    "FLUX.1-dev": (0.50, 0.48, 0.58, 0.62, 0.42, 0.51, 0.35),
    "SD1.5": (0.32, 0.34, 0.35, 0.32, 0.28, 0.29, 0.21),
    "SDXL-0.9": (0.43, 0.43, 0.48, 0.47, 0.44, 0.45, 0.27),
    "Janus-Pro-7B": (0.35, 0.30, 0.37, 0.49, 0.36, 0.42, 0.26),
    "MetaQuery-XL": (0.55, 0.56, 0.55, 0.62, 0.49, 0.63, 0.41),
    "GPT-4o": (0.80, 0.81, 0.71, 0.89, 0.83, 0.79, 0.74),
}
LABELLED = "Consistency: {}\nRealism: {}\nAesthetic Quality: {}"
WORDING = Wording("Is it right? {Prompt} / {Explanation}", "You judge images.", "a test")
NAMES = {category: name for name, category in wise.NAMES.items() if name != "Ecology"}


def item(prompt_id: int, edition: Edition) -> dict[str, Json]:
    category = edition.category(prompt_id)
    assert category is not None
    return {
        "Prompt": f"prompt {prompt_id}",
        "Explanation": f"explanation {prompt_id}",
        "Category": NAMES[category],
        "Subcategory": "Festival",
        "prompt_id": prompt_id,
    }


def write_items(folder: Path, edition: Edition, ids: Sequence[int] = range(1, 1001)) -> Path:
    """The edition's three files in a folder, as in a checkout."""
    for part, categories in wise.PARTS.items():
        rows = [item(number, edition) for number in ids if edition.category(number) in categories]
        path = folder / "data" / f"{part}{edition.suffix}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return folder


@dataclass
class Scripted:
    """A judge that replies what ``replies`` hold for a sample, one after the other, and the last one for ever."""

    replies: Mapping[str, Sequence[str | Exception]] = field(default_factory=dict)
    usual: str = "Score: 1"
    concurrency: int = 4
    asked: list[Question] = field(default_factory=list)

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "scripted"}

    def ask(self, question: Question) -> ChatReply:
        self.asked.append(question)
        sample, attempt = question.key.rsplit("/", 1)
        replies = self.replies.get(sample, [self.usual])
        reply = replies[min(int(attempt), len(replies) - 1)]
        if isinstance(reply, Exception):
            raise reply
        return ChatReply(reply, 0, 0, None)


class Gray:
    """Draws a gray square for every prompt."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "gray"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8), "gray") for _ in samples]


def benchmark(profile: Profile, judge: Any, ids: Sequence[int] = (1, 2, 401, 521, 641, 761, 881)) -> Wise:
    edition = wise.EDITIONS[profile]
    return Wise([item(number, edition) for number in ids], profile, judge, WORDING, {"items": "of a test"})


def run(root: Path, one: Wise, model: Any = None) -> list[Metric]:
    records = runner.run(root, [one], model or Gray(), Settings(suite="toy"), Part())
    assert records is not None
    return list(records[0].metrics)


def scores(root: Path) -> dict[str, tuple[float | None, str]]:
    rows = [json.loads(line) for line in (root / "wise" / "scores.jsonl").read_text().splitlines()]
    return {row["id"]: (row["value"], row["reason"]) for row in rows}


# Published numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", VERIFIED_LEADERBOARD)
def test_the_verified_leaderboard_is_the_weighted_formula(model: str) -> None:
    printed, *categories = VERIFIED_LEADERBOARD[model]
    computed = wise.overall(VERIFIED, dict(zip(VERIFIED.ids, categories, strict=True)))
    # The one row whose parts have two decimals, and whose overall score is not that of its parts.
    assert computed == pytest.approx(0.5672 if model == "DeepGen 1.0" else printed, abs=5e-5)
    assert len(VERIFIED_LEADERBOARD) == 23


@pytest.mark.parametrize("model", LEGACY_PUBLISHED)
def test_legacy_scores_are_the_weighted_formula(model: str) -> None:
    printed, *categories = LEGACY_PUBLISHED[model]
    assert wise.overall(LEGACY, dict(zip(LEGACY.ids, categories, strict=True))) == pytest.approx(printed, abs=0.0055)


def test_bagel_published_an_unweighted_mean() -> None:
    categories = (0.44, 0.55, 0.68, 0.44, 0.60, 0.39)
    assert sum(categories) / 6 == pytest.approx(0.52, abs=0.0055)
    assert wise.overall(LEGACY, dict(zip(LEGACY.ids, categories, strict=True))) == pytest.approx(0.50, abs=0.0055)


def test_weights_are_the_shares_of_the_prompts() -> None:
    assert [LEGACY.weight(category) for category in LEGACY.ids] == [0.4, 0.167, 0.133, 0.1, 0.1, 0.1]
    assert [VERIFIED.weight(category) for category in VERIFIED.ids] == [0.4, 0.12, 0.12, 0.12, 0.12, 0.12]


# Items ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edition", [LEGACY, VERIFIED], ids=["legacy", "verified"])
def test_the_real_items_are_read_and_those_of_the_other_edition_refused(bench_data: Path, edition: Edition) -> None:
    items, digests = wise.read_items(bench_data / "wise", edition)
    assert [row["prompt_id"] for row in items] == list(range(1, 1001))
    assert len(digests) == 3
    other = VERIFIED if edition is LEGACY else LEGACY
    with pytest.raises(BenchError, match=rf"cultural_common_sense{other.suffix}\.json is not in"):
        wise.read_items(bench_data / "wise" / edition.name, other)


def test_the_real_merged_file_is_of_the_verified_edition(bench_data: Path) -> None:
    merged = bench_data / "wise" / "verified" / "merge.json"
    assert wise.read_items(merged, VERIFIED)[0] == wise.read_items(bench_data / "wise", VERIFIED)[0]
    with pytest.raises(BenchError, match="not of WISE's legacy edition: choose the profile of the other one"):
        wise.read_items(merged, LEGACY)


def test_a_real_file_under_the_name_of_the_other_edition_is_refused(bench_data: Path, tmp_path: Path) -> None:
    """The culture prompts, whose ids and category are those of both editions."""
    write_items(tmp_path, VERIFIED)
    culture = bench_data / "wise" / "legacy" / "cultural_common_sense.json"
    (tmp_path / "data" / "cultural_common_sense_verified.json").write_bytes(culture.read_bytes())
    with pytest.raises(BenchError, match="not of WISE's verified edition"):
        wise.read_items(tmp_path, VERIFIED)


@pytest.mark.parametrize(("edition", "other"), [(LEGACY, VERIFIED), (VERIFIED, LEGACY)], ids=["legacy", "verified"])
def test_items_with_the_ranges_of_the_other_edition_are_refused(
    tmp_path: Path, edition: Edition, other: Edition
) -> None:
    merged = tmp_path / "all.json"
    merged.write_text(json.dumps([item(number, edition) for number in range(1, 1001)]))
    assert len(wise.read_items(merged, edition)[0]) == 1000
    with pytest.raises(BenchError, match=f"not of WISE's {other.name} edition"):
        wise.read_items(merged, other)


def test_items_that_are_missing_or_broken_are_users_errors(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cultural_common_sense_verified\.json is not in .*none: give a checkout"):
        wise.read_items(tmp_path / "none", VERIFIED)
    write_items(tmp_path / "some", VERIFIED, range(1, 1000))
    with pytest.raises(BenchError, match="does not hold each prompt_id from 1 to 1000 once"):
        wise.read_items(tmp_path / "some", VERIFIED)
    folder = write_items(tmp_path / "twice", VERIFIED)
    (folder / "natural_science_verified.json").write_text("[]")
    with pytest.raises(BenchError, match=r"natural_science_verified\.json is 2 times in"):
        wise.read_items(folder, VERIFIED)
    for text in ("{", '{"Prompt": "a"}', '[{"Prompt": "a"}]', "[1]"):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(BenchError, match=r"broken\.json is no file of WISE's items"):
            wise.read_items(tmp_path / "broken.json", VERIFIED)


# The judge's wording ----------------------------------------------------------------------------------------------


def test_the_legacy_wording_is_that_of_the_installed_lmms_eval() -> None:
    utils = pytest.importorskip("lmms_eval.tasks.WISE.utils")
    row = {**item(7, LEGACY), "Prompt": 'a "quoted" {Explanation}', "Explanation": "{Prompt} \\1"}
    system, user = utils._build_evaluation_messages(row, "")
    found = find_wording("wise-legacy")
    assert found.told(row) == user["content"][0]["text"]
    assert found.system == system["content"][0]["text"]
    assert found.source == "lmms-eval 0.7.3"


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_the_wording_of_a_script_is_read_and_the_script_is_not_run(tmp_path: Path, quotes: str) -> None:
    script = tmp_path / "vllm_eval.py"
    script.write_text(
        "import a_package_that_is_nowhere\n"
        "SYSTEM = {'role': 'system', 'content': 'You judge.'}\n"
        "def messages(prompt_data, image):\n"
        f"    text = f{quotes}Braces {{{{}}}}.\n  PROMPT: {{prompt_data['Prompt']}}\n"
        f"EXPLANATION: {{prompt_data['Explanation']}}{quotes}\n"
        "    print(f'judging {prompt_data[\"prompt_id\"]}')\n"
        "    return [SYSTEM, {'role': 'user', 'content': text}]\n"
    )
    found = find_wording("wise-verified", script)
    assert found.told(item(7, VERIFIED)) == "Braces {}.\n  PROMPT: prompt 7\nEXPLANATION: explanation 7"
    assert (found.system, found.source) == ("You judge.", "vllm_eval.py")


def test_a_text_with_both_places_is_a_wording(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("{Prompt}, that is {Explanation}. {Other}")
    found = find_wording("wise-legacy", file)
    assert found.told(item(7, LEGACY)) == "prompt 7, that is explanation 7. {Other}"
    assert found.system is None
    described = found.describe()
    file.write_text("{Prompt} - that is {Explanation}. {Other}")
    assert find_wording("wise-legacy", file).describe() != described


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("prompt.txt", "only {Prompt}", r"prompt.txt has no \{Explanation\}"),
        ("eval.py", "x = 1", "has 0 f-strings with prompt and explanation.*copy what the judge is told"),
        ("eval.py", "f'{prompt} {explanation}'\nf'{prompt}: {explanation}'", "has 2 f-strings"),
        ("eval.py", "f'{prompt} {explanation}'\nm = {'role': 'system', 'content': TEXT}", "no system message"),
        ("eval.py", "f'{prompt} {explanation}'\nm = {'role': 'system'}", "no system message"),
        ("eval.py", "def", "no Python script"),
        ("eval.py", "\0", "no Python script"),
    ],
)
def test_a_file_without_a_wording_is_a_users_error(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchError, match=reason):
        find_wording("wise-verified", tmp_path / name)


def test_each_profile_has_its_wording_or_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"vllm_eval.py of a checkout .* as --judge-prompt, or .* wise-own"):
        find_wording("wise-verified")
    with pytest.raises(BenchError, match="cannot read the judge's prompt"):
        find_wording("wise-verified", tmp_path / "none.py")
    with pytest.raises(BenchError, match="wise-own has its own wording"):
        find_wording("wise-own", tmp_path / "none.py")
    told = find_wording("wise-own").told(item(7, VERIFIED))
    assert "prompt 7" in told
    assert "explanation 7" in told


# The judge --------------------------------------------------------------------------------------------------------


def test_the_judge_is_asked_as_the_official_scripts_ask(tmp_path: Path) -> None:
    cases: list[tuple[Profile, int, bool | None, str]] = [
        ("wise-verified", 500, False, "Score: 1"),
        ("wise-own", 500, None, "Score: 1"),
        ("wise-legacy", 2000, None, LABELLED.format(2, 1, 0)),
    ]
    for profile, max_tokens, thinking, reply in cases:
        judge = Scripted(usual=reply)
        run(tmp_path / profile, benchmark(profile, judge, [521]))
        image = (tmp_path / profile / "wise" / "images" / "wise" / "0521.png").read_bytes()
        prompt = "Is it right? prompt 521 / explanation 521"
        question = Question(prompt, 0.0, max_tokens, "wise/0521/0", (image,), "You judge images.", thinking)
        assert judge.asked == [question]


def test_a_reply_without_a_score_is_asked_for_three_times_then_it_is_missing(tmp_path: Path) -> None:
    judge = Scripted(
        {
            "wise/0001": ["no", "**Score:** 1", "Score: 1"],
            "wise/0002": ["I would say so", "Score: 1.", "Score: 1"],
            "wise/0401": ["no", "no", "no", "Score: 1"],
            "wise/0521": [JudgeError("timed out")],
            "wise/0641": ["<think>Score: 0</think>\nScore: 1"],
            "wise/0761": ["Score: 0"],
        }
    )
    overall, *categories = run(tmp_path, benchmark("wise-verified", judge))
    keys = sorted(asked.key for asked in judge.asked)
    assert keys == [
        "wise/0001/0",
        "wise/0001/1",
        "wise/0001/2",
        "wise/0002/0",
        "wise/0002/1",
        "wise/0401/0",
        "wise/0401/1",
        "wise/0401/2",
        "wise/0521/0",
        "wise/0641/0",
        "wise/0761/0",
        "wise/0881/0",
    ]
    assert {key: value for key, (value, _) in scores(tmp_path).items()} == {
        "wise/0001": 1.0,
        "wise/0002": 1.0,
        "wise/0401": None,
        "wise/0521": None,
        "wise/0641": 1.0,
        "wise/0761": 0.0,
        "wise/0881": 1.0,
    }
    reasons = {key: reason for key, (_, reason) in scores(tmp_path).items()}
    assert reasons["wise/0401"] == ("JudgeError: no score can be read in 3 replies of the judge, the last of them 'no'")
    assert reasons["wise/0521"] == "JudgeError: timed out"
    assert (overall.value, overall.n, overall.missing) == (None, 5, 2)  # two categories have no score
    assert [(metric.n, metric.missing) for metric in categories] == [(2, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 0)]


def test_what_was_missing_is_asked_again_by_the_next_start(tmp_path: Path) -> None:
    run(tmp_path, benchmark("wise-verified", Scripted({"wise/0401": ["no"]})))
    again = Scripted()
    overall = run(tmp_path, benchmark("wise-verified", again))[0]
    assert [asked.key for asked in again.asked] == ["wise/0401/0"]
    assert (overall.value, overall.missing) == (1.0, 0)


def test_stored_replies_can_be_replayed(tmp_path: Path) -> None:
    rows = [{"key": f"wise/{number:04}/0", "text": "Score: 1"} for number in (1, 2, 401, 521, 641, 761)]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = run(tmp_path / "run", benchmark("wise-verified", Replay(tmp_path / "replies.jsonl")))
    assert (metrics[-1].name, metrics[-1].n, metrics[-1].missing) == ("wiscore.chemistry", 0, 1)
    assert "has no reply for wise/0881/0" in scores(tmp_path / "run")["wise/0881"][1]


def test_without_a_judge_everything_is_missing_and_says_so(tmp_path: Path) -> None:
    overall = run(tmp_path, benchmark("wise-verified", None))[0]
    assert (overall.value, overall.n, overall.missing) == (None, 0, 7)
    assert scores(tmp_path)["wise/0001"] == (None, "WISE needs a judge: name one with --judge")


def test_verdicts_of_one_profile_are_refused_under_another(tmp_path: Path) -> None:
    run(tmp_path, benchmark("wise-own", Scripted()))
    with pytest.raises(BenchError, match="wise/0001 was judged under wise-own, which wise-verified does not take"):
        runner.rescore(tmp_path, [benchmark("wise-verified", None)])
    with pytest.raises(BenchError, match="holds another run"):
        run(tmp_path, benchmark("wise-verified", Scripted()))


# Somebody else's images -------------------------------------------------------------------------------------------


def test_a_folder_of_images_with_some_missing_some_broken_and_some_too_many(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in (1, 2, 401, 641, 761, 881, 9999):
        Image.new("RGB", (16, 16), "red").save(images / f"{number}.png")
    whole = (images / "401.png").read_bytes()
    (images / "401.png").write_bytes(whole[: len(whole) // 2])
    (images / "641.png").write_bytes(b"<html>")
    judge = Scripted()
    one = benchmark("wise-verified", judge)
    model = FolderImages(images)
    assert any("9999.png" in line for line in model.check(one.samples()))
    overall = run(tmp_path / "run", one, model)[0]
    assert (overall.n, overall.missing) == (4, 3)
    assert {asked.key for asked in judge.asked} == {f"wise/{number:04}/0" for number in (1, 2, 761, 881)}
    found = scores(tmp_path / "run")
    assert {key for key, (value, _) in found.items() if value is None} == {"wise/0401", "wise/0521", "wise/0641"}
    assert "521" in found["wise/0521"][1]


def test_an_image_that_breaks_after_it_was_drawn_is_missing(tmp_path: Path) -> None:
    run(tmp_path, benchmark("wise-verified", Scripted({"wise/0001": [JudgeError("later")]})))
    (tmp_path / "wise" / "images" / "wise" / "0001.png").write_bytes(b"rot")
    overall = run(tmp_path, benchmark("wise-verified", Scripted()))[0]
    assert overall.missing == 1
    assert "is not a readable image" in scores(tmp_path)["wise/0001"][1]


# Metrics ----------------------------------------------------------------------------------------------------------


def test_the_score_is_the_weighted_mean_with_missing_counted() -> None:
    rng = random.Random(0)
    rows = [
        Score(str(number), str(number), category, None if number % 50 == 0 else float(rng.random() < 0.4))
        for category, ids in VERIFIED.ids.items()
        for number in ids
    ]
    overall, *parts = wise.metrics(VERIFIED, rows)
    assert [part.name for part in parts] == [f"wiscore.{category}" for category in VERIFIED.ids]
    weights = [VERIFIED.weight(category) for category in VERIFIED.ids]
    expected = sum(weight * (part.value or 0) for weight, part in zip(weights, parts, strict=True))
    assert overall.value == pytest.approx(expected, abs=1e-12)
    assert (overall.n, overall.missing, overall.chance) == (980, 20, 0.0)
    assert overall.low is not None
    assert overall.high is not None
    # A stratified proportion of 980 prompts: about 1.96 * sqrt(0.4 * 0.6 / 980) to each side.
    assert overall.high - overall.low == pytest.approx(2 * 1.96 * (0.24 / 980) ** 0.5, rel=0.05)


def test_the_interval_of_equal_weights_is_that_of_the_macro_mean() -> None:
    """On the five categories of 120 prompts; the sixth has a fixed score and no spread."""
    rng = random.Random(1)
    values = {category: [float(rng.random() < 0.3) for _ in ids] for category, ids in VERIFIED.ids.items()}
    parts = {
        category: clustered_mean(some, [str(number) for number in range(len(some))])
        for category, some in values.items()
    }
    parts["culture"] = Interval(0.5, 0.5, 0.5, 400, 400, "none")
    weighted = wise._weighted_mean(VERIFIED, parts)
    macro = macro_mean([part for category, part in parts.items() if category != "culture"])
    assert weighted.value == pytest.approx(0.2 + 0.6 * (macro.value or 0))
    assert weighted.low == pytest.approx(0.2 + 0.6 * (macro.low or 0))
    assert weighted.high == pytest.approx(0.2 + 0.6 * (macro.high or 0))


def test_a_category_without_a_score_leaves_no_overall() -> None:
    rows = [Score("1", "1", "culture", 1.0), Score("2", "2", "time", None)]
    overall, culture, time = wise.metrics(LEGACY, rows)
    assert (overall.value, overall.low, overall.n, overall.missing, overall.chance) == (None, None, 1, 1, None)
    assert (culture.value, culture.low, time.value) == (1.0, None, None)


def test_a_legacy_score_beyond_the_scale_counts_as_it_does_officially_and_has_no_interval(tmp_path: Path) -> None:
    judge = Scripted({"wise/0001": [LABELLED.format(9, 2, 2)]}, usual=LABELLED.format(2, 1, 0))
    overall, culture, *_ = run(tmp_path, benchmark("wise-legacy", judge, [1, 2, 401, 568, 701, 801, 901]))
    assert scores(tmp_path)["wise/0001"][0] == pytest.approx((0.7 * 9 + 0.2 * 2 + 0.1 * 2) / 2)
    value, reason = scores(tmp_path)["wise/0002"]
    assert value == pytest.approx(0.8)
    assert reason == "consistency 2, realism 1, aesthetic_quality 0"
    assert culture.value == pytest.approx((3.45 + 0.8) / 2)
    assert (culture.low, culture.high, overall.low) == (None, None, None)


# Official files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "edition", "reply"),
    [
        ("wise-verified", VERIFIED, "Score: 1"),
        ("wise-legacy", LEGACY, "Realism: 1\nAesthetic Quality: 1\nConsistency: 2"),
    ],
)
def test_a_run_is_written_in_the_official_files_and_read_back(
    tmp_path: Path, profile: Profile, edition: Edition, reply: str
) -> None:
    one = benchmark(profile, Scripted({"wise/0777": ["no"]}, usual=reply), range(1, 1001))
    samples = one.samples()
    folder = tmp_path / "wise"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "drawn.png")
    predictions = {sample.id: Prediction(sample.id, 0, 0.0, image="drawn.png") for sample in samples}
    verdicts = {verdict.id: verdict for verdict in one.judge(samples, list(predictions.values()), folder)}
    one.export(samples, predictions, verdicts, folder, tmp_path / "out")

    assert len(list((tmp_path / "out" / "images").iterdir())) == 1000
    assert (tmp_path / "out" / "images" / "777.png").read_bytes() == (folder / "drawn.png").read_bytes()
    files = [tmp_path / "out" / f"{part}_scores_results.jsonl" for part in wise.PARTS]
    first = json.loads(files[0].read_text().splitlines()[0])
    assert first == {"prompt_id": 1, "Subcategory": "Festival", **edition.read(reply)}
    assert tuple(first) == ("prompt_id", "Subcategory", *edition.labels)
    full = json.loads((tmp_path / "out" / "cultural_common_sense_full_results.json").read_text())
    assert full[0] == {
        "prompt_id": 1,
        "prompt": "prompt 1",
        "key": "explanation 1",
        "image_path": str(tmp_path / "out" / "images" / "1.png"),
        "evaluation": reply,
    }
    # As the official script, which gives nothing where one prompt is not judged.
    assert wise.calculate(edition, files).absent == (777,)
    with files[2].open("a") as file:
        file.write(wise.score_line(item(777, edition), edition.read(reply)))
    calculated = wise.calculate(edition, files)
    assert calculated.overall == pytest.approx(edition.wiscore(edition.read(reply)))
    assert calculated.counts == {category: len(ids) for category, ids in edition.ids.items()}


def test_a_scores_file_that_is_none_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read the scores"):
        wise.calculate(VERIFIED, [tmp_path / "none.jsonl"])
    (tmp_path / "list.jsonl").write_text('{"prompt_id": 1, "score": 1}\n[1]\n')
    with pytest.raises(BenchError, match=r"list\.jsonl, line 2 is no JSON object"):
        wise.calculate(VERIFIED, [tmp_path / "list.jsonl"])


def test_ids_are_checked_by_category_where_one_file_is_given(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_text('{"prompt_id": 1, "score": 1}\n')
    assert wise.calculate(VERIFIED, paths[:1], "culture").absent == tuple(range(2, 401))
    both = wise.calculate(VERIFIED, paths, "culture")
    assert (both.absent, both.overall, both.averages, both.counts) == ((), None, {"culture": 1.0}, {"culture": 2})


# The toy suite ----------------------------------------------------------------------------------------------------


class Oracle:
    """Draws what the explanation says."""

    def describe(self) -> Mapping[str, Json]:
        return {"name": "oracle"}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image]:
        wanted = [shapes.read_explanation(sample.meta["Explanation"]) for sample in samples]
        return [render(shapes.scene_for(one, random.Random(seed))) for one, seed in zip(wanted, seeds, strict=True)]


@pytest.mark.parametrize(
    ("model", "low", "high"), [(Oracle(), 0.97, 1.0), (Blank(), 0.0, 0.0)], ids=["oracle", "blank"]
)
def test_ceiling_and_floor_of_the_toy_suite(tmp_path: Path, model: Any, low: float, high: float) -> None:
    toy = Wise.toy()
    settings = Settings(suite="toy", limit=48)
    records = runner.run(tmp_path, [toy], model, settings, Part())
    assert records is not None
    (record,) = records
    overall = record.metrics[0]
    assert overall.value is not None
    assert low <= overall.value <= high
    assert (overall.n, overall.missing) == (48, 0)
    assert record.profile == "wise-own"
    assert record.judge["held_out"]["verdicts"] >= 0.97
