from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.semantic_guard import guard, marked

KEY = b"key"

# cosine by all-MiniLM-L6-v2 up to 0.995, and another answer
DIFFERENT = [
    ("numbers", "Convert 100 USD to EUR", "Convert 1000 USD to EUR"),
    ("numbers", "Convert USD to EUR", "Convert EUR to USD"),
    ("numbers", "Who won the 2018 World Cup?", "Who won the 2022 World Cup?"),
    ("numbers", "What was revenue in Q3 2024?", "What was revenue in Q3 2025?"),
    ("numbers", "What can I get for $5?", "What can I get for €5?"),
    ("numbers", "Give me two examples", "Give me three examples"),
    ("numbers", "Is version 1.2 supported?", "Is version 1.3 supported?"),
    ("numbers", "What is order A-17 about?", "What is order A-18 about?"),
    ("dates", "What is open on Monday?", "What is open on Tuesday?"),
    ("dates", "Translate to German: good morning", "Translate to German: good evening"),
    ("dates", "What did I spend last month?", "What did I spend this month?"),
    ("names", "What's our refund window for EU orders?", "What's our refund window for US orders?"),
    ("names", "How do I get from Oslo to Rome?", "How do I get from Rome to Oslo?"),
    ("names", "Is Ann on the team?", "Is Bob on the team?"),
    ("names", "Ann wants to know her balance", "Bob wants to know her balance"),
    ("names", "what is the capital of france", "what is the capital of germany"),
    ("negation", "Is it safe to take it with aspirin?", "Is it not safe to take it with aspirin?"),
    ("negation", "Why does it work?", "Why doesn't it work?"),
    ("negation", "coffee with milk please", "coffee without milk please"),
    ("opposites", "How do I enable two-factor login?", "How do I disable two-factor login?"),
    ("opposites", "Delete all rows older than this", "Delete all rows newer than this"),
    ("opposites", "Which one is the cheapest? Buy it", "Which one is the cheapest? Sell it"),
    ("opposites", "How do I turn on the alarm?", "How do I turn off the alarm?"),
    ("opposites", "Is a > b?", "Is a < b?"),
]
SAME = [
    ("How do I reset my password?", "I forgot my password, what now?"),
    ("What is the capital of France?", "Which city is France's capital?"),
    ("Summarise the plot of Hamlet", "Give me a short summary of Hamlet"),
    ("Can I pay with 2,000 dollars?", "is it possible to pay with 2000 USD"),
    ("It doesn't work", "it does not work"),
    ("It can’t be right", "IT CANNOT BE RIGHT"),
    ("Please delete my account", "please remove my account"),
    ("I'm waiting. My card is late", "my card is late, I am waiting"),
    ("is Visa, yes Visa, taken?", "is Visa taken?"),
]


@pytest.mark.parametrize(("kind", "one", "other"), DIFFERENT)
def test_texts_that_differ_in_what_an_answer_hangs_on_do_not_fit(kind: str, one: str, other: str) -> None:
    assert guard(one, KEY).difference(guard(other, KEY)) == kind


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_that_say_the_same_in_other_words_fit(one: str, other: str) -> None:
    assert guard(one, KEY).difference(guard(other, KEY)) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Was ist das denn eigentlich genau", "language"),
        ("Wie kann ich mein Passwort zurücksetzen", "language"),
        ("パスワードを忘れました", "script"),
        ("Как сбросить пароль", "script"),
        ("12 + 30 =", "no words"),
        ("", "no words"),
    ],
)
def test_a_text_that_the_rules_cannot_read_fits_none_not_even_itself(text: str, why: str) -> None:
    assert guard(text, KEY).difference(guard(text, KEY)) == why


def test_a_guard_holds_no_word_of_the_text_and_needs_the_key_to_be_guessed() -> None:
    made = guard("Is Ann paid 4000 on Monday?", KEY)
    assert all(len(digest) in (0, 8) for digest in made.digests)
    assert made.difference(guard("Is Ann paid 4000 on Monday?", b"other")) == "numbers"


def test_what_is_guarded_is_told_in_the_order_of_the_text() -> None:
    found = list(marked("Send 20 euros to Ann, not Bob, before Friday"))
    assert found == [
        ("opposites", "send"),
        ("numbers", "20"),
        ("numbers", "eur"),
        ("names", "ann"),
        ("negation", "not"),
        ("names", "bob"),
        ("opposites", "before"),
        ("dates", "friday"),
    ]


@given(st.text(max_size=60), st.integers(0, 99), st.integers(0, 99))
def test_two_different_numbers_never_fit(text: str, one: int, other: int) -> None:
    difference = guard(f"the {text} {one}", KEY).difference(guard(f"the {text} {other}", KEY))
    assert difference != "" if one != other else difference in ("", "script", "language", "no words")
