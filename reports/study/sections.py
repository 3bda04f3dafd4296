"""The tables of a study's report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import median

from reports.statistics.estimate import Estimate
from reports.study.preference import Comparison
from reports.study.raters import RaterAgreement
from reports.study.results import Criterion, Results
from reports.study.votes import ALPHA
from reports.study.wording import (
    UNKNOWN,
    chi2_text,
    coefficient_text,
    estimate_text,
    flip_text,
    margin_text,
    p_text,
    percent,
    rate_text,
)
from reports.tables import Table

#: A table of single annotators or contrasts that has more rows is left to the JSON.
LONGEST = 60
Row = tuple[str, ...]


def sections(results: Results) -> list[tuple[str, Table]]:
    """Titles and tables. What a study has nothing for has no table; where that is not plain, the last one says why."""
    found, criteria = results.comparisons, results.criteria
    tables = {
        "Result": _result(found),
        "As papers print it": _paper_style(found),
        "Ties": _ties(found),
        "Other analyses": _variants(found),
        "Precision": _precision(found),
        "Sides": _sides(criteria),
        "Agreement": _agreement(criteria),
        "Repeats and known answers": _quality(criteria),
        "Annotators": _annotators(results),
        "Margins by annotator": _annotator_effects(found),
        "Rounds": _rounds(found),
        "Looking while collecting": _sequential(found),
        "Several models": _scales(criteria),
        "Contrasts of several models": _contrasts(criteria),
        "Automatic scores": _automatic(found),
    }
    reasons = [note for table in tables.values() if not table.rows for note in table.notes]
    shown = [(title, table) for title, table in tables.items() if table.rows]
    return [*shown, ("Judgments", _judgments(results, reasons))]


def conclusion(comparison: Comparison) -> str:
    """What may be said of two models, in one sentence."""
    one = comparison
    p = f"p {flip_text(one.permutation)} by prompt, {_holm_text(one)} after Holm"
    if one.p_holm > ALPHA or one.margin.value == 0:
        margin = margin_text(one.margin)
        told = f"no preference shown between {one.first} and {one.second} (net margin {margin} points; {p})"
    else:
        ahead = one.margin.value > 0
        better, worse = (one.first, one.second) if ahead else (one.second, one.first)
        told = f"{better} is preferred to {worse}, net margin {margin_text(_turned(one.margin, ahead))} points ({p})"
    return "; ".join([f"{one.criterion}: {told}", *one.notes])


def _turned(margin: Estimate, ahead: bool) -> Estimate:
    """As seen from the model that is ahead."""
    if ahead:
        return margin
    low, high = (None if limit is None else -limit for limit in (margin.high, margin.low))
    return Estimate(-margin.value, low, high, margin.note)


def _table(header: str, rows: Sequence[Row], left: int, notes: Sequence[str] = ()) -> Table:
    """``header`` has the columns' names between bars; the first ``left`` columns hold words, the others figures."""
    names = tuple(name.strip() for name in header.split("|"))
    return Table(names, tuple(rows), frozenset(range(left, len(names))), tuple(dict.fromkeys(filter(None, notes))))


def _models(one: Comparison) -> Row:
    return one.criterion, one.first, one.second


def _of(one: Comparison) -> str:
    return f"{one.criterion}, {one.first} and {one.second}"


def _holm_text(one: Comparison) -> str:
    """A bound where the p that is corrected is one."""
    return ("<= " if flip_text(one.permutation).startswith("<=") else "") + p_text(one.p_holm)


def _result(found: Sequence[Comparison]) -> Table:
    rows = [
        (
            *_models(one),
            str(one.counts.total),
            str(one.prompts),
            *map(str, (one.counts.wins, one.counts.ties, one.counts.losses)),
            margin_text(one.margin),
            flip_text(one.permutation),
            _holm_text(one),
        )
        for one in found
    ]
    margins = [f"{_of(one)}: {one.margin.note}" for one in found if one.margin.note]
    notes = [
        *map(conclusion, found),
        "Net margin: votes for the first less votes for the second, in points of 100 votes, with its 95 % interval "
        "clustered by prompt. p: signs of whole prompts flipped. Holm: corrected for all rows.",
        *margins,
    ]
    header = "criterion | first | second | votes | prompts | for first | ties | for second | net margin | p | p Holm"
    return _table(header, rows, 3, notes)


