"""The tokenizer equals open_clip's on texts of every kind, without importing open_clip."""

import importlib.util
import random
import subprocess
import sys

import open_clip.tokenizer
import pytest
import torch

import clip
from clip.tokenizer import END_TOKEN, START_TOKEN, VOCABULARY_SIZE, encode, open_clip_file, tokenize

NUMBER = 10_000
WORDS = ("a photo of the cat Dog's can't they'RE we've i'll she'd I'm o'clock 'S 'tis naïve Straße ŒUVRE İstanbul "
         "ǅ ﬁre 日本語 한국어 हिन्दी עברית العربية Ελλάδα Привет ไทย x² ½ ⅷ Ⅻ K ſ don’t “quoted” …").split()
MARKS = ["<start_of_text>", "<end_of_text>", "<START_OF_TEXT>", "<|endoftext|>", "<end_of_text", "<ſtart_of_text>",
         "</w>"]
PUNCTUATION = "!?.,;:-_'\"#@/\\()[]{}<>^`~|"
ENTITIES = ["&amp;", "&amp;lt;", "&amp;amp;amp;", "&lt;b&gt;", "&#39;", "&#x1F600;", "&nbsp;", "&nothing;", "&#28;",
            "&#x85;", "&#xd800;", "&eacute", "&", "&;"]
EMOJI = ["😀", "👩‍👩‍👧", "🇩🇪", "❤️", "☎", "👍🏽", "\ufe0f", "\u200d"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\x0b", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u2028", "\u3000",
          "\u200b", "\ufeff"]
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160), 0x202E, 0xD800, 0xDFFF, 0xFFFE, 0x10FFFF)]


def mojibake(rng):
    return rng.choice(["café", "naïve – “so”", "Größe", "日本", "😀"]).encode().decode(
        rng.choice(["latin-1", "cp1252", "cp437"]), errors="replace")


def long_word(rng):
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABCÄéß", k=rng.randint(20, 120)))


def any_character(rng):
    """From the whole of Unicode, the planes in use preferred."""
    return chr(rng.randrange(rng.choice([0x250, 0x3000, 0x10000, 0x20000, 0x110000])))


KINDS = [
    lambda rng: rng.choice(WORDS), lambda rng: rng.choice(MARKS), lambda rng: rng.choice(ENTITIES),
    lambda rng: rng.choice(EMOJI), lambda rng: rng.choice(SPACES), lambda rng: rng.choice(CONTROLS),
    lambda rng: str(rng.randrange(10 ** rng.randint(1, 12))), lambda rng: rng.choice(PUNCTUATION) * 2,
    mojibake, any_character, any_character]


def awkward_text(rng):
    length = rng.choice([0, 1, 1, 2, 3, 5, 8, 12, 90])
    pieces = [rng.choice(KINDS)(rng) for _ in range(length)]
    if rng.random() < 0.05:
        pieces.append(long_word(rng))
    return rng.choice(["", " "]).join(pieces)


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [awkward_text(rng) for _ in range(NUMBER)]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("number", [NUMBER // 5, pytest.param(NUMBER, marks=pytest.mark.slow)])
def test_equals_open_clip_on_awkward_texts(texts, number):
    texts = texts[:number]
    theirs = open_clip.tokenizer.SimpleTokenizer()(texts)
    ours = tokenize(texts)
    different = [text for text, same in zip(texts, (ours == theirs).all(dim=1), strict=True) if not same]
    assert different == []


@pytest.mark.parametrize(("number", "kinds"), [(NUMBER // 5, 1400), pytest.param(NUMBER, 2000, marks=pytest.mark.slow)])
def test_awkward_texts_are_of_every_kind(texts, number, kinds):
    """Without these the comparison would prove little."""
    texts = texts[:number]
    tokens = tokenize(texts)
    too_long = tokens[:, -1] == END_TOKEN
    assert number / 40 < too_long.sum() < number / 2
    assert "" in texts and len(set(texts)) > 0.7 * number
    assert tokens.unique().numel() > kinds
    assert (tokens == START_TOKEN).sum() > number and ((tokens == END_TOKEN).sum(dim=1) > 1).sum() > number / 200


def test_every_text_keeps_its_end_token(texts):
    tokens = tokenize(texts)
    assert tokens.shape == (NUMBER, 77) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == START_TOKEN).all() and (tokens == END_TOKEN).any(dim=1).all()


def test_known_ids():
    expected = torch.zeros(1, 77, dtype=torch.int64)
    expected[0, :7] = torch.tensor([49406, 320, 1125, 539, 320, 2368, 49407])
    assert torch.equal(tokenize("a photo of a cat"), expected)
    assert torch.equal(clip.tokenize(["A  photo of\na CAT "]), expected)
    assert VOCABULARY_SIZE == 49408


@pytest.mark.parametrize("words", [74, 75, 76, 200])
def test_too_long_text_loses_its_last_pieces_and_keeps_its_end(words):
    tokens = tokenize("cat " * words)[0].tolist()
    kept = min(words, 75)
    assert tokens == [START_TOKEN, *[2368] * kept, END_TOKEN, *[0] * (75 - kept)]


@pytest.mark.parametrize("context_length", [3, 20, 100])
def test_other_context_lengths(context_length, texts):
    theirs = open_clip.tokenizer.SimpleTokenizer()(texts[:200], context_length)
    assert torch.equal(clip.tokenize(texts[:200], context_length), theirs)


def test_no_texts_and_empty_text():
    assert tokenize([]).shape == (0, 77)
    assert tokenize("")[0, :3].tolist() == [START_TOKEN, END_TOKEN, 0]


def test_ids_of_a_text_cannot_be_spoilt_for_the_next_caller():
    """The ids are remembered, so what is handed out must not be a list that a caller could change."""
    assert isinstance(encode("a photo"), tuple)


@pytest.mark.parametrize("code, absent", [
    ("import clip", ["torch", "open_clip", "ftfy", "yaml"]),
    ("import clip; clip.available_models()", ["torch", "open_clip", "ftfy", "yaml"]),
    ("import clip.tokenizer", ["torch", "open_clip"]),
    pytest.param("import clip; clip.tokenize('a cat')", ["open_clip", "timm", "torchvision"], marks=pytest.mark.slow),
])
def test_importing_is_cheap(code, absent):
    result = run_python(f"{code}; import sys; print([name for name in {absent} if name in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_vocabulary_without_open_clip_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install open_clip_torch"):
        open_clip_file("bpe_simple_vocab_16e6.txt.gz")


def test_open_clip_file_is_there():
    assert open_clip_file("bpe_simple_vocab_16e6.txt.gz").is_file()
