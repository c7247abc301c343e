"""What a finished run leaves besides its page: the arrays, and a record of what was done."""

from typing import Any

import numpy as np

from sparks_jax.jobs.concepts import Seen
from sparks_jax.jobs.network import Network
from sparks_jax.jobs.report import Result, Summary

CURVES = "deletion_and_insertion"  # their seconds, among those of the methods
CONCEPTS = "concepts"  # likewise


def arrays(summary: Summary) -> dict[str, np.ndarray]:
    """What `maps.npz` holds: the maps `(n …)` of each method and its curves, concepts, and what the pictures are."""
    results, found = summary.results, {}
    for name in summary.ran():
        panels = [result.panels[name] for result in results]
        found[name] = np.stack([panel.raw for panel in panels])
        found[f"{name}/deletion"] = np.stack([panel.deletion.scores for panel in panels])
        found[f"{name}/insertion"] = np.stack([panel.insertion.scores for panel in panels])
        found["fractions"] = np.asarray(panels[0].deletion.fractions)
    for result in results:
        if result.seen is not None:
            found |= {
                f"concepts/{result.picture.source.name}/{name}": np.asarray(getattr(result.seen, name))
                for name in ("values", "bounds", "mean", "stderr", "maps")
                if getattr(result.seen, name) is not None
            }
    return found | {
        "names": np.array([result.picture.source.name for result in results]),
        "labels": np.array([result.label for result in results]),
        "probabilities": np.stack([result.probabilities for result in results]),
        "images": np.stack([result.picture.seen for result in results]),
    }


def record(summary: Summary, settings: dict[str, Any], curves: dict[str, Any], files: list[str]) -> dict[str, Any]:
    """What `run.json` holds.

    Args:
        summary: The run.
        settings: What it was asked to do.
        curves: Options of the curves.
        files: Those that were written.
    """
    network = summary.network
    about = {
        "name": network.name,
        "classes": len(network.classes),
        "size": network.size,
        "about": network.about,
    }
    methods = {
        name: {
            "seconds": round(summary.seconds[name], 2),
            "forwards_per_picture": summary.forwards[name],
            "options": method.smoke if summary.smoke else {},
        }
        for name, method in summary.ran().items()
    }
    seconds, forwards = round(summary.seconds[CURVES], 2), 2 * (curves["steps"] + 1)
    return {
        "versions": summary.versions,
        "device": summary.device,
        "settings": settings,
        "network": about,
        "seconds": round(summary.total, 2),
        "interrupted": summary.interrupted,
        "methods": methods,
        CURVES: {"seconds": seconds, "forwards_per_map": forwards, "options": curves},
        CONCEPTS: {"seconds": round(summary.seconds[CONCEPTS], 2)},
        "pictures": [_picture_record(result, network, summary.top) for result in summary.results],
        "errors": summary.errors,
        "skipped": summary.skipped,
        "files": files,
    }


def _concept_record(seen: Seen | None) -> dict[str, Any]:
    if seen is None:
        return {}
    fields = ("num_images", "num_views", "method", "own", "exact", "score", "explained", "dead", "note")
    return {CONCEPTS: {"values": seen.values.tolist()} | {name: getattr(seen, name) for name in fields}}


def _picture_record(result: Result, network: Network, top: int) -> dict[str, Any]:
    best = [int(i) for i in np.argsort(-result.probabilities, kind="stable")[:top]]
    return {
        "name": result.picture.source.name,
        "path": result.picture.source.path,
        "label": result.label,
        "class": network.classes[result.label],
        "top": {network.classes[i]: round(float(result.probabilities[i]), 5) for i in best},
        "deletion": {name: float(panel.deletion.auc) for name, panel in result.panels.items()},
        "insertion": {name: float(panel.insertion.auc) for name, panel in result.panels.items()},
        **_concept_record(result.seen),
    }