def _paper_style(found: Sequence[Comparison]) -> Table:
    rows = [
        (
            *_models(one),
            str(one.counts.wins + one.counts.losses),
            rate_text(one.paper_style.win_rate),
            p_text(one.paper_style.test.p),
            p_text(one.paper_style.test.p_greater),
            p_text(one.paper_style.test.p_mid),
            p_text(one.paper_style.test.p_z),
        )
        for one in found
    ]
    notes = [
        "Sign test on decisive votes, ties dropped, every vote taken as independent. Votes on one prompt are not: this "
        "test rejects too often, and stands here for comparison with papers."
    ]
    header = "criterion | first | second | decisive | % for first | exact p | one-sided p | mid-p | z-test p"
    return _table(header, rows, 3, [*notes, *(one.paper_style.test.note for one in found)])


def _ties(found: Sequence[Comparison]) -> Table:
    rows = [
        (
            *_models(one),
            percent(one.ties.rate),
            rate_text(one.ties.dropped),
            p_text(one.ties.dropped_p),
            rate_text(one.ties.half),
            p_text(one.ties.half_p),
            estimate_text(one.ties.davidson),
            p_text(one.ties.davidson_p),
            UNKNOWN if one.ties.nu is None else f"{one.ties.nu:.3f}",
            estimate_text(one.ties.side_adjusted),
        )
        for one in found
    ]
    notes = [
        "Percent for the first with ties dropped and with ties as half a vote for each; log ratio of worths and nu of "
        "Davidson's model, and the log ratio adjusted for the side. Intervals and Davidson's p are clustered by "
        "prompt; the other two p take votes as independent (clustered, both are the p of the result).",
        *(f"{_of(one)}: {one.ties.note}" for one in found if one.ties.note),
    ]
    header = "criterion | first | second | % ties | dropped | p | half | p | Davidson | p | nu | adjusted for side"
    return _table(header, rows, 3, notes)


def _variants(found: Sequence[Comparison]) -> Table:
    rows = list(chain.from_iterable(map(_variant_rows, found)))
    notes = ("The net margin in points, if it is analysed in another way than the result's.",)
    header = ("criterion", "first", "second", "analysis", "net margin", "remark")
    return Table(header, tuple(rows), frozenset({header.index("net margin")}), notes)


def _variant_rows(one: Comparison) -> Iterator[Row]:
    for variant in one.variants:
        note = variant.note or (variant.margin.note if variant.margin is not None else "")
        yield (*_models(one), variant.name, margin_text(variant.margin), note)
    left_out = [(other.without, other.annotator) for other in one.annotators.margins if other.without is not None]
    by_value = sorted(((margin.value, margin, name) for margin, name in left_out), key=lambda entry: entry[0])
    for name, entry in (("lowest", by_value[:1]), ("highest", by_value[-1:])):
        for _, margin, annotator in entry:
            yield (*_models(one), f"{name} without one annotator", margin_text(margin), f"without {annotator}")


def _precision(found: Sequence[Comparison]) -> Table:
    rows = [
        (
            *_models(one),
            percent(one.precision.standard_error),
            UNKNOWN if one.precision.design_effect is None else f"{one.precision.design_effect:.2f}",
            UNKNOWN if one.precision.intraclass_correlation is None else f"{one.precision.intraclass_correlation:.2f}",
            percent(one.precision.detectable),
            p_text(one.clustered_t_p),
        )
        for one in found
    ]
    notes = [
        "Standard error and smallest margin found with power 0.8, in points; design effect: variance by prompt over "
        "that of independent votes; ICC: correlation of votes on one prompt; t-test: p by the standard error.",
        *(f"{_of(one)}: {one.precision.note}" for one in found if one.precision.note),
    ]
    header = "criterion | first | second | standard error | design effect | ICC | detectable | t-test p"
    return _table(header, rows, 3, notes)


def _sides(criteria: Sequence[Criterion]) -> Table:
    rows = [
        (
            one.name,
            f"{one.position.left} of {one.position.decisive}",
            rate_text(one.position.rate),
            p_text(one.position.p),
            estimate_text(one.position.order_effect),
            chi2_text(one.position.alike),
        )
        for one in criteria
    ]
    notes = [
        "How often the left image won, of decisive votes, against 1/2; the log of the left side's advantage with the "
        "models' worths allowed for (Davidson's model, clustered by prompt); whether annotators are alike in it.",
        *(
            f"{one.name}: {first} stood left of {second} {left} times in {of}"
            for one in criteria
            for first, second, left, of in one.position.first_left
        ),
        *(f"{one.name}: {one.position.note}" for one in criteria if one.position.note),
    ]
    return _table("criterion | left won | % left | exact p | order effect | annotators alike", rows, 1, notes)


