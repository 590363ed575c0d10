#!/usr/bin/env python3
"""The OpenAI client from PyPI drives every route, streaming and not, on real replicas of tiny checkpoints.

    gateway_openai.py --trireme BIN --model DIR [--only NAME,...]
"""
import argparse
import asyncio
import base64
import json
import math
import struct
import subprocess
import sys
import tempfile
from typing import Literal

import serving
from serving import Serving

try:
    import openai
    from pydantic import BaseModel
except ImportError:
    print("skipped: the Python package openai is not installed")
    sys.exit(77)

MESSAGES = [{"role": "user", "content": "Hello there"}]
TOOL = {"type": "function", "function": {"name": "w", "parameters": {"type": "object", "properties": {"c": {"enum": ["a", "b"]}}, "required": ["c"]}}}
FLAT_TOOL = {"type": "function", **TOOL["function"], "strict": False}
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["ok", "n"], "additionalProperties": False}
CALLER = "caller"  # the second model: its answer is always this one
THOUGHT, SAID = "It is asked for a and b.", "Let me see."
CALLS = ['{"name": "w", "arguments": {"c": "a"}}', '{"name": "w", "arguments": {"c": "b"}}']
SPOKEN = ["<think>", THOUGHT, "</think>", SAID, "<tool_call>\n" + CALLS[0][:9], CALLS[0][9:30], CALLS[0][30:] + "\n</tool_call>\n", "<tool_call>\n" + CALLS[1], "\n</tool_call>"]


class Verdict(BaseModel):
    ok: bool
    kind: Literal["sea", "land"]


class Service:
    """What a test needs: the client, the names served, the report."""

    def __init__(self, serving_, keys, model, report):
        self.url = f"http://127.0.0.1:{serving_.port}"
        self.keys, self.model, self.report = keys, model, report
        self.c = self.client("user")

    def client(self, key, kind=openai.OpenAI):
        return kind(base_url=f"{self.url}/v1", api_key=self.keys.get(key, key), max_retries=0, timeout=60)

    def check(self, ok, what):
        return self.report.check(ok, what)

    def equal(self, got, want, what):
        return self.report.check(got == want, f"{what}: got {got!r}, want {want!r}")

    def refused(self, call, kind, what, param=None, code=None):
        """The client raises this kind of error, which names the field."""
        try:
            got = call()
        except kind as e:
            self.check((param is None or e.param == param) and (code is None or e.code == code), f"{what}: param {e.param}, code {e.code}: {e}")
            return self.check(bool(e.message and e.type), f"{what}: a message and a type: {e.body}") and e
        except openai.OpenAIError as e:
            return self.check(False, f"{what}: {type(e).__name__} {e}")
        return self.check(False, f"{what}: it was taken: {got}")


def by_choice(chunks, text):
    """Streamed text of each choice."""
    out = {}
    for chunk in chunks:
        for c in chunk.choices:
            out[c.index] = out.get(c.index, "") + (text(c) or "")
    return [out[i] for i in sorted(out)]


def finish_reasons(chunks):
    return {c.index: c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason}


# ---- models and the server's own routes ----

def test_models(s):
    models = {m.id: m for m in s.c.models.list().data}
    s.equal(set(models), {s.model, CALLER}, "the models served")
    s.check(all(m.object == "model" and m.owned_by and m.created > 0 and m.max_model_len > 0 for m in models.values()), f"model cards: {models}")
    s.equal(s.c.models.retrieve(s.model).id, s.model, "one model by its name")
    s.refused(lambda: s.c.models.retrieve("none"), openai.NotFoundError, "a model that is not there", code="model_not_found")


