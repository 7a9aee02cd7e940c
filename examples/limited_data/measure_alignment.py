"""How alike are the layers of two encoders? One report and one heat map for each metric.

    python examples/limited_data/measure_alignment.py configs/default/openclipart_vit.yaml
    python examples/limited_data/measure_alignment.py configs/metrics/*.yaml

Reads stores of all layers, of the train split alone, each caption and each picture once. Writes
DIR/alignment.json with the scores, the best pair, the last one and a sample over the range of
scores, and a heat map for each metric.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import features
import matplotlib.pyplot as plt
import settings
from layer_pairs import chosen, measured
from results import as_json, versions

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("settings", type=Path, nargs="+", help="files of configs")
parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="data.train=200")
parser.add_argument("--base", type=Path, help="file to base the others on: another set or encoder")
parser.add_argument("--root", type=Path, default=Path("data"))
parser.add_argument("--output", type=Path, default=Path("outputs/alignment"))
args = parser.parse_args()

# %%
reports: dict[str, Any] = {}
for path in args.settings:
    for run in settings.runs(settings.read(path, args.set, args.base)):
        of = features.load(run["data"], args.root)
        rows = features.distinct(of, of.split("train", captions="first"))
        name = path.stem if not run["grid"] else f"{path.stem}-{len(reports)}"
        report = measured(of, rows, run["selection"])
        reports[name] = {
            "settings": run,
            "pairs of rows": len(rows),
            "layers": chosen(report, run["selection"]["layers"], seed=run["seeds"][0]),
            "binned": chosen(report, "binned", seed=run["seeds"][0]),
            **report.summary,
        }
        print(f"{name}: {report.text}\n")
        figure, ax = plt.subplots(figsize=(5.4, 6), layout="constrained")
        report.plot(ax)
        args.output.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.output / f"{name}.png", dpi=120)
        plt.close(figure)

as_json(args.output / "alignment.json", {"versions": versions(), **reports})
print(f"wrote {args.output}")
