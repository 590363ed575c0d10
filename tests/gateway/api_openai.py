#!/usr/bin/env python3
"""Answers and events of the API as OpenAI's own Python package types them; skipped (77) where it is not installed.

    api_openai.py API_LINES
"""
import json
import sys

import api

try:
    from openai.types import Completion, CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseStreamEvent
    from pydantic import TypeAdapter
except ImportError:
    print("skipped: the Python package openai is not installed")
    sys.exit(77)

EVENTS = TypeAdapter(ResponseStreamEvent)
FLAT = [{"type": "function", **t["function"], "strict": False} for t in api.TOOLS]


def check(model, value, extra=()):
    """As the package reads it, and strictly: no field of a wrong type, none unknown besides what servers commonly add."""
    parsed = model.model_validate(value, strict=False)
    unknown = set(parsed.model_extra or {}) - set(extra)
    assert not unknown, unknown
    return parsed


def chat():
    for body in ({}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"tools": api.TOOLS}):
        for text in ("Hello", api.FORMATS["hermes"], "<think>a</think>b"):
            out = api.chat(text, body, template=api.THINKS + "{# tools #}")
            parsed = check(ChatCompletion, out["answer"])
            for c in parsed.choices:
                assert not set(c.model_extra or {}) - {"stop_reason"}, c.model_extra
                assert not set(c.message.model_extra or {}) - {"reasoning", "reasoning_content"}, c.message.model_extra
            stream = api.chat(text, {**body, "stream": True, "stream_options": {"include_usage": True}}, template=api.THINKS + "{# tools #}")
            for chunk in api.chunks(stream["sse"]):
                check(ChatCompletionChunk, chunk)
    called = ChatCompletion.model_validate(api.chat(api.FORMATS["hermes"], {"tools": api.TOOLS})["answer"])
    api.equal(json.loads(called.choices[0].message.tool_calls[0].function.arguments)["n"], [1, {"a": None}])


def completions():
    for body in ({}, {"logprobs": 2, "echo": True}, {"n": 2}):
        out = api.ok("completions", {"prompt": ["a", "b"], **body}, answers=["xyz"])
        check(Completion, out["answer"])
        for chunk in api.chunks(api.ok("completions", {"prompt": "a", "stream": True, **body}, answers=["xyz"])["sse"]):
            for c in chunk["choices"]:
                c["finish_reason"] = c["finish_reason"] or "stop"  # OpenAI's own chunks have null here, which their type lacks
            check(Completion, chunk)


def responses():
    for body in ({}, {"tools": FLAT}, {"top_logprobs": 1}, {"instructions": "I", "max_output_tokens": 3, "metadata": {"a": "b"}, "user": "u"}):
        for text in ("Hello", "", "Well. " + api.FORMATS["hermes"], "<think>a</think>b"):
            line = {"answers": [text], "template": api.THINKS + "{# tools #}"}
            out = api.ok("responses", {"input": "hi", **body}, **line)
            parsed = check(Response, out["answer"], extra={"system_fingerprint", "store"})
            assert parsed.status in ("completed", "incomplete")
            seen = []
            for name, data in api.sse(api.ok("responses", {"input": "hi", "stream": True, **body}, **line)["sse"]):
                event = EVENTS.validate_python(json.loads(data))
                assert event.type == name and not (set(event.model_extra or {}) - {"name"}), event.model_extra
                seen.append(name)
            assert seen[0] == "response.created" and seen[-1] in ("response.completed", "response.incomplete"), seen
    failed = api.ok("responses", {"input": "x", "stream": True}, answers=["p"], finish=None, fail="gone")
    api.equal(EVENTS.validate_python(json.loads(api.sse(failed["sse"])[-1][1])).response.status, "failed")


def embeddings():
    out = api.ok("embeddings", {"input": ["a", "b"]}, dim=4, embedding=[1, 2, 3, 4])
    check(CreateEmbeddingResponse, out["answer"], extra={"id", "created"})


def main():
    api.L = api.Lines(sys.argv[1])
    for f in (chat, completions, responses, embeddings):
        f()
        print(f"ok    {f.__name__}")
    api.L.close()


if __name__ == "__main__":
    main()