def test_server(s):
    root = s.c.with_options(base_url=s.url)
    s.check(root.get("/health", cast_to=object)["status"] == "ok", "health")
    s.equal(root.get("/ping", cast_to=object), {}, "ping")
    s.equal(root.post("/ping", cast_to=object), {}, "ping by POST")
    s.check(root.get("/version", cast_to=object)["version"], "version")
    s.check(isinstance(root.get("/load", cast_to=object), dict), "load")
    greedy(s)
    s.check(f'trireme:time_to_first_token_seconds_bucket{{model_name="{s.model}"' in root.get("/metrics", cast_to=str), "metrics")
    got = root.post("/tokenize", cast_to=object, body={"model": s.model, "prompt": "Hello World", "return_token_strs": True})
    s.check(got["count"] == len(got["tokens"]) == len(got["token_strs"]) > 0 and got["max_model_len"] > 0, f"tokenize: {got}")
    back = root.post("/detokenize", cast_to=object, body={"model": s.model, "tokens": got["tokens"]})
    s.check(back["prompt"].endswith("Hello World"), f"detokenize: {back}")
    chat = root.post("/tokenize", cast_to=object, body={"model": s.model, "messages": MESSAGES})
    s.check(chat["count"] > got["count"] / 2 and len(chat["tokens"]) == chat["count"], f"tokenize a conversation: {chat}")
    for route in ("load_lora_adapter", "unload_lora_adapter"):
        body = {"lora_name": "x", "lora_path": "/nowhere"}
        s.refused(lambda: s.c.post(f"/{route}", cast_to=object, body=body), openai.PermissionDeniedError, f"{route} without an admin's key")
        e = s.refused(lambda: s.client("admin").post(f"/{route}", cast_to=object, body=body), openai.InternalServerError, f"{route} is not there yet")
        s.check(e and e.status_code == 501, f"{route}: status {e and e.status_code}")


# ---- completions ----

def greedy(s, **more):
    return s.c.completions.create(**{"model": s.model, "prompt": "Once upon", "max_tokens": 24, "temperature": 0, "extra_body": {"ignore_eos": True}, **more})


