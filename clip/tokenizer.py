"""CLIP's byte-pair encoding: text -> (N, 77) int tensor.

The vocabulary file is that of the installed open_clip_torch, located without importing the package.
"""

import functools
import gzip
import html
import importlib.util
from pathlib import Path

import ftfy
import regex

from clip.catalog import VOCABULARY_SIZE

CONTEXT_LENGTH = 77
START_TOKEN, END_TOKEN = 49406, 49407
MERGES = VOCABULARY_SIZE - 2 * 256 - 2  # excludes the bytes, the bytes that end a word, and two marks

PIECES = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
SPACES = regex.compile(r"\s+")


def tokenize(texts, context_length=CONTEXT_LENGTH):
    """Tokenise one text or a list of N -> (N, context_length) int64: start token, pieces, end token, zeros.

    A text that is too long loses pieces at its end and keeps its end token, where CLIP reads the feature.
    """
    import torch
    texts = [texts] if isinstance(texts, str) else texts
    tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in enumerate(texts):
        ids = [START_TOKEN, *encode(text)[:context_length - 2], END_TOKEN]
        tokens[row, :len(ids)] = torch.tensor(ids)
    return tokens


@functools.lru_cache(maxsize=100_000)
def encode(text):
    """Return the token ids of a text, without start and end."""
    return tuple(token for piece in PIECES.findall(_clean(text)) for token in _encode_piece(piece))


def open_clip_file(name):
    """Return the path of a file in the installed open_clip_torch, without importing the package."""
    package = importlib.util.find_spec("open_clip")
    if package is None:
        raise FileNotFoundError(f"{name} comes from the package open_clip_torch, which is not installed: "
                                "pip install open_clip_torch")
    return Path(package.origin).parent / name


def _clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return SPACES.sub(" ", text.strip()).strip().lower()


@functools.lru_cache(maxsize=100_000)
def _encode_piece(piece):
    ids, ranks = _vocabulary()
    if piece in ("<start_of_text>", "<end_of_text>"):
        return (ids[piece],)
    letters = _byte_letters()
    word = [letters[byte] for byte in piece.encode("utf-8")]
    word[-1] += "</w>"
    while len(word) > 1:
        pairs = set(zip(word, word[1:], strict=False))
        best = min(pairs, key=lambda pair: ranks.get(pair, MERGES))
        if best not in ranks:
            break
        word = _merge(word, best)
    return tuple(ids[part] for part in word)


def _merge(word, pair):
    merged, position = [], 0
    while position < len(word):
        joins = tuple(word[position:position + 2]) == pair
        merged.append("".join(pair) if joins else word[position])
        position += 2 if joins else 1
    return merged


@functools.cache
def _byte_letters():
    """Return a printable letter per byte: itself if it is printable Latin-1, else one from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    letters = {byte: chr(byte) for byte in sorted(printable)}
    return letters | {byte: chr(256 + offset) for offset, byte in enumerate(others)}


@functools.cache
def _vocabulary():
    """Return (part -> id, pair of parts -> rank of its merge)."""
    with gzip.open(open_clip_file("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1:MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    letters = list(_byte_letters().values())
    parts = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges),
             "<start_of_text>", "<end_of_text>"]
    return ({part: index for index, part in enumerate(parts)},
            {merge: rank for rank, merge in enumerate(merges)})
