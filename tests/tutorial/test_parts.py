"""What a transcript shows of each kind of content: calls, pictures, reasoning, refusals."""

import base64
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
)
from langchain_core.messages.tool import tool_call

from html_page import Page
from memorystore_tutorial import _parts, transcript

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
GIF = base64.b64encode(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0 and so on").decode()
WEBP = base64.b64encode(b"RIFF\x10\x00\x00\x00WEBPVP8 ").decode()
SVG = base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>').decode()


def plain(*messages: BaseMessage) -> str:
    return str(transcript(messages))


def page(*messages: BaseMessage) -> Page:
    return Page(transcript(messages))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
BLOCKS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "thinking", "tool_use", *_parts._MEDIA]) | JSON,
        **dict.fromkeys(["text", "url", "data", "base64", "source", "mime_type", "extras"], JSON),
        **dict.fromkeys(["image_url", "input_audio", "file", "reasoning"], JSON),
    },
)


@settings(max_examples=150, deadline=None)
@given(content=st.lists(st.text(max_size=20) | BLOCKS, max_size=4))
def test_any_content_block_can_be_shown(content: list[Any]) -> None:
    assert plain(AIMessage(content))
    assert page(AIMessage(content)).text.startswith("AI")


def test_tool_calls_are_folded_with_their_arguments() -> None:
    found = page(
        AIMessage(
            "",
            tool_calls=[
                {"name": "short", "args": {"city": "Köln"}, "id": "1"},
                {"name": "long", "args": {"query": "q" * 60, "limit": 3}, "id": "2"},
            ],
        )
    )
    assert found.summaries == ["Tool call: short", "Tool call: long"]
    assert found.folded == (
        '{"city": "Köln"}' + '{\n  "query": "' + "q" * 60 + '",\n  "limit": 3\n}'
    )


def test_a_broken_tool_call_shows_what_the_model_wrote() -> None:
    bad = {"name": "t", "args": '{"city', "id": "1", "error": "cut", "type": "invalid_tool_call"}
    found = page(AIMessage("", invalid_tool_calls=[bad]))
    assert found.summaries == ["Invalid tool call: t"]
    assert found.folded == '{"city\ncut'


def test_a_call_is_shown_once() -> None:
    """Anthropic repeats calls inside the content; without tool_calls they are all there is."""
    block: dict[str, Any] = {"type": "tool_use", "id": "1", "name": "t", "input": {}}
    call = tool_call(name="t", args={}, id="1")
    assert page(AIMessage(["Hm.", block], tool_calls=[call])).summaries == ["Tool call: t"]
    assert page(HumanMessage([block])).summaries == ["Block: tool_use"]


def test_arguments_that_json_cannot_hold() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    args: list[dict[str, Any]] = [
        {"a": object()},
        {"b": {"y", "x"}},
        {"c": Decimal("1.5")},
        {"d": {(1, 2): 3}},
        loop,
    ]
    message = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": str(n)} for n in range(5)])
    for call, value in zip(message.tool_calls, args, strict=True):
        call["args"] = value
    assert page(message).folded == (
        """{"a": "<object>"}{"b": ["x", "y"]}{"c": "Decimal('1.5')"}"""
        "dict that cannot be written as JSON"
        "dict that cannot be written as JSON"
    )


def test_reasoning_is_folded() -> None:
    found = page(
        AIMessage(
            [
                {"type": "reasoning", "reasoning": "so"},
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "reasoning", "summary": []},
                {"type": "text", "text": "Yes."},
            ]
        )
    )
    assert found.summaries == ["Reasoning"] * 3
    assert found.folded == 'sohm{"type": "reasoning", "summary": []}'


@pytest.mark.parametrize(
    ("kind", "data"), [("png", PNG), ("gif", GIF), ("jpeg", JPEG), ("webp", WEBP)]
)
def test_images_inside_the_message_are_shown(kind: str, data: str) -> None:
    mime, raw = f"image/{kind}", base64.b64decode(data)
    source = {"type": "base64", "media_type": mime, "data": data}
    blocks: list[str | dict[Any, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{data}"}},  # OpenAI
        {"type": "image", "base64": data, "mime_type": mime},  # LangChain
        {"type": "image", "source": source},  # Anthropic
        {"type": "media", "mime_type": mime, "data": data},  # Google
        {"type": "media", "mime_type": mime, "data": raw},
    ]
    label = f"Image, {mime}, {len(raw)} bytes"
    for image in page(HumanMessage(blocks)).images:
        assert (image["src"], image["alt"]) == (f"data:{mime};base64,{data}", label)
    lines = [f"[{label}]"] * len(blocks)
    assert plain(HumanMessage(blocks)).split() == " ".join(["Human", *lines]).split()
    assert len(page(HumanMessage(blocks)).images) == len(blocks)


def test_pictures_leave_room_for_what_stands_beside_them() -> None:
    data = base64.b64encode(base64.b64decode(PNG).ljust(200_000, b"\0")).decode()
    picture = {"type": "image", "base64": data, "mime_type": "image/png"}
    found = page(HumanMessage(["These two:", picture, picture, "Which is older?"]))
    assert len(found.images) == 2
    assert found.text.endswith("Which is older?")


@pytest.mark.parametrize(
    ("block", "label"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            "Image, not loaded: https://example.com/a.png",
        ),
        (
            {"type": "image_url", "image_url": "//example.com/a.png"},
            "Image, not loaded: //example.com/a.png",
        ),
        (
            {"type": "image", "base64": SVG, "mime_type": "image/svg+xml"},
            "Image, image/svg+xml, 59 bytes, not shown: no PNG, JPEG, GIF or WebP data",
        ),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SVG}"}},
            "Image, image/png, 59 bytes, not shown: no PNG, JPEG, GIF or WebP data",
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml,<svg onload=a()>"}},
            "Image, not loaded: data:image/svg+xml,<svg onload=a()>",
        ),
        (
            {"type": "image", "base64": f'{PNG}" onerror="alert(1)', "mime_type": "image/png"},
            "Image, image/png, 86 bytes, not shown: no PNG, JPEG, GIF or WebP data",
        ),
        (
            {"type": "image", "base64": PNG + "A" * 400_000, "mime_type": "image/png"},
            "Image, image/png, 300,072 bytes, too large to show here",
        ),
        ({"type": "image", "file_id": "f1"}, "Image"),
    ],
)
def test_other_images_are_named(block: dict[str, Any], label: str) -> None:
    found = page(HumanMessage([block]))
    assert found.images == []
    assert found.text == f"Human {label}"


