"""Guessing the language of prompts."""

from __future__ import annotations

import pytest

from penstock_training.languages import UNKNOWN, language_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the capital of the country that lies north of France?", "en"),
        ("Wie wird das Wetter morgen in der Stadt und was kann ich für den Garten tun?", "de"),
        ("Quelle est la capitale de ce pays et comment puis-je y aller avec mon chien ?", "fr"),
        ("¿Cuál es la capital de este país y cómo puedo llegar con mi perro por la noche?", "es"),
        ("Qual è la capitale di questo paese e come posso andare con il mio cane nel parco?", "it"),
        ("Qual é a capital deste país e como você pode chegar com o seu cachorro em uma noite?", "pt"),
        ("Wat is de hoofdstad van het land en hoe kan ik met mijn hond naar het park?", "nl"),
        ("Почему море солёное и откуда берётся соль?", "cyrillic"),
        ("为什么海水是咸的?", "zh"),
        ("海はなぜ塩辛いのですか", "ja"),
        ("바다는 왜 짠가요", "ko"),
    ],
)
def test_language_of_plain_sentences_is_found(text: str, expected: str) -> None:
    """A sentence of everyday words is recognised by its script or its small words."""
    assert language_of(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "   ", "12 + 30 = ?", "x^2 + 2xy - z", "print(foo)", "A. a\nB. e\nC. o\nD. a, e, o", "\ud800" * 20],
)
def test_language_of_little_evidence_is_unknown(text: str) -> None:
    """Formulas, code, option letters and broken text are no language."""
    assert language_of(text) == UNKNOWN


def test_language_of_english_with_foreign_words_stays_english() -> None:
    """Names and a quoted phrase do not turn an English prompt into another language."""
    assert language_of("What does the phrase 'la vie en rose' mean, and who was the singer of it?") == "en"