def _agreement(criteria: Sequence[Criterion]) -> Table:
    rows = [_agreement_row(one.name, one.agreement) for one in criteria if one.agreement.several is not None]
    notes = [
        "Votes of several annotators on the same two images in one round: percent of equal pairs of votes, pairs of "
        "images with all votes equal, Krippendorff's alpha (ordinal: a tie lies between), Fleiss' kappa, Gwet's AC1, "
        "and the median and range of Cohen's kappa of two annotators."
    ]
    reasons = [f"{one.name}: {one.agreement.note}" for one in criteria if one.agreement.note]
    header = "criterion | pairs | % equal | unanimous | alpha | alpha ordinal | Fleiss | AC1 | Cohen"
    return _table(header, rows, 1, [*notes, *reasons] if rows else reasons)


def _agreement_row(name: str, one: RaterAgreement) -> Row:
    assert one.several is not None
    kappas = [pair.kappa.value for pair in one.kappas if pair.kappa.value is not None]
    return (
        name,
        str(one.pairs),
        percent(one.several.observed),
        str(one.several.unanimous),
        coefficient_text(one.alpha_nominal),
        coefficient_text(one.alpha_ordinal),
        coefficient_text(one.several.fleiss),
        coefficient_text(one.several.ac1),
        f"{median(kappas):.2f} ({min(kappas):.2f} to {max(kappas):.2f})" if kappas else UNKNOWN,
    )


def _quality(criteria: Sequence[Criterion]) -> Table:
    rows = [
        (
            one.name,
            str(one.repeats.pairs),
            rate_text(one.repeats.same),
            coefficient_text(one.repeats.kappa),
            chi2_text(one.repeats.symmetry),
            f"{one.gold.right} of {one.gold.asked}",
            rate_text(one.gold.rate),
        )
        for one in criteria
        if one.repeats.pairs or one.gold.asked
    ]
    notes = [f"{one.name}: {note}" for one in criteria for note in (one.repeats.note, one.gold.note) if note]
    header = "criterion | repeats | % same vote | kappa | symmetry (Bowker) | gold right | % right"
    return _table(header, rows, 1, notes)


def _annotators(results: Results) -> Table:
    rows = [
        (
            one.name,
            str(one.judgments),
            str(one.skips),
            f"{one.gold.right} of {one.gold.asked}",
            rate_text(one.gold.rate),
            f"{one.same} of {one.repeats}",
            percent(one.left_share),
            percent(one.tie_share),
            UNKNOWN if one.seconds is None else f"{one.seconds:.1f}",
        )
        for one in results.annotators
    ]
    notes = [f"{name} passed less than {results.trusted_from:.0%} of the gold pairs" for name in results.distrusted]
    header = "annotator | votes | skips | gold right | % right | repeats same | % left | % ties | median seconds"
    return _table(header, _short(rows), 1, [*notes, _too_many(rows)])


def _annotator_effects(found: Sequence[Comparison]) -> Table:
    rows = [
        (*_models(one), other.annotator, str(other.judgments), margin_text(other.margin), margin_text(other.without))
        for one in found
        for other in one.annotators.margins
    ]
    notes = [
        *(
            f"{_of(one)}: annotators alike, {chi2_text(one.annotators.alike)}"
            f"{one.annotators.alike.note and f' ({one.annotators.alike.note})'}"
            for one in found
            if one.annotators.alike is not None
        ),
        *(f"{one.criterion}: {one.annotators.note}" for one in found if one.annotators.note),
        _too_many(rows),
    ]
    header = "criterion | first | second | annotator | votes | net margin | of all others"
    return _table(header, _short(rows), 4, notes)


def _rounds(found: Sequence[Comparison]) -> Table:
    rows = [
        (
            *_models(one),
            part.round,
            *map(str, (part.counts.wins, part.counts.ties, part.counts.losses)),
            margin_text(part.margin),
        )
        for one in found
        if len(one.rounds.margins) > 1
        for part in one.rounds.margins
    ]
    notes: list[str] = []
    for one in found:
        told = [f"rounds alike, {chi2_text(one.rounds.alike)} (votes taken as independent)"] if one.rounds.alike else []
        if one.rounds.difference is not None:
            difference = one.rounds.difference
            told.append(
                f"first less second round on {difference.n} shared prompts {margin_text(difference.difference)} "
                f"points, p {p_text(difference.p)}"
            )
        notes.extend(f"{_of(one)}: {line}" for line in told)
    notes.extend(f"{one.criterion}: {one.rounds.note}" for one in found if one.rounds.note)
    return _table("criterion | first | second | round | for first | ties | for second | net margin", rows, 4, notes)