def test_completions(s):
    whole, chunks = greedy(s), list(greedy(s, stream=True, stream_options={"include_usage": True}))
    s.check(whole.id.startswith("cmpl-") and whole.object == "text_completion" and whole.model == s.model and whole._request_id, f"head: {whole}")
    s.check(whole.usage.completion_tokens == 24 and whole.usage.total_tokens == whole.usage.prompt_tokens + 24, f"usage: {whole.usage}")
    s.check(whole.choices[0].finish_reason == "length" and whole.system_fingerprint.startswith("fp_"), f"completion: {whole}")
    s.equal(by_choice(chunks, lambda c: c.text), [whole.choices[0].text], "a streamed completion is the whole one")
    s.check(len(chunks) > 3 and len({c.id for c in chunks}) == 1, f"a stream comes in pieces: {len(chunks)}")
    s.equal(finish_reasons(chunks), {0: "length"}, "a stream's finish reason")
    s.check(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24 and all(c.usage is None for c in chunks[:-1]), "usage at the stream's end, only there")
    more = list(greedy(s, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    s.check(all(c.usage is not None for c in more) and more[0].usage.completion_tokens < 24, "usage in every chunk")
    s.check(all(c.usage is None for c in greedy(s, stream=True)), "usage that nobody asked for")
    by_id = greedy(s, prompt=s.c.with_options(base_url=s.url).post("/tokenize", cast_to=object, body={"model": s.model, "prompt": "Once upon"})["tokens"])
    s.equal(by_id.choices[0].text, whole.choices[0].text, "a prompt of token ids")


def test_completion_lists(s):
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 6, "seed": 5, "temperature": 1, "echo": True}
    many = greedy(s, **body)
    s.equal([x.index for x in many.choices], [0, 1, 2, 3], "prompts times n")
    s.check([x.text[0] for x in many.choices] == ["a", "a", "b", "b"] and many.choices[0].text != many.choices[1].text, f"echo, and choices that differ: {many}")
    s.equal(many.usage.completion_tokens, 24, "tokens of all choices")
    s.equal(by_choice(greedy(s, **body, stream=True), lambda c: c.text), [x.text for x in many.choices], "lists and n, streamed")
    ids = greedy(s, prompt=[[5, 6, 7], [8]], max_tokens=2)
    s.equal(len(ids.choices), 2, "lists of token ids")


def test_completion_logprobs(s):
    whole = greedy(s, logprobs=2, echo=True, max_tokens=5)
    lp = whole.choices[0].logprobs
    n = whole.usage.total_tokens
    s.check(len(lp.tokens) == len(lp.token_logprobs) == len(lp.text_offset) == len(lp.top_logprobs) == n, f"logprobs of prompt and answer: {lp}")
    s.check(lp.token_logprobs[0] is None and all(x <= 0 for x in lp.token_logprobs[1:]), f"log-probabilities: {lp.token_logprobs}")
    s.check(all(top[t] == max(top.values()) for t, top in zip(lp.tokens[-5:], lp.top_logprobs[-5:])), f"greedy takes the likeliest: {lp}")
    plain = greedy(s, logprobs=2, max_tokens=5).choices[0].logprobs
    s.equal(plain.tokens, lp.tokens[-5:], "logprobs without echo")
    chunks = [c.logprobs for x in greedy(s, logprobs=2, max_tokens=5, stream=True) for c in x.choices if c.logprobs]
    s.equal(([t for x in chunks for t in x.tokens], [v for x in chunks for v in x.token_logprobs]), (plain.tokens, plain.token_logprobs), "streamed logprobs")


def test_stop(s):
    text = greedy(s).choices[0].text
    word = text[len(text) // 2:][:3]
    want = text[:text.find(word)]
    whole = greedy(s, stop=[word, "\x01never"])
    s.equal((whole.choices[0].text, whole.choices[0].finish_reason), (want, "stop"), "up to the stop string")
    s.equal(whole.choices[0].stop_reason, word, "which stop string it was")
    chunks = list(greedy(s, stop=word, stream=True))
    s.equal((by_choice(chunks, lambda c: c.text), finish_reasons(chunks)), ([want], {0: "stop"}), "no more of a stop string is streamed")
    kept = greedy(s, stop=word, extra_body={"ignore_eos": True, "include_stop_str_in_output": True})
    s.equal(kept.choices[0].text, want + word, "the stop string kept")


# ---- chat ----

def chat(s, **more):
    return s.c.chat.completions.create(**{"model": s.model, "messages": MESSAGES, "max_completion_tokens": 12, "temperature": 0, **more})


def test_chat(s):
    whole, chunks = chat(s), list(chat(s, stream=True, stream_options={"include_usage": True}))
    message = whole.choices[0].message
    s.check(whole.id.startswith("chatcmpl-") and whole.object == "chat.completion" and message.role == "assistant" and message.content, f"chat: {whole}")
    s.check(whole.usage.prompt_tokens > 0 and 0 < whole.usage.completion_tokens <= 12, f"usage: {whole.usage}")
    s.equal(by_choice(chunks, lambda c: c.delta.content), [message.content], "a streamed chat is the whole one")
    s.equal(chunks[0].choices[0].delta.role, "assistant", "the role comes first")
    s.check(all(c.object == "chat.completion.chunk" for c in chunks), "chunks")
    s.equal(finish_reasons(chunks), {0: whole.choices[0].finish_reason}, "a stream's finish reason")
    s.equal((chunks[-1].choices, chunks[-1].usage.total_tokens), ([], whole.usage.total_tokens), "usage at the stream's end")
    parts = chat(s, messages=[{"role": "user", "content": [{"type": "text", "text": "Hello there"}]}], max_completion_tokens=None, max_tokens=12)
    s.equal(parts.choices[0].message.content, message.content, "content in parts, max_tokens")
    body = {"n": 3, "seed": 7, "temperature": 1}
    many = [x.message.content for x in chat(s, **body).choices]
    s.check(len(many) == 3 and len(set(many)) > 1, f"n choices that differ: {many}")
    s.equal(by_choice(chat(s, **body, stream=True), lambda c: c.delta.content), many, "n choices, streamed; the same seed, the same answer")
    s.check(chat(s, **{**body, "seed": 8}).choices[0].message.content != many[0], "another seed, another answer")


def test_chat_logprobs(s):
    whole = chat(s, logprobs=True, top_logprobs=3)
    entries = whole.choices[0].logprobs.content
    s.equal(len(entries), whole.usage.completion_tokens, "one for each token")
    s.check(all(len(x.top_logprobs) == 3 and x.logprob <= 0 and x.top_logprobs[0].logprob == x.logprob for x in entries), f"greedy takes the likeliest: {entries}")
    said = b"".join(bytes(x.bytes) for x in entries).decode(errors="replace")
    s.check(said.startswith(whole.choices[0].message.content), f"bytes of the tokens: {said!r}")
    got = [x for c in chat(s, logprobs=True, top_logprobs=3, stream=True) for x in (c.choices[0].logprobs.content if c.choices and c.choices[0].logprobs else [])]
    s.equal(got, entries, "streamed log-probabilities")


def test_schema(s):
    body = {"seed": 3, "temperature": 1, "max_completion_tokens": 80,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}}
    got = chat(s, **body).choices[0]
    value = json.loads(got.message.content)
    s.check(got.finish_reason == "stop" and set(value) == {"ok", "n"} and isinstance(value["ok"], bool) and 0 <= value["n"] <= 99, f"schema: {got.message.content}")
    s.equal(by_choice(chat(s, **body, stream=True), lambda c: c.delta.content), [got.message.content], "a streamed answer of a schema")
    parsed = s.c.chat.completions.parse(model=s.model, messages=MESSAGES, response_format=Verdict, seed=1, max_completion_tokens=80).choices[0].message.parsed
    s.check(isinstance(parsed, Verdict), f"a pydantic model: {parsed}")
    with s.c.chat.completions.stream(model=s.model, messages=MESSAGES, response_format=Verdict, seed=1, max_completion_tokens=80) as stream:
        kinds = {e.type for e in stream}
        s.equal(stream.get_final_completion().choices[0].message.parsed, parsed, "the client's stream helper")
    s.check({"chunk", "content.delta", "content.done"} <= kinds, f"its events: {kinds}")
    got = chat(s, seed=5, temperature=1, max_completion_tokens=300, response_format={"type": "json_object"}).choices[0]
    s.check(got.message.content.startswith("{") and (got.finish_reason == "length" or isinstance(json.loads(got.message.content), dict)), f"a JSON object: {got}")
    for form, want in (({"choice": ["port", "starboard"]}, lambda t: t in ("port", "starboard")), ({"regex": "[ab]{3}-[0-9]"}, lambda t: len(t) == 5 and t[3] == "-"),
                       ({"grammar": 'root ::= "aye" | "nay"'}, lambda t: t in ("aye", "nay"))):
        text = chat(s, temperature=1, seed=2, max_completion_tokens=40, extra_body={"structured_outputs": form}).choices[0].message.content
        s.check(want(text), f"{form}: {text!r}")
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "none"}}}
    s.refused(lambda: chat(s, response_format=bad), openai.BadRequestError, "a schema that is none", param="response_format")


