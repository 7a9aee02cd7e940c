"""Make pairs tables from the pictures of packages: clip art, emoji, and emoji in classes."""

from __future__ import annotations

import re
import shutil
import struct
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import own_data
import packages
from tables import Pair, split_of, write_pairs

CATEGORIES = {
    "animals", "buildings", "computer", "containers", "education", "electronics", "food",
    "geography", "office", "people", "plants", "recreation", "science", "signs_and_symbols",
    "tools", "transportation",
}  # fmt: skip
NO_DRAWINGS = {"flag", "flags", "icons", "roadsigns", "road_signs", "signs"}
MEGAPIXELS = 4  # a dozen larger drawings would take most of the time
KEYWORDS = 8
SHARED = 4  # most drawings per caption; one caption for 52 playing cards is uninformative
CLASS_PICTURES = 8  # fewest pictures of a class


def plain(text: str) -> str:
    """Lower the case and keep only words of letters."""
    return " ".join(re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower().replace("_", " ")))


def concept(title: str) -> str:
    """Head of an English noun phrase: its last word, without the s of a plural."""
    word = re.split(r"[ -]", title)[-1]
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] not in "su" else word


# %% Clip art: a drawing, its title and its keywords
def title_and_keywords(svg: bytes) -> tuple[str, list[str]]:
    """Title and keywords in the RDF metadata of a drawing; empty if there are none."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        return "", []
    work = next((node for node in root.iter() if node.tag.endswith("}Work")), ())
    title = next((node.text or "" for node in work if node.tag.endswith("}title")), "")
    keywords = [
        node.text or "" for part in work for node in part.iter() if node.tag.endswith("}li")
    ]
    title = plain(title).removesuffix(" b and w")
    return title, [word for word in dict.fromkeys(map(plain, keywords)) if word not in ("", title)]


def megapixels(png: bytes) -> float:
    width, height = struct.unpack(">II", png[16:24])
    return int(width) * int(height) / 1e6


def openclipart(root: Path) -> None:
    """Write drawings with an English title: each of its words is a word piece of MiniLM."""
    folder = root / "openclipart"
    if (folder / "pairs.csv").is_file():
        return
    words = set((packages.minilm(root) / "vocab.txt").read_text(encoding="utf-8").split())
    found: dict[str, tuple[str, str, bytes]] = {}
    for drawing, svg, png in packages.clipart_files(root):
        title, keywords = title_and_keywords(svg)
        of_title = set(re.split(r"[ -]", title))
        about = {*drawing.split("/"), *keywords}
        if (
            drawing.split("/")[0] in CATEGORIES
            and not about & NO_DRAWINGS
            and of_title <= words
            and max(map(len, of_title)) > 2
            and megapixels(png) <= MEGAPIXELS
        ):
            caption = ": ".join(filter(None, (title, ", ".join(keywords[:KEYWORDS]))))
            found[drawing] = caption, concept(title), png
    many = Counter(caption for caption, _, _ in found.values())
    pairs = []
    for drawing, (caption, group, png) in sorted(found.items()):
        if many[caption] <= SHARED:
            picture = folder / "images" / f"{drawing}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(png)
            pairs.append(Pair(picture, caption, f"oc/{drawing}", group, split_of(group)))
    write_pairs(folder / "pairs.csv", pairs)


# %% Emoji: a picture, its name and its tags; and a class of pictures for each kind of emoji
def emoji(root: Path) -> None:
    """Write emoji, except letters, skin tones and hair (no pictures) and flags (only names)."""
    folder, classes = root / "emoji", root / "emoji-classes"
    if (folder / "pairs.csv").is_file() and (classes / "pairs.csv").is_file():
        return
    described, subgroups, pictures = packages.emoji_files(root)
    pairs, labels = [], {}
    for one in described:
        code = one["hexcode"].replace("-FE0F", "")
        if one.get("group") in (None, 2, 9) or code not in pictures:
            continue
        picture = folder / "images" / f"{code}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(pictures[code])
        label = one["label"].lower()
        caption = ": ".join(filter(None, (label, ", ".join(one.get("tags", [])[:10]))))
        group = concept(plain(label) or label)
        pairs.append(Pair(picture, caption, f"em/{code}", group, split_of(group)))
        labels[picture] = subgroups[one["subgroup"]].replace("-", " ")
    write_pairs(folder / "pairs.csv", pairs)
    many = Counter(labels.values())
    for picture, label in labels.items():
        if many[label] >= CLASS_PICTURES:
            (classes / "images" / label).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, classes / "images" / label / picture.name)
    own_data.image_folder(classes / "images", classes, split="test")
