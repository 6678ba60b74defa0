"""JT18: the four-layer linear network on separable points of the plane.

The paper gives plots and theorems, no table; learning rate, widths and number of steps of its synthetic experiment are
not stated. So what is held against the measurements are the limits that it proves, and the inequalities on the way.
"""

from __future__ import annotations

from typing import Any

from letitgo.deep_linear.study import DeepLinear
from letitgo.papers import Claim, inside, scaled

TITLE = "Ji and Telgarsky: Gradient descent aligns the layers of deep linear networks (arXiv:1810.02032)"
STEPS = 10_000

LIMIT = 1e-3
"""How near to 1 a ratio or an alignment counts as there."""
DEGREES = 2.0
"""Within how many degrees of the maximum-margin direction a predictor counts as there."""


def study(scale: float, seeds: int) -> DeepLinear:
    """Hidden layers of 8×8×8 on synthetic points, all starts, none frozen."""
    return DeepLinear(steps=scaled(STEPS, scale), seeds=seeds, freeze_layers=())


def claims(study: DeepLinear, rows: list[dict[str, Any]]) -> list[Claim]:
    """Layers of rank one and aligned, the product the maximum-margin predictor; Lemma 2 and the invariants."""
    told = []
    for start in study.init:
        network, layers = _end(rows, "far", start)
        balanced = start == "balanced"
        limit = "" if balanced else "a limit, which unbalanced starts near only as weights grow"
        for name, quantity in (("ratio", "least ‖W‖₂/‖W‖_F"), ("adjacent", "least |⟨v,u⟩| of adjacent layers")):
            least = min(
                (r for r in layers if r[f"{name}_mean"] is not None), key=lambda r: r[f"{name}_mean"], default=None
            )
            value, half, n = (least[f"{name}_mean"], least[f"{name}_ci95"], least["n"]) if least else (None, None, 0)
            there = inside(value, half, low=1 - LIMIT) or (False if balanced and value is not None else None)
            told.append(Claim(f"{quantity}, {start} start", "→ 1", value, half, n, there, limit))
        told.append(_angle(f"angle to the maximum margin, {start} start, degrees", network))
    single, _ = _end(rows, "one layer", "default")
    told.append(_angle("angle to the maximum margin, one layer, degrees", single))
    pace = [row for row in rows if row["case"] == "theorem" and row["layer"] == "network" and row["n"]]
    for name, quantity in (("rank_excess", "first"), ("adjacent_excess", "second")):
        missed = max((row[f"{name}_max"] for row in pace if row[f"{name}_max"] is not None), default=None)
        drift = max((row["drift_mean"] for row in pace), default=0.0)
        within = None if missed is None else missed <= max(drift, 1e-12)
        note = "largest over steps and seeds, with the theorem’s step; gradient descent may miss it by the drift"
        told.append(
            Claim(f"Lemma 2, {quantity} inequality: missed by", "at most 0", missed, None, study.seeds, within, note)
        )
    for start in study.init:
        ends = [_end(rows, "theorem", start, rate)[0] for rate in (1.0, 0.5)]
        drifts = [end["drift_mean"] for end in ends if end]
        ratio = drifts[0] / drifts[1] if len(drifts) == 2 and drifts[1] else None
        within = None if ratio is None else abs(ratio - 2) < 0.2
        quantity = f"drift of the invariants over that at half the step, {start} start"
        told.append(Claim(quantity, "O(step): 2", ratio, None, study.seeds if drifts else 0, within))
    return told


def _angle(quantity: str, network: dict[str, Any] | None) -> Claim:
    value, half, n = (network["angle_mean"], network["angle_ci95"], network["n"]) if network else (None, None, 0)
    within = inside(value, half, high=DEGREES) or None
    note = "" if within or value is None else "a limit, neared with the logarithm of time"
    return Claim(quantity, "→ 0", value, half, n, within, note)


def _end(
    rows: list[dict[str, Any]], kind: str, start: str, rate: float | None = None
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Of a case, the row of the network and those of its layers at the last step that was reached."""
    own = [row for row in rows if (row["case"], row["start"]) == (kind, start) and row["n"]]
    own = [row for row in own if rate is None or row["rate"] == rate]
    full = max((row["n"] for row in own), default=0)
    step = max((row["step"] for row in own if row["n"] == full), default=None)
    at = [row for row in own if row["step"] == step]
    network = next((row for row in at if row["layer"] == "network"), None)
    return network, [row for row in at if row["layer"] != "network"]