# ---- tools ----

def calls_of(chunks):
    """Streamed calls put together: {index: [id, name, arguments]}."""
    out = {}
    for chunk in chunks:
        for t in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            call = out.setdefault(t.index, [t.id, t.function.name, ""])
            call[2] += t.function.arguments or ""
    return out


def same_calls(s, calls, chunks, what):
    s.equal([x[1:] for _, x in sorted(calls_of(chunks).items())], [[x.function.name, x.function.arguments] for x in calls], f"{what}, streamed")
    s.check(all(x[0] for x in calls_of(chunks).values()), f"{what}: ids of streamed calls: {calls_of(chunks)}")


def test_forced_tools(s):
    for what, choice in (("required", "required"), ("named", {"type": "function", "function": {"name": "w"}})):
        body = {"tools": [TOOL], "tool_choice": choice, "seed": 3, "temperature": 1, "max_completion_tokens": 200}
        got = chat(s, **body, parallel_tool_calls=False).choices[0]
        calls = got.message.tool_calls
        s.check(calls and len(calls) == 1 and calls[0].id and calls[0].type == "function" and calls[0].function.name == "w", f"{what}: {got}")
        s.check(json.loads(calls[0].function.arguments)["c"] in ("a", "b") and not got.message.content, f"{what}: {calls}")
        s.check(got.finish_reason in ("tool_calls", "stop"), f"{what}: finish reason {got.finish_reason}")
        chunks = list(chat(s, **body, parallel_tool_calls=False, stream=True))
        same_calls(s, calls, chunks, what)
        s.equal(finish_reasons(chunks), {0: got.finish_reason}, f"{what}: a stream's finish reason")
        answered = MESSAGES + [got.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": calls[0].id, "content": "windy"}]
        s.check(chat(s, messages=[{**m, "content": m.get("content") or ""} for m in answered], tools=[TOOL], tool_choice="none").choices[0].message.content is not None, f"{what}: the next turn")
    tool = openai.pydantic_function_tool(Verdict)
    got = s.c.chat.completions.parse(model=s.model, messages=MESSAGES, tools=[tool], tool_choice="required", parallel_tool_calls=False, seed=1, max_completion_tokens=200)
    s.check(isinstance(got.choices[0].message.tool_calls[0].function.parsed_arguments, Verdict), f"a pydantic tool: {got}")
    s.refused(lambda: chat(s, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "x"}}), openai.BadRequestError, "a tool that is not there", param="tool_choice")


