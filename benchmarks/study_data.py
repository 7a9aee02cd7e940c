"""Create the FOLDER of the study from the stores that examples/limited_data extracts.

    cd examples/limited_data
    python prepare_data.py packages
    for set in openclipart emoji; do for encoder in vit-s14 efficientnet-lite0 minilm; do
        python extract_features.py data/$set/pairs.csv --encoder $encoder
    done; done
    cd ../..
    python benchmarks/study_data.py --root examples/limited_data/data --output FOLDER

Pairs and splits are those of the example. They have the same pictures as the sets on the study's
page but are split by concept in a different way, so the figures agree in their pattern but not to
the digit.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from structure_reg import FeatureStore

SETS = {"openclipart": "openclipart", "emoji": "emoji-noto"}
ENCODERS = {"vit-s14": "image_dino", "efficientnet-lite0": "image_effnet", "minilm": "text_minilm"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("examples/limited_data/data"))
    parser.add_argument("--output", type=Path, default=Path("data"))
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        with (args.root / name / "pairs.csv").open(newline="", encoding="utf-8") as file:
            pairs = list(csv.DictReader(file))
        stores = {e: FeatureStore(args.root / "features" / name / e) for e in ENCODERS}
        # A store of pictures is keyed by their ids, a store of captions by the rows of the table.
        row_of = {e: {id_: row for row, id_ in enumerate(stores[e].ids)} for e in ENCODERS}
        keys = [{"vit-s14": p["id"], "efficientnet-lite0": p["id"], "minilm": i}
                for i, p in enumerate(pairs)]  # fmt: skip
        kept = [i for i, key in enumerate(keys) if all(key[e] in row_of[e] for e in ENCODERS)]
        features = {}
        for e, prefix in ENCODERS.items():
            rows = torch.tensor([row_of[e][keys[i][e]] for i in kept])
            for l, layer in enumerate(stores[e]):
                features[f"{prefix}.{l:02}"] = stores[e][layer][rows].half().contiguous()
        save_file(features, args.output / f"{SETS[name]}.safetensors")
        lines = [
            json.dumps({"text": p["caption"], **{k: p[k] for k in ("id", "group", "split")}})
            for p in (pairs[i] for i in kept)
        ]
        (args.output / f"{SETS[name]}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"{SETS[name]}: {len(kept)} pairs, {len(features)} layers")


if __name__ == "__main__":
    main()
