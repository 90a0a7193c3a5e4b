from __future__ import annotations

from proxy.engine.chat import ChatTokenizer
from proxy.engine.text import TextStream

BYTES = [bytes([value]) for value in range(256)]  # token i stands for byte i


def pieces(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(BYTES, stops)
    made = [stream.push(token) for token in text.encode()]
    return [*made, stream.finish()], stream.is_stopped


def test_a_character_of_several_tokens_comes_whole(chat: ChatTokenizer) -> None:
    stream = TextStream(chat.table)
    tokens = chat.encode("🦩!")
    assert len(tokens) > 2  # the flamingo is no token of its own
    assert [text for token in tokens if (text := stream.push(token))] == ["🦩", "!"]


def test_every_character_comes_as_soon_as_its_last_byte() -> None:
    assert pieces("aé😀")[0] == ["a", "", "é", "", "", "", "😀", ""]


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    stream = TextStream(BYTES)
    assert "".join(stream.push(token) for token in "ok😀".encode()[:-1]) + stream.finish() == "ok"


def test_bytes_that_are_no_utf8_become_the_replacement_character() -> None:
    stream = TextStream(BYTES)
    text = "".join(stream.push(token) for token in b"a\xffb") + stream.finish()
    assert text == "a\ufffdb"


def test_a_stop_string_over_several_tokens_never_shows() -> None:
    made, is_stopped = pieces("one END two", ("END",))
    assert "".join(made) == "one " and is_stopped


def test_the_start_of_a_stop_string_is_held_back_and_then_released() -> None:
    made, is_stopped = pieces("EN!", ("END",))
    assert made == ["", "", "EN!", ""] and not is_stopped


def test_the_start_of_a_stop_string_at_the_end_is_text() -> None:
    assert pieces("the EN", ("END",))[0][-1] == "EN"


def test_the_earliest_of_several_stop_strings_wins() -> None:
    assert "".join(pieces("a\n\nb.", (".", "\n\n"))[0]) == "a"