def test_own_calls(s):
    """Calls that the model makes by itself, beside its reasoning and its words; the replica says the same thing always."""
    body = {"model": CALLER, "tools": [TOOL], "max_completion_tokens": 40}
    got, chunks = chat(s, **body).choices[0], list(chat(s, **body, stream=True))
    s.equal([(x.function.name, json.loads(x.function.arguments)) for x in got.message.tool_calls or []], [("w", {"c": "a"}), ("w", {"c": "b"})], "calls found in the answer")
    s.equal(((got.message.content or "").strip(), (got.message.reasoning or "").strip(), got.finish_reason), (SAID, THOUGHT, "tool_calls"), "what else was said")
    same_calls(s, got.message.tool_calls or [], chunks, "calls found in the answer")
    s.equal(by_choice(chunks, lambda c: c.delta.content), [got.message.content], "content beside calls, streamed")
    s.equal(by_choice(chunks, lambda c: getattr(c.delta, "reasoning", "")), [got.message.reasoning], "reasoning, streamed")
    s.equal(finish_reasons(chunks), {0: "tool_calls"}, "calls end a stream")
    one = chat(s, **body, parallel_tool_calls=False).choices[0]
    s.equal(len(one.message.tool_calls or []), 1, "one call at a time")
    plain = chat(s, model=CALLER, max_completion_tokens=40).choices[0]
    s.check(not plain.message.tool_calls and CALLS[0] in plain.message.content and plain.finish_reason == "stop", f"without tools it is text: {plain}")
    asked = s.c.completions.create(model=CALLER, prompt="<|assistant|>", max_tokens=40)
    s.equal(asked.choices[0].text, "".join(SPOKEN), "a completion takes nothing apart")


