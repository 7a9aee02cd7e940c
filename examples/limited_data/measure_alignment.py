"""Measure how alike the layers of two encoders are: a report and a heat map for each metric.

    python measure_alignment.py configs/default/openclipart_vit.yaml
    python measure_alignment.py configs/metrics/*.yaml

Reads stores of all layers, using only the train split, with each picture and each caption once.
Writes DIR/alignment.json with the scores, the best pair, the last pair and a sample over the range
of scores, and a heat map for each metric.
"""

# %%
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import features
import layer_pairs
import matplotlib.pyplot as plt
import results
import settings


def stems(paths: Sequence[Path]) -> list[str]:
    """Names of the files, with those of their folders where two files have the same name."""
    count = Counter(path.stem for path in paths)
    return [
        path.stem if count[path.stem] == 1 else f"{results.folder_name(path)}-{path.stem}"
        for path in paths
    ]


def short(model: str) -> str:
    """Name of a model without what is before it, to fit on an axis."""
    return model.rpartition(":")[2].rstrip("/").rpartition("/")[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "settings", type=Path, nargs="+", help="YAML files of settings, such as those in configs"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="replace settings, for example selection.k=10",
    )
    parser.add_argument(
        "--base", type=Path, help="file to read in place of the base that the settings files name"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data"),
        help="folder of tables and features; default: %(default)s",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/alignment"),
        help="folder to write to; default: %(default)s",
    )
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    reports: dict[str, Any] = {"versions": results.versions()}
    for path, stem in zip(args.settings, stems(args.settings), strict=True):
        for run in settings.runs(settings.read(path, args.set, args.base)):
            name = " ".join([stem, *(f"{k}={v}" for k, v in run["grid"].items())])
            of = features.load(run["data"], args.root)
            seed = settings.as_list(run["seeds"])[0]
            rows = features.distinct(of, of.split("train", captions="first"))
            found = layer_pairs.score_pairs(of, rows, run["selection"])
            reports[name] = {
                "settings": run,
                "best": layer_pairs.choose_pairs(found, "best", seed=0)["best"],
                "binned": layer_pairs.choose_pairs(found, "binned", seed=seed),
                **found.summary,
            }
            print(f"{name}: {found.text}\n")
            layers, columns = found.scores.shape
            size = max(5.8, 2.4 + 0.45 * columns), max(4, 1.4 + 0.34 * layers)  # inches
            figure, ax = plt.subplots(figsize=size, layout="constrained")
            models = of.images.manifest.model, of.texts.manifest.model
            x_label, y_label = (f"layer of {short(model)}" for model in models)
            found.plot(ax, x_label=x_label, y_label=y_label)
            picture = results.below(args.output, f"{name}.png".replace("/", "-"))
            figure.savefig(picture, dpi=120)
            plt.close(figure)
    results.as_json(args.output / "alignment.json", reports)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
