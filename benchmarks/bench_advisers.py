"""The table of docs/advisers.md, from the rows of ``letitgo advisers`` in docs/results: rank correlations by rule.

``make results STUDY=advisers-fcn`` computes rows again; ``bench_search.py rules`` has the rules among all sets.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean

from letitgo.report.numbers import decimal
from letitgo.studies.advisers.study import RULES

NAMES = ("fcn", "residual", "conv", "fashion-fcn", "fashion-residual", "fashion-lenet", "finetune")
RESULTS = Path(__file__).parent.parent / "docs" / "results"


def contests() -> dict[str, dict[str, dict[str, str]]]:
    """Name of a network, or of the shift in fine-tuning → rule → its row."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name in NAMES:
        for row in csv.DictReader((RESULTS / f"advisers-{name}" / "rows.csv").open()):
            if row["row"] == "rule":
                found.setdefault(row.get("shift") or name, {})[row["rule"]] = row
    return found


def number(text: str) -> float | None:
    return float(text) if text else None


def main() -> None:
    found = contests()
    # A rule that ranks nothing counts as chance in the mean of correlations, and is left out of that of regrets.
    means = {rule: fmean(number(own[rule]["correlation_mean"]) or 0.0 for own in found.values()) for rule in RULES}
    regrets = {
        rule: fmean(100 * float(text) for own in found.values() if (text := own[rule]["regret_mean"])) for rule in RULES
    }
    print("| rule | " + " | ".join(found) + " | mean | mean regret |")
    print("| --- |" + " ---: |" * (len(found) + 2))
    for rule in sorted(RULES, key=lambda rule: -means[rule]):
        cells = [decimal(number(own[rule]["correlation_mean"])) for own in found.values()]
        print(f"| {RULES[rule].says} | {' | '.join(cells)} | {means[rule]:.2f} | {regrets[rule]:.2f} |")


if __name__ == "__main__":
    main()