def test_response_calls(s):
    body = {"model": CALLER, "input": "Hello", "tools": [FLAT_TOOL], "max_output_tokens": 40}
    whole, events = s.c.responses.create(**body), list(s.c.responses.create(**body, stream=True))
    calls = [x for x in whole.output if x.type == "function_call"]
    s.equal([(x.name, json.loads(x.arguments)) for x in calls], [("w", {"c": "a"}), ("w", {"c": "b"})], "calls of a response")
    s.equal([x.type for x in whole.output], ["reasoning", "message", "function_call", "function_call"], "its items")
    s.equal([e.item.arguments for e in events if e.type == "response.output_item.done" and e.item.type == "function_call"], [x.arguments for x in calls], "streamed calls")
    s.equal("".join(e.delta for e in events if e.type == "response.function_call_arguments.delta"), "".join(x.arguments for x in calls), "streamed arguments")
    s.equal([x.type for x in events[-1].response.output], [x.type for x in whole.output], "the items at the stream's end")
    results = [{"type": "function_call_output", "call_id": x.call_id, "output": "windy"} for x in calls]
    more = s.c.responses.create(model=CALLER, previous_response_id=whole.id, input=results, tools=[FLAT_TOOL], max_output_tokens=40)
    s.check(more.usage.input_tokens > whole.usage.input_tokens, f"what the calls gave: {more.usage}")


# ---- responses ----

def respond(s, **more):
    return s.c.responses.create(**{"model": s.model, "input": "Hello", "max_output_tokens": 8, "temperature": 0, **more})


def test_responses(s):
    whole, events = respond(s), list(respond(s, stream=True))
    s.check(whole.id.startswith("resp_") and whole.object == "response" and whole.status in ("completed", "incomplete"), f"response: {whole}")
    s.check(0 < whole.usage.output_tokens <= 8 and whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens, f"usage: {whole.usage}")
    if whole.status == "incomplete":
        s.equal(whole.incomplete_details.reason, "max_output_tokens", "why it is incomplete")
    s.equal([e.type for e in events[:2]], ["response.created", "response.in_progress"], "a stream's beginning")
    s.equal(events[-1].type, f"response.{whole.status}", "a stream's end")
    s.equal([e.sequence_number for e in events], list(range(len(events))), "numbers of the events")
    s.equal("".join(e.delta for e in events if e.type == "response.output_text.delta"), whole.output_text, "a streamed response is the whole one")
    s.equal(events[-1].response.output_text, whole.output_text, "the response at the stream's end")
    with s.c.responses.stream(model=CALLER, input="Hello", max_output_tokens=40) as stream:
        list(stream)
        s.equal(stream.get_final_response().output_text, respond(s, model=CALLER, max_output_tokens=40).output_text, "the client's stream helper")
    told = respond(s, instructions="Be brief.", input=[{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}])
    s.check(told.usage.input_tokens > whole.usage.input_tokens and told.instructions == "Be brief.", f"instructions, and input as items: {told}")
    parsed = s.c.responses.parse(model=s.model, input="Hello", text_format=Verdict, max_output_tokens=80).output_parsed
    s.check(isinstance(parsed, Verdict), f"a pydantic model: {parsed}")
    forced = respond(s, tools=[FLAT_TOOL], tool_choice="required", parallel_tool_calls=False, max_output_tokens=200)
    s.check(forced.output[0].type == "function_call" and json.loads(forced.output[0].arguments)["c"] in ("a", "b"), f"a call that must be: {forced.output}")
    listed = respond(s, include=["message.output_text.logprobs"], top_logprobs=2).output[0].content[0].logprobs
    s.check(len(listed) == whole.usage.output_tokens and all(len(x.top_logprobs) == 2 for x in listed), f"log-probabilities: {listed}")


