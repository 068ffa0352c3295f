"""What a word of the command line is."""

import pytest

from nfbench.config.words import is_zoo_file


@pytest.mark.parametrize(
    ("word", "is_file"),
    [
        ("zoo.h5", True),
        ("data/zoos/cnn_mnist-tiny+num_runs=12.h5", True),
        ("siren_digits-digits+num_steps=20.h5", True),
        ("zoo=cnn_fashion", False),
        ("zoo.file=data/zoos/mine.h5", False),
        ("+zoo.file=mine.h5", False),
        ("here=1.h5", True),
    ],
)
def test_which_words_are_files(word, is_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here=1.h5").touch()
    assert is_zoo_file(word) == is_file
