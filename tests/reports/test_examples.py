"""Which examples are chosen, and what of a finding is shown."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from benchmarks.types import Json, Score
from reports.examples import boxes, choose, judged, questions


def test_choice_is_seeded_and_spreads_over_groups() -> None:
    scores = [Score(f"{g}/{i}", str(g), "one", float(g % 2)) for g in range(40) for i in range(4)]
    chosen = choose(scores, seed=1)
    assert [score.value for score in chosen] == [0.0] * 6 + [1.0] * 2
    assert len({score.group for score in chosen}) == 8
    assert choose(scores, seed=1) == chosen
    assert any(choose(scores, seed=other) != chosen for other in range(2, 6))


def test_many_categories_share_a_page_but_each_is_seen() -> None:
    """MMMU has 30 subjects, and a page with ten images of each would not open on a phone."""
    scores = [Score(f"{c}/{i}", f"{c}/{i}", str(c), i % 2) for c in range(30) for i in range(20)]
    chosen = choose(scores, seed=1)
    assert len(chosen) == 60
    assert {(score.stratum, score.value) for score in chosen} == {(str(c), v) for c in range(30) for v in (0, 1)}


@pytest.mark.parametrize("finding", [None, "yes", {"text": "yes"}, {"boxes": {}}, {"features": "AAAA"}])
def test_findings_with_nothing_to_show(finding: Json) -> None:
    assert (boxes(finding), questions(finding), judged(finding)) == ((), (), None)


def test_a_question_has_one_reply_per_crop() -> None:
    finding = {"crops": [{"a?": "yes", "b?": "no"}, {"a?": "no", "b?": "no"}]}
    assert questions(finding) == (("a?", "yes, no"), ("b?", "no, no"))


@pytest.mark.parametrize(
    ("finding", "shown"),
    [({"reply": "Score: 1"}, "Score: 1"), ({"judge": ["0.5", "1.0"]}, "0.5\n1.0"), ({"judge": []}, "")],
)
def test_what_a_judge_wrote(finding: Json, shown: str) -> None:
    assert judged(finding) == shown


def test_a_mask_is_drawn_from_the_first_pixel_that_its_box_touches() -> None:
    buffer = io.BytesIO()
    Image.new("1", (4, 3), 1).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    found = boxes({"boxes": {"dog": [[5.5, 7.0, 8.2, 9.6, 0.9]], "cat": [[0, 0, 2, 2, 0.4]]}, "masks": {"dog": [png]}})
    assert found[0].mask is not None
    assert (found[0].mask.x, found[0].mask.y, found[0].mask.width, found[0].mask.height) == (5, 7, 4, 3)
    assert found[0].mask.uri == f"data:image/png;base64,{png}"
    assert found[1].mask is None