def test_kept_responses(s):
    whole = respond(s)
    s.equal(s.c.responses.retrieve(whole.id).output_text, whole.output_text, "a response kept")
    more = respond(s, input="And?", previous_response_id=whole.id)
    s.check(more.usage.input_tokens > whole.usage.input_tokens + 5 and more.previous_response_id == whole.id, f"a conversation goes on: {more}")
    s.refused(lambda: s.c.responses.cancel(whole.id), openai.BadRequestError, "a cancel of what has ended")
    s.c.responses.delete(whole.id)
    s.refused(lambda: s.c.responses.retrieve(whole.id), openai.NotFoundError, "a response deleted")
    s.refused(lambda: respond(s, previous_response_id=whole.id), openai.BadRequestError, "a conversation deleted", code="previous_response_not_found")
    s.refused(lambda: s.client("admin").responses.retrieve(more.id), openai.NotFoundError, "another key's response")
    unkept = respond(s, store=False)
    s.refused(lambda: s.c.responses.retrieve(unkept.id), openai.NotFoundError, "a response not to be kept")
    stream = respond(s, stream=True, max_output_tokens=900, extra_body={"ignore_eos": True})
    created = next(stream).response
    s.equal(s.c.responses.retrieve(created.id).status, "in_progress", "a response on its way")
    s.equal(s.c.responses.cancel(created.id).status, "cancelled", "a response cancelled")
    texts = sum(e.type == "response.output_text.delta" for e in stream)
    s.check(texts < 900, f"{texts} more tokens after the cancel")
    s.refused(lambda: respond(s, background=True), openai.BadRequestError, "background", param="background")


# ---- embeddings ----

def test_embeddings(s):
    plain = s.c.embeddings.create(model=s.model, input="Hello", encoding_format="float")
    one = plain.data[0].embedding
    two = s.c.embeddings.create(model=s.model, input=["Hello", "World"]).data  # the client asks for base64 by itself
    s.check(abs(math.hypot(*one) - 1) < 1e-4 and plain.usage.prompt_tokens > 0 == plain.usage.total_tokens - plain.usage.prompt_tokens, f"embedding: {plain.usage}")
    s.check([x.index for x in two] == [0, 1] and len(two[0].embedding) == len(one), "one for each text, in order")
    s.check(all(abs(x - y) < 1e-5 for x, y in zip(one, two[0].embedding)) and one != two[1].embedding, "the same text, the same vector")
    raw = s.c.embeddings.create(model=s.model, input="Hello", encoding_format="base64").data[0].embedding
    data = base64.b64decode(raw)
    s.check(len(data) == 4 * len(one) and all(abs(x - y) < 1e-5 for x, y in zip(struct.unpack(f"<{len(one)}f", data), one)), "base64 of little endian floats")
    short = s.c.embeddings.create(model=s.model, input="Hello", dimensions=8, encoding_format="float").data[0].embedding
    s.check(len(short) == 8 and abs(math.hypot(*short) - 1) < 1e-4 and abs(short[0] / short[1] - one[0] / one[1]) < 1e-2, f"fewer dimensions: {short}")
    s.check(len(s.c.embeddings.create(model=s.model, input=[[5, 6], [7]]).data) == 2, "inputs of token ids")
    s.refused(lambda: s.c.embeddings.create(model=s.model, input="a", dimensions=100000), openai.BadRequestError, "too many dimensions", param="dimensions")
    s.refused(lambda: s.c.embeddings.create(model=s.model, input=[]), openai.BadRequestError, "no input", param="input")


# ---- refusals ----

