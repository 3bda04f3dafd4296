"""How many judgments a study needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.types import BenchError
from reports.statistics.power import margin_standard_error, minimal_detectable_effect


@dataclass(frozen=True)
class Plan:
    """Of one criterion; margins are net margins, (wins - losses) / judgments."""

    judgments: int
    per_prompt: float
    design_effect: float
    margin: float
    independent_margin: float  # as if the judgments of a prompt had nothing in common


def plan(
    judgments: int | None, margin: float, prompts: int, ties: float, icc: float, alpha: float, power: float
) -> Plan:
    """The smallest net margin that ``judgments`` find, or the fewest judgments (None) that find ``margin``.

    MDE = (z_alpha/2 + z_power) sqrt((1 - ties) deff / N) with deff = 1 + (N / prompts - 1) ICC. Raises BenchError when
    no number of judgments of so many prompts finds the margin.
    """
    unit = minimal_detectable_effect(margin_standard_error(1, ties), alpha, power)  # of one judgment
    if judgments is None:
        # MDE <= margin, solved for N: deff grows with N, so that more judgments of the same prompts help less and less.
        independent = (unit / margin) ** 2
        room = 1 - independent * icc / prompts
        if room <= 0:
            raise BenchError(
                f"no number of judgments on {prompts} prompts finds a net margin of {margin} at ICC {icc}: take more "
                "prompts, or a larger --margin"
            )
        judgments = math.ceil(max(independent, independent * (1 - icc) / room))
        if judgments < prompts:
            judgments = math.ceil(independent)
    per_prompt = judgments / prompts
    effect = 1 + max(0.0, per_prompt - 1) * icc
    spread = unit / math.sqrt(judgments)
    return Plan(judgments, per_prompt, effect, spread * math.sqrt(effect), spread)