def _sequential(found: Sequence[Comparison]) -> Table:
    rows = [
        (
            *_models(one),
            *map(str, (one.sequential.leads, one.sequential.level, one.sequential.trails)),
            rate_text(one.sequential.lead_rate),
            f"10^{one.sequential.log_e_value / math.log(10):.1f}",
            p_text(one.sequential.p),
            str(one.sequential.stopped_after or UNKNOWN),
        )
        for one in found
    ]
    notes = [
        "Valid however often one looked: prompts on which the majority is for the first, level and for the second, as "
        "they were completed; of those with a majority the percent for the first with its anytime-valid interval, the "
        "e-value against 1/2 and its always-valid p; enough after: so many prompts with a majority, at which e first "
        f"reached {1 / ALPHA:g}."
    ]
    header = (
        "criterion | first | second | first leads | level | second leads | % first leads | e-value | p | enough after"
    )
    return _table(header, rows, 3, notes)


def _scales(criteria: Sequence[Criterion]) -> Table:
    rows: list[Row] = []
    notes: list[str] = []
    for criterion in criteria:
        for scale in criterion.scales:
            rows += [(criterion.name, worth.model, estimate_text(worth.log_worth)) for worth in scale.worths]
            if scale.note:
                notes.append(f"{criterion.name}, {', '.join(scale.models)}: {scale.note}")
            if scale.nu is not None:
                notes.append(f"{criterion.name}, {', '.join(scale.models)}: nu {scale.nu:.3f}")
    if rows:
        notes.insert(0, "Davidson's model: log worths, which sum to 0, with intervals clustered by prompt.")
    return _table("criterion | model | log worth", rows, 2, notes)


def _contrasts(criteria: Sequence[Criterion]) -> Table:
    rows = [
        (criterion.name, one.first, one.second, estimate_text(one.log_ratio), p_text(one.p), p_text(one.p_holm))
        for criterion in criteria
        for scale in criterion.scales
        for one in scale.contrasts
    ]
    notes = ["Log of the ratio of worths, from all votes, those on other pairs too; Holm within a criterion."]
    header = "criterion | first | second | log ratio | p | p Holm"
    return _table(header, _short(rows), 3, [*notes, _too_many(rows)] if rows else [])


def _automatic(found: Sequence[Comparison]) -> Table:
    rows: list[Row] = []
    notes: list[str] = []
    for one in found:
        for other in one.automatic:
            rows.append(
                (
                    *_models(one),
                    f"{other.benchmark} ({other.profile})",
                    str(other.prompts),
                    str(other.unmatched),
                    margin_text(other.human),
                    estimate_text(other.difference.difference, decimals=3),
                    p_text(other.difference.p),
                    estimate_text(other.correlation),
                    UNKNOWN if other.rank_correlation is None else f"{other.rank_correlation:+.2f}",
                    rate_text(other.same_side),
                    str(other.sided),
                    p_text(other.same_side_p),
                )
            )
            notes.append(other.note and f"{one.criterion}, {other.benchmark}: {other.note}")
    if rows:
        notes.insert(
            0,
            "On prompts that have votes and scores: net margin, difference of scores (first less second), their "
            "correlation over prompts (Pearson with bootstrap interval, Spearman), and of the prompts on which both "
            "take a side, the percent on which it is the same.",
        )
    header = (
        "criterion | first | second | scores | prompts | unmatched | net margin | score difference | p | Pearson | "
        "Spearman | % same side | of | p"
    )
    return _table(header, rows, 4, notes)


def _judgments(results: Results, reasons: Sequence[str]) -> Table:
    rows = [
        (
            one.name,
            str(one.judgments),
            UNKNOWN if one.planned is None else str(one.planned),
            *map(str, (one.skips, one.surplus, one.prompts, one.annotators or UNKNOWN)),
            UNKNOWN if one.seconds is None else f"{one.seconds:.1f}",
        )
        for one in results.criteria
    ]
    notes = [
        f"{results.rows} rows were read. Surplus: votes that came after another annotator had filled their place; they "
        f"count. Permutations are drawn with seed {results.seed}.",
        *(f"{name}: no vote yet" for name in results.unjudged),
        *reasons,
    ]
    header = "criterion | votes | planned | skips | surplus | prompts | annotators | median seconds"
    return _table(header, rows, 1, notes)


def _short(rows: Sequence[Row]) -> Sequence[Row]:
    return rows if len(rows) <= LONGEST else ()


def _too_many(rows: Sequence[Row]) -> str:
    return "" if len(rows) <= LONGEST else f"{len(rows)} rows: see the JSON"