def test_refusals(s):
    s.refused(lambda: greedy(s, model="none"), openai.NotFoundError, "an unknown model", param="model", code="model_not_found")
    s.refused(lambda: chat(s, model="none", stream=True), openai.NotFoundError, "an unknown model, streamed", param="model", code="model_not_found")
    s.refused(lambda: s.c.post("/none", cast_to=object), openai.NotFoundError, "an unknown route")
    s.refused(lambda: greedy(s, prompt="a " * 5000), openai.BadRequestError, "too long a prompt", param="prompt", code="context_length_exceeded")
    for body in ({"max_tokens": -1}, {"temperature": "hot"}, {"best_of": 3}, {"suffix": "x"}, {"top_p": 2}, {"logit_bias": {"9999999": 1}}, {"n": 0}):
        s.refused(lambda: greedy(s, **body, extra_body={}), openai.BadRequestError, str(body), param=next(iter(body)))
    for body in ({"no_such_field": 1}, {"min_p": -1}, {"allowed_token_ids": [-5]}, {"use_beam_search": True}):
        s.refused(lambda: chat(s, extra_body=body), openai.BadRequestError, str(body), param=next(iter(body)))
    s.refused(lambda: chat(s, extra_body={"structured_outputs": {"regex": "("}}), openai.BadRequestError, "a regex that is none", param="structured_outputs.regex")
    s.refused(lambda: chat(s, messages=[]), openai.BadRequestError, "no messages", param="messages")
    s.refused(lambda: chat(s, top_logprobs=1000, logprobs=True), openai.BadRequestError, "too many log-probabilities", param="top_logprobs")
    s.refused(s.client("sk-wrong").models.list, openai.AuthenticationError, "a wrong key", code="invalid_api_key")
    slow = s.client("slow")
    slow.completions.create(model=s.model, prompt="a", max_tokens=1)
    e = s.refused(lambda: slow.completions.create(model=s.model, prompt="a", max_tokens=1), openai.RateLimitError, "a key's second request of the minute")
    s.check(e and int(e.response.headers["retry-after"]) > 0, "when to come back")


def test_together(s):
    """The asynchronous client: 16 streams at once, one of them closed in the middle."""
    async def one(c, seed):
        body = {"model": s.model, "messages": MESSAGES, "seed": seed, "temperature": 1, "max_completion_tokens": 30}
        text = ""
        async with await c.chat.completions.create(**body, stream=True) as stream:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
                if seed == 0 and text:
                    return "", ""
        return text, (await c.chat.completions.create(**body)).choices[0].message.content

    async def go():
        async with s.client("user", openai.AsyncOpenAI) as c:
            return await asyncio.gather(*(one(c, seed) for seed in range(16)))
    got = asyncio.run(go())
    s.equal([x[0] for x in got], [x[1] for x in got], "streams at once, and the same alone")
    s.check(len({x[0] for x in got}) > 8, "seeds give different answers")


TESTS = {f.__name__[5:]: f for f in (test_models, test_server, test_completions, test_completion_lists, test_completion_logprobs, test_stop, test_chat, test_chat_logprobs,
                                     test_schema, test_forced_tools, test_own_calls, test_responses, test_response_calls, test_kept_responses, test_embeddings,
                                     test_refusals, test_together)}


def make_key(trireme, path, name, *options):
    said = subprocess.run([trireme, "apikey", "add", path, name, *options], capture_output=True, text=True, check=True)
    return said.stdout.split()[-1]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--only", default=",".join(TESTS))
    a = p.parse_args()
    report, keys = serving.Report(), {}

    def make_keys():
        for name, options in (("user", []), ("admin", ["--admin"]), ("slow", ["--requests", "1"])):
            keys[name] = make_key(a.trireme, f"{folder}/keys", name, *options)
    with tempfile.TemporaryDirectory() as folder, Serving(a.trireme, options=["--api-keys", f"{folder}/keys"], before=make_keys) as s:
        # Tools take some hundreds of tokens in so small a vocabulary.
        s.start_replica("a", serving.stretched(a.model, folder, 1024))
        s.start_replica("b", serving.repeating(a.model, f"{folder}/{CALLER}", "<|assistant|>", SPOKEN, "<|end|>"))
        s.api_key = keys["user"]
        model = next(r["model"] for r in s.wait_ready(2)["replicas"] if r["model"] != CALLER)
        service = Service(s, keys, model, report)
        for name in a.only.split(","):
            try:
                TESTS[name](service)
            except Exception as e:  # the other routes are tried all the same
                report.check(False, f"{name}: {type(e).__name__}: {e}")
    report.end()


if __name__ == "__main__":
    main()
