#!/usr/bin/env python3
"""The OpenAI client from PyPI drives every route that it knows, streaming and not, on a real replica of a tiny checkpoint.

    gateway_openai.py --trireme BIN --model DIR
"""
import argparse
import asyncio
import json
import subprocess
import sys
import tempfile

import serving
from serving import Serving, get

try:
    import openai
except ImportError:
    print("skipped: the Python package openai is not installed")
    sys.exit(77)

MESSAGES = [{"role": "user", "content": "Hello there"}]
TOOL = {"type": "function", "function": {"name": "w", "parameters": {"type": "object", "properties": {"c": {"enum": ["a", "b"]}}, "required": ["c"]}}}
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["ok", "n"], "additionalProperties": False}


def test_models(c, report):
    models = c.models.list().data
    report.check(len(models) == 1 and models[0].max_model_len > 0, f"models: {models}")
    report.check(c.models.retrieve(models[0].id).id == models[0].id, "one model by its name")
    return models[0].id


def test_completions(c, model, report):
    whole = c.completions.create(model=model, prompt="Once upon", max_tokens=8, seed=1, temperature=0, extra_body={"ignore_eos": True})
    parts = list(c.completions.create(model=model, prompt="Once upon", max_tokens=8, seed=1, temperature=0, stream=True, stream_options={"include_usage": True},
                                      extra_body={"ignore_eos": True}))
    report.check(whole.usage.completion_tokens == 8 and whole.choices[0].finish_reason == "length", f"completion: {whole}")
    report.check("".join(p.choices[0].text for p in parts if p.choices) == whole.choices[0].text, "a streamed completion is the whole one")
    report.check(parts[-1].usage is not None and parts[-1].usage.completion_tokens == 8, "usage at the stream's end")
    report.check(whole.system_fingerprint and whole.system_fingerprint.startswith("fp_"), f"fingerprint {whole.system_fingerprint}")
    many = c.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=3, seed=5, temperature=1, logprobs=2, echo=True)
    report.check([x.index for x in many.choices] == [0, 1, 2, 3] and many.choices[2].text.startswith("b"), f"lists and n: {many}")
    report.check(all(x.logprobs and len(x.logprobs.tokens) >= 3 for x in many.choices), "logprobs")


def test_chat(c, model, report):
    whole = c.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=8, seed=1, temperature=0, logprobs=True, top_logprobs=3)
    parts = list(c.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=8, seed=1, temperature=0, stream=True))
    report.check(whole.choices[0].message.role == "assistant" and whole.choices[0].logprobs.content, f"chat: {whole}")
    report.check("".join(p.choices[0].delta.content or "" for p in parts if p.choices) == (whole.choices[0].message.content or ""), "a streamed chat is the whole one")


def test_structured(c, model, report):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    got = c.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=60, seed=3, response_format=schema)
    value = json.loads(got.choices[0].message.content)
    report.check(isinstance(value["ok"], bool) and 0 <= value["n"] <= 99, f"schema: {got.choices[0].message.content}")
    got = c.chat.completions.create(model=model, messages=MESSAGES, tools=[TOOL], tool_choice="required", max_completion_tokens=60, seed=3)
    calls = got.choices[0].message.tool_calls
    report.check(bool(calls) and calls[0].function.name == "w" and json.loads(calls[0].function.arguments)["c"] in ("a", "b"), f"tools: {got}")


def test_responses(c, model, report):
    whole = c.responses.create(model=model, input="Hello", max_output_tokens=8, temperature=0)
    report.check(whole.status in ("completed", "incomplete") and whole.usage.output_tokens > 0, f"response: {whole}")
    report.check(c.responses.retrieve(whole.id).id == whole.id, "a response kept")
    events = list(c.responses.create(model=model, input="Hello", max_output_tokens=8, temperature=0, stream=True))
    report.check(events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete"), f"stream: {[e.type for e in events]}")
    report.check("".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text, "a streamed response is the whole one")
    more = c.responses.create(model=model, input="And?", previous_response_id=whole.id, max_output_tokens=4)
    report.check(more.usage.input_tokens > whole.usage.input_tokens, f"a conversation goes on: {more.usage}")


def test_embeddings(c, model, report):
    one = c.embeddings.create(model=model, input="Hello", encoding_format="float").data[0].embedding
    two = c.embeddings.create(model=model, input=["Hello", "World"]).data
    report.check(len(one) > 0 and len(two) == 2, "embeddings")
    report.check(all(abs(x - y) < 1e-5 for x, y in zip(one, two[0].embedding)) and one != two[1].embedding, "the same text, the same vector")


def refused(call, kind, report, what):
    try:
        call()
    except kind:
        report.check(True, what)
        return
    except openai.OpenAIError as e:
        report.check(False, f"{what}: {type(e).__name__} {e}")
        return
    report.check(False, f"{what}: it was taken")


def test_refusals(c, model, report, port):
    refused(lambda: c.completions.create(model="none", prompt="a"), openai.NotFoundError, report, "an unknown model is a NotFoundError")
    refused(lambda: c.completions.create(model=model, prompt="a", max_tokens=-1), openai.BadRequestError, report, "a wrong field is a BadRequestError")
    refused(lambda: c.chat.completions.create(model=model, messages=MESSAGES, extra_body={"no_such_field": 1}), openai.BadRequestError, report, "an unknown field, too")
    wrong = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-wrong", max_retries=0)
    refused(wrong.models.list, openai.AuthenticationError, report, "a wrong key is an AuthenticationError")


def make_key(trireme, path):
    said = subprocess.run([trireme, "apikey", "add", path, "test"], capture_output=True, text=True, check=True)
    return said.stdout.split()[-1]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    a = p.parse_args()
    report, keys = serving.Report(), []
    with tempfile.TemporaryDirectory() as folder, Serving(a.trireme, options=["--api-keys", f"{folder}/keys"], before=lambda: keys.append(make_key(a.trireme, f"{folder}/keys"))) as s:
        # Tools take some hundreds of tokens in so small a vocabulary.
        s.start_replica("a", serving.stretched(a.model, folder, 1024))
        s.api_key = keys[0]
        s.wait_ready()
        c = openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key=keys[0], max_retries=0, timeout=60)
        model = test_models(c, report)
        for test in (test_completions, test_chat, test_structured, test_responses, test_embeddings):
            try:
                test(c, model, report)
            except openai.BadRequestError as e:
                if "takes no grammars" in str(e):
                    report.skip(test.__name__, "the replica takes no grammars")
                else:
                    report.check(False, f"{test.__name__}: {e}")
            except Exception as e:  # the other routes are tried all the same
                report.check(False, f"{test.__name__}: {type(e).__name__}: {e}")
        test_refusals(c, model, report, s.port)
        metrics = asyncio.run(get(s.port, "/metrics"))[2]
        report.check("trireme:time_to_first_token_seconds_bucket" in metrics, "metrics")
    report.end()


if __name__ == "__main__":
    main()