@pytest.mark.parametrize(
    ("block", "label"),
    [
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            "Audio, wav, 3 bytes",
        ),
        ({"type": "media", "mime_type": "video/mp4", "data": "AAAA"}, "Video, video/mp4, 3 bytes"),
        (
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAA="},
            },
            "File, a.pdf, application/pdf, 2 bytes",
        ),
        (
            {"type": "file", "url": "https://example.com/a", "extras": {"filename": "a.pdf"}},
            "File, a.pdf, not loaded: https://example.com/a",
        ),
    ],
)
def test_audio_video_and_files_are_named(block: dict[str, Any], label: str) -> None:
    assert plain(HumanMessage([block])) == f"Human  [{label}]"


def test_unknown_blocks_are_folded() -> None:
    found = page(HumanMessage([{"type": "hologram", "z": 1}, {"z": 2}]))
    assert found.summaries == ["Block: hologram", "Block: no type"]
    assert found.folded == '{"type": "hologram", "z": 1}{"z": 2}'


# What stands beside the content, and how an answer ended


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (AIMessage("", additional_kwargs={"refusal": "I can't."}), "[Refusal] I can't."),
        (AIMessage([{"type": "refusal", "refusal": "I can't."}]), "[Refusal] I can't."),
        (
            AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": "{}"}}),
            "[Function call: f] {}",
        ),
        (
            AIMessage("", additional_kwargs={"audio": {"data": "AAAA", "transcript": "Hello."}}),
            "[Audio, 3 bytes] Hello.",
        ),
        (
            AIMessage("Yes.", additional_kwargs={"reasoning_content": "Hm."}),
            "Yes.\n    [Reasoning] Hm.",
        ),
        (
            AIMessage("", response_metadata={"finish_reason": "MAX_TOKENS"}),
            "[empty, finish reason: MAX_TOKENS]",
        ),
        (
            AIMessage("Half", response_metadata={"finish_reason": "SAFETY"}),
            "Half\n    [finish reason: SAFETY]",
        ),
        (
            AIMessage("", response_metadata={"prompt_feedback": {"block_reason": "OTHER"}}),
            "[empty, block reason: OTHER]",
        ),
        (
            AIMessage("", response_metadata={"is_blocked": True, "finish_reason": "STOP"}),
            "[empty, blocked]",
        ),
        (
            AIMessage("Ha", response_metadata={"incomplete_details": {"reason": "content_filter"}}),
            "Ha\n    [reason: content_filter]",
        ),
        (AIMessage("Ha", response_metadata={"stop_reason": "max_tokens"}),
         "Ha\n    [stop reason: max_tokens]"),
        (AIMessage("Ha", response_metadata={"finish_reason": "STOP"}), "Ha"),
        (AIMessage([]), "[empty]"),
        (AIMessage("", response_metadata={"stop_reason": "end_turn"}), "[empty]"),
    ],
)  # fmt: skip
def test_an_answer_without_text_shows_what_there_is(message: AIMessage, shown: str) -> None:
    assert plain(message) == f"AI  {shown}"
    found = page(message)
    for word in re.findall(r"\w+", shown):
        assert word in found.text


def test_a_function_call_is_shown_once() -> None:
    """Gemini's client keeps a call twice: as a tool call and in the old place."""
    old = {"function_call": {"name": "f", "arguments": "{}"}}
    calls = [{"name": "f", "args": {}, "id": "1"}]
    message = AIMessage("", additional_kwargs=old, tool_calls=calls)
    assert page(message).summaries == ["Tool call: f"]


@pytest.mark.parametrize(
    "value",
    [
        {str(n): n for n in range(1_000_000)},
        list(range(1_000_000)),
        [[0] * 1_000 for _ in range(1_000)],
        {"x": {"y": set(range(100_000))}},
    ],
    ids=["keys", "elements", "nested", "set"],
)
def test_a_huge_argument_is_bounded_before_it_is_written(value: Any) -> None:
    assert len(_parts._json(value)) < 100_000
    message = AIMessage("", tool_calls=[{"name": "t", "args": {"x": value}, "id": "1"}])
    shown = page(message)
    assert len(shown.html) < 60_000
    assert shown.text.endswith("more characters are not shown.")


def test_of_a_million_blocks_the_first_are_looked_at() -> None:
    message = AIMessage(["x"] * 1_000_000)
    assert page(message).text.endswith("More parts are not shown.")
    assert plain(message).endswith("[More parts are not shown]")
