#!/usr/bin/env python3
"""The API without sockets: bodies in, resolved requests out; a replica's events in, JSON and SSE out.

    api.py API_LINES [WORD ...]      cases whose name holds one of the words; default all
"""
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import base64

USER = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "c"}, "n": {"type": "array", "description": "n"}}, "required": ["city"]}}}
TIME = {"type": "function", "function": {"name": "time", "description": "t", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, TIME]
THINKS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
CASES = []


def case(f):
    CASES.append(f)
    return f


class Lines:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def run(self, line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        out = self.process.stdout.readline()
        if not out:
            raise SystemExit(f"api_lines died ({self.process.wait()}) on {json.dumps(line)[:2000]}")
        return json.loads(out)

    def close(self):
        self.process.stdin.close()
        if self.process.wait(60) != 0:
            raise SystemExit("api_lines ended badly")


L = None


def call(route, body, **line):
    return L.run({"route": route, "body": body, **line})


def ok(route, body, **line):
    out = call(route, body, **line)
    assert "error" not in out and "event_error" not in out, out
    return out


def chat(answer="", body=None, **line):
    return ok("chat", {"messages": USER, **(body or {})}, answers=[answer], **line)


def refused(route, body, param, **line):
    out = call(route, body, **line)
    assert "error" in out, (body, out)
    e = out["error"]
    assert out["http"] in (400, 404, 413) and e["type"] == "invalid_request_error" and e["message"], out
    assert e["param"] == param, (param, out)
    return e


def equal(got, want):
    assert got == want, f"\n  got  {got!r}\n  want {want!r}"


# ---- streams put together again ----

def sse(text):
    """[(event name or None, data)]"""
    out = []
    assert text.endswith("\n\n") or text == "", text[-50:]
    for block in text.split("\n\n")[:-1]:
        name = data = None
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line[7:]
            else:
                assert line.startswith("data: ") and data is None, block
                data = line[6:]
        out.append((name, data))
    return out


def chunks(text):
    events = sse(text)
    equal(events[-1], (None, "[DONE]"))
    return [json.loads(d) for _, d in events[:-1]]


def merge_delta(message, delta):
    for k, v in delta.items():
        if k == "tool_calls":
            for t in v:
                calls = message.setdefault("tool_calls", [])
                if t["index"] == len(calls):
                    assert t["type"] == "function" and t["id"], t
                    calls.append({"id": t["id"], "type": "function", "function": {"name": t["function"]["name"], "arguments": ""}})
                else:
                    assert t["index"] == len(calls) - 1 and "id" not in t, t
                calls[t["index"]]["function"]["arguments"] += t["function"].get("arguments", "")
        elif k == "role":
            assert k not in message
            message[k] = v
        else:
            message[k] = (message.get(k) or "") + v


def whole_chat(text):
    """What a chat's stream says, in the form of an answer."""
    out, choices = {}, {}
    for c in chunks(text):
        for k, v in c.items():
            if k == "choices" or (k == "usage" and v is None):
                continue
            assert out.get(k, v) == v or k == "usage", (k, v)
            out[k] = v
        for d in c["choices"]:
            m = choices.setdefault(d["index"], {"index": d["index"], "message": {}, "logprobs": None, "finish_reason": None, "stop_reason": None})
            assert m["finish_reason"] is None, "something after the end"
            merge_delta(m["message"], d["delta"])
            if d.get("logprobs"):
                m["logprobs"] = m["logprobs"] or {"content": [], "refusal": None}
                m["logprobs"]["content"] += d["logprobs"]["content"]
            if "logits_hash" in d:
                m["logits_hash"] = d["logits_hash"]
            if "token_ids" in d:
                m["token_ids"] = m.get("token_ids", []) + d["token_ids"]
            m["finish_reason"], m["stop_reason"] = d["finish_reason"], d.get("stop_reason")
    out["object"] = "chat.completion"
    out["choices"] = [choices[i] for i in sorted(choices)]
    for m in out["choices"]:
        m["message"]["refusal"] = None
        if m["message"].get("content") == "" and m["message"].get("tool_calls"):
            m["message"]["content"] = None
    return out


def whole_completion(text):
    out, choices = {}, {}
    for c in chunks(text):
        for k, v in c.items():
            if k != "choices" and not (k == "usage" and v is None):
                out[k] = v
        for d in c["choices"]:
            m = choices.setdefault(d["index"], {"index": d["index"], "text": "", "logprobs": None})
            m["text"] += d["text"]
            if d["logprobs"]:
                m["logprobs"] = m["logprobs"] or {k: [] for k in d["logprobs"]}
                for k, v in d["logprobs"].items():
                    m["logprobs"][k] += v
            for k in ("token_ids",):
                if k in d:
                    m[k] = m.get(k, []) + d[k]
            for k in ("prompt_token_ids", "prompt_logprobs", "logits_hash"):
                if k in d:
                    assert k not in m
                    m[k] = d[k]
            m["finish_reason"], m["stop_reason"] = d["finish_reason"], d["stop_reason"]
    out["choices"] = [choices[i] for i in sorted(choices)]
    return out


def whole_response(text):
    """Follows the events as OpenAI's client does, and checks their order."""
    output, state, number, final = [], {}, 0, None
    for name, data in sse(text):
        e = json.loads(data)
        assert name == e["type"] and e["sequence_number"] == number and final is None, (name, e, number)
        number += 1
        t = name.removeprefix("response.")
        if t in ("created", "in_progress"):
            equal((number, t), (1, "created") if t == "created" else (2, "in_progress"))
            equal((e["response"]["status"], e["response"]["output"]), ("in_progress", []))
        elif t in ("completed", "incomplete", "failed"):
            final = e["response"]
        elif t == "output_item.added":
            equal(e["output_index"], len(output))
            assert e["item"]["status"] == "in_progress"
            output.append(e["item"])
            state[e["item"]["id"]] = "open"
        elif t == "content_part.added":
            item = output[e["output_index"]]
            equal((item["content"], e["content_index"], e["item_id"]), ([], 0, item["id"]))
            item["content"].append(e["part"])
        elif t in ("output_text.delta", "reasoning_text.delta"):
            assert state[e["item_id"]] == "open"
            part = output[e["output_index"]]["content"][0]
            part["text"] += e["delta"]
            if t == "output_text.delta":
                part["logprobs"] += e["logprobs"]
        elif t == "function_call_arguments.delta":
            assert state[e["item_id"]] == "open"
            output[e["output_index"]]["arguments"] += e["delta"]
        elif t in ("output_text.done", "reasoning_text.done"):
            equal(e["text"], output[e["output_index"]]["content"][0]["text"])
        elif t == "function_call_arguments.done":
            equal(e["arguments"], output[e["output_index"]]["arguments"])
        elif t == "content_part.done":
            equal(e["part"], output[e["output_index"]]["content"][0])
        elif t == "output_item.done":
            state[e["item"]["id"]] = "closed"
            output[e["output_index"]]["status"] = e["item"]["status"]
            equal(e["item"], output[e["output_index"]])
        else:
            raise AssertionError(f"an event {name}")
    assert final is not None
    assert all(v == "closed" for v in state.values()) or final["status"] == "failed", state
    if final["status"] != "failed":
        equal(output, final["output"])
    return final


WHOLE = {"chat": whole_chat, "completions": whole_completion, "responses": whole_response}


def both(route, body, **line):
    """The answer; streamed in one piece and with every token sent twice it is the same."""
    body = {"seed": 1, **body}
    plain = ok(route, body, **line)
    want = json.loads(json.dumps(plain["answer"]))
    for replay in (False, True):
        options = {} if route == "responses" else {"stream_options": {"include_usage": True}}
        streamed = ok(route, {**body, "stream": True, **options}, replay=replay, **line)
        got = WHOLE[route](streamed["sse"])
        for a in (got, want):
            for k in ("created", "created_at"):
                a.pop(k, None)
        equal(got, want)
        equal(streamed["cancelled"], plain["cancelled"])
        equal({**streamed["answer"], "created": 0, "created_at": 0}, {**plain["answer"], "created": 0, "created_at": 0})
    return plain


# ---- requests ----

@case
def defaults_are_resolved():
    for route, body, most in (("chat", {"messages": USER}, 4096), ("completions", {"prompt": "hello"}, 16), ("responses", {"input": "hi"}, 4096)):
        r = ok(route, body)["requests"][0]
        equal({k: r[k] for k in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "n_logprobs",
                                 "n_prompt_logprobs", "min_tokens", "choice", "stop", "priority")},
              {"temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
               "n_logprobs": -1, "n_prompt_logprobs": -1, "min_tokens": 0, "choice": 0, "stop": [257], "priority": 0})
        equal(r["max_tokens"], most if most == 16 else most - r["n_prompt"])
        assert 0 <= r["seed"] < 1 << 52
    seeds = {ok("chat", {"messages": USER})["requests"][0]["seed"] for _ in range(8)}
    equal(len(seeds), 8)


@case
def each_sampling_field_arrives():
    fields = {"temperature": 0.75, "top_p": 0.5, "top_k": 7, "min_p": 0.25, "repetition_penalty": 1.25, "presence_penalty": 0.5, "frequency_penalty": -0.5,
              "seed": -3, "min_tokens": 2, "max_tokens": 9, "priority": -4, "cache_salt": "salt"}
    for route, body in (("chat", {"messages": USER}), ("completions", {"prompt": "x"})):
        r = ok(route, {**body, **fields})["requests"][0]
        equal({k: r[k] for k in fields}, fields)
        equal(ok(route, {**body, "top_k": -1})["requests"][0]["top_k"], 0)
        equal(ok(route, {**body, "logit_bias": {"5": 1.5, "7": -100}})["requests"][0]["bias"], [[5, 1.5], [7, -100.0]])
        equal(ok(route, {**body, "stop_token_ids": [9, 257, 9]})["requests"][0]["stop"], [257, 9])
        equal(ok(route, {**body, "stop_token_ids": [9], "ignore_eos": True})["requests"][0]["stop"], [9])
        equal(ok(route, {**body, "allowed_token_ids": [1, 2]})["requests"][0]["allowed"], [1, 2])
        r = ok(route, {**body, "logprob_token_ids": [4, 5]})["requests"][0]
        equal((r["logprob_tokens"], r["n_logprobs"]), ([4, 5], 0))
        equal(ok(route, {**body, "prompt_logprobs": 2})["requests"][0]["n_prompt_logprobs"], 2)
        equal(ok(route, {**body, "bad_words": ["ab", "t"]})["requests"][0]["bad_words"], [[266], [32, 266], [116], [267]])
    equal(ok("chat", {"messages": USER, "max_completion_tokens": 5, "max_tokens": 9})["requests"][0]["max_tokens"], 5)
    equal(ok("responses", {"input": "x", "max_output_tokens": 5})["requests"][0]["max_tokens"], 5)
    equal(ok("chat", {"messages": USER, "request_id": "abc-7"})["id"], "chatcmpl-abc-7")
    many = ok("chat", {"messages": USER, "n": 3, "seed": 5})["requests"]
    equal([(r["choice"], r["seed"]) for r in many], [(0, 5), (1, 5), (2, 5)])


@case
def prompts_take_every_form():
    def tokens(prompt, **fields):
        return [r["tokens"] for r in ok("completions", {"prompt": prompt, **fields})["requests"]]
    equal(tokens("ab t"), [[266, 267]])
    equal(tokens(["a", "b"]), [[97], [98]])
    equal(tokens([1, 2, 3]), [[1, 2, 3]])
    equal(tokens([[1], [2, 3]]), [[1], [2, 3]])
    equal(tokens(["a", "b"], n=2), [[97], [97], [98], [98]])
    equal(tokens([1, 2, 3, 4], truncate_prompt_tokens=2), [[3, 4]])
    equal(tokens([1, 2, 3, 4], truncate_prompt_tokens=2, truncation_side="right"), [[1, 2]])
    equal(tokens("a", suffix="b"), [[263, 97, 264, 98, 265]])
    out = ok("completions", {"prompt": list(range(100)), "truncate_prompt_tokens": -1}, max_model_len=50)
    equal(len(out["requests"][0]["tokens"]), 49)
    equal(out["requests"][0]["max_tokens"], 1)


def text_of(tokens):
    return ok("detokenize", {"tokens": tokens})["answer"]["prompt"]


def prompt_of(body, route="chat", **line):
    return text_of(ok(route, body, **line)["requests"][0]["tokens"])


@case
def messages_become_prompts():
    begin, end = "<|im_start|>assistant\n", "<|im_end|>\n"
    equal(prompt_of({"messages": USER}), f"<|im_start|>user\nhi{end}{begin}")
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    equal(prompt_of({"messages": parts}), f"<|im_start|>user\na\nb{end}{begin}")
    equal(prompt_of({"messages": [{"role": "developer", "content": "d"}] + USER}), f"<|im_start|>system\nd{end}<|im_start|>user\nhi{end}{begin}")
    equal(prompt_of({"messages": USER, "add_generation_prompt": False}), f"<|im_start|>user\nhi{end}")
    more = USER + [{"role": "assistant", "content": "so far"}]
    equal(prompt_of({"messages": more, "continue_final_message": True}), f"<|im_start|>user\nhi{end}<|im_start|>assistant\nso far")
    equal(prompt_of({"messages": USER, "chat_template": "{{ messages[0].content }}{{ x }}", "chat_template_kwargs": {"x": 7}}), "hi7")
    equal(prompt_of({"messages": USER, "documents": [{"text": "D"}], "chat_template": "{{ documents[0].text }}"}), "D")
    equal(prompt_of({"messages": USER, "reasoning_effort": "low", "chat_template": "{{ reasoning_effort }}"}), "low")
    equal(prompt_of({"messages": USER, "tools": TOOLS}, template="{{ tools | length }}", templates={"tool_use": "T{{ tools[1].function.name }}"}), "Ttime")
    equal(prompt_of({"messages": USER, "tools": TOOLS, "tool_choice": "none"}, template="{{ tools }}"), "None")
    called = USER + [{"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
                     {"role": "tool", "tool_call_id": "c", "content": "sunny"}]
    equal(prompt_of({"messages": called}, template="{{ messages[1].tool_calls[0].function.arguments.a + 1 }}{{ messages[1].content }}{{ messages[2].content }}"), "2sunny")
    # A template that puts the arguments into a string wants them as one.
    equal(prompt_of({"messages": called}, template="{{ 'x' + messages[1].tool_calls[0].function.arguments }}"), 'x{"a": 1}')


@case
def tools_reach_models_whose_template_knows_none():
    p = prompt_of({"messages": USER, "tools": [WEATHER]})
    assert p.startswith("<|im_start|>system\n") and '"get_weather"' in p and "<tool_call>" in p and p.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"), p
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0].content }}"
    p = prompt_of({"messages": USER, "tools": [WEATHER]}, template=strict)
    assert '"get_weather"' in p and p.endswith("\n\nhi"), p
    called = USER + [{"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                     {"role": "tool", "tool_call_id": "c", "content": "sunny"}]
    p = prompt_of({"messages": called, "tools": [WEATHER]})
    assert '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' in p and "<tool_response>\nsunny\n</tool_response>" in p, p


@case
def responses_take_items():
    items = [{"role": "user", "content": [{"type": "input_text", "text": "q"}]},
             {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
             {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
             {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}, {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "c1", "output": "r"}]
    template = ("{% for m in messages %}{{ m.role }}:{{ m.content }}{% for t in m.tool_calls or [] %}+{{ t.function.name }}{% endfor %}"
                "{{ '(' + m.reasoning_content + ')' if m.reasoning_content }};{% endfor %}")
    equal(prompt_of({"input": items, "instructions": "I"}, "responses", template=template), "system:I;user:q;assistant:a+f+g(hm);tool:r;")
    kept = {"resp_0": [{"role": "user", "content": "before"}]}
    out = ok("responses", {"input": "now", "previous_response_id": "resp_0"}, template=template, store=kept, answers=["then"])
    equal(text_of(out["requests"][0]["tokens"]), "user:before;user:now;")
    equal([(i["role"], i["content"] if isinstance(i["content"], str) else i["content"][0]["text"]) for i in out["conversation"]],
          [("user", "before"), ("user", "now"), ("assistant", "then")])
    assert out["answer"]["store"] is True and out["answer"]["previous_response_id"] == "resp_0"
    assert "conversation" not in ok("responses", {"input": "now", "store": False}, store=kept)
    equal(refused("responses", {"input": "x", "previous_response_id": "resp_9"}, "previous_response_id", store=kept)["code"], "previous_response_not_found")
    refused("responses", {"input": "x", "previous_response_id": "resp_9"}, "previous_response_id")
    refused("responses", {"input": "x", "store": True}, "store")
    ok("responses", {"input": "x", "store": False})


# ---- refusals ----

@case
def what_is_wrong_is_named():
    c, h = {"prompt": "x"}, {"messages": USER}
    for route, body in (("completions", c), ("chat", h), ("responses", {"input": "x"})):
        equal(refused(route, {**body, "nonsense": 1}, "nonsense")["code"], "unknown_parameter")
        for name, value in (("temperature", "hot"), ("temperature", -1), ("temperature", 101), ("top_p", 1.5), ("top_p", -0.1), ("min_p", 2), ("top_k", -2), ("top_k", 1.5),
                            ("repetition_penalty", 0), ("seed", "x"), ("stop", 5), ("stop", [""]), ("stop", ["x"] * 65), ("stop", "x" * 1025), ("stop", [1]),
                            ("stream", 1), ("min_tokens", -1), ("priority", 1 << 40), ("stop_token_ids", [1 << 20]), ("stop_token_ids", ["a"]), ("ignore_eos", 0),
                            ("cache_salt", 5), ("request_id", "a b"), ("request_id", ""), ("stream_options", {"include_usage": True}), ("model", 5), ("vllm_xargs", {"a": 1}),
                            ("thinking_token_budget", 5)):
            refused(route, {**body, name: value}, name)
        refused(route, {**body, "stream": True, "stream_options": {"include": True}}, "stream_options")
        equal(refused(route, {**body, "model": "other"}, "model")["code"], "model_not_found")
        ok(route, {**body, "model": "test-model", "user": "u", "metadata": {"a": "b"}, "service_tier": "auto", "temperature": None, "stop": None})
    for route, body in (("completions", c), ("chat", h)):
        for name, value in (("logit_bias", {"x": 1}), ("logit_bias", {"5": "a"}), ("logit_bias", {"99999": 1}), ("logit_bias", []), ("n", 0), ("n", 1000), ("store", True),
                            ("use_beam_search", True), ("length_penalty", 2), ("allowed_token_ids", []), ("allowed_token_ids", [-1]), ("bad_words", [""]),
                            ("bad_words", "x"), ("prompt_logprobs", -1), ("prompt_logprobs", 5000), ("logprob_token_ids", [1 << 20]), ("truncate_prompt_tokens", 0),
                            ("truncate_prompt_tokens", -2), ("truncation_side", "up"), ("kv_transfer_params", {}), ("repetition_detection", {})):
            refused(route, {**body, name: value}, name)
        ok(route, {**body, "store": False, "use_beam_search": False, "length_penalty": 1.0})
    for name, value in (("best_of", 2), ("prompt", 5), ("prompt", []), ("prompt", ""), ("prompt", [1 << 20]), ("prompt", [["a"]]), ("prompt", [{}]), ("logprobs", True),
                        ("logprobs", -1), ("logprobs", 5000), ("max_tokens", 0), ("messages", USER), ("prompt_embeds", "x"), ("echo", "x")):
        refused("completions", {**c, name: value}, name)
    refused("completions", {}, "prompt")
    ok("completions", {**c, "best_of": 1})
    refused("completions", {**c, "min_tokens": 20}, "min_tokens")
    refused("completions", {**c, "suffix": "y"}, "suffix", fim=False)
    refused("completions", {"prompt": ["a", "b"], "suffix": "y"}, "suffix")
    for name, value in (("messages", []), ("messages", [{}]), ("messages", ["x"]), ("messages", [{"role": "user", "content": 5}]),
                        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
                        ("messages", [{"role": "assistant", "tool_calls": [{}]}]), ("logprobs", 1), ("top_logprobs", 3), ("functions", [{}]), ("function_call", {"name": "f"}),
                        ("modalities", ["audio"]), ("audio", {}), ("tool_choice", "required"), ("tool_choice", "maybe"), ("prompt", "x"), ("chat_template", "{% if %}"),
                        ("chat_template", "{{ raise_exception('no') }}"), ("verbosity", "low"), ("web_search_options", {})):
        refused("chat", {**h, name: value}, "messages" if value == "{{ raise_exception('no') }}" else name)
    refused("chat", {}, "messages")
    refused("chat", {**h, "add_generation_prompt": True, "continue_final_message": True}, "add_generation_prompt")
    for tools in ([{}], [{"type": "web"}], [{"type": "function"}], [{"type": "function", "function": {"name": ""}}], [{"type": "function", "function": {"name": "f", "parameters": 1}}]):
        refused("chat", {**h, "tools": tools}, "tools")
    for choice in ({"type": "function", "function": {"name": "nope"}}, {"type": "function"}, "some"):
        refused("chat", {**h, "tools": TOOLS, "tool_choice": choice}, "tool_choice")
    for name, value in (("background", True), ("max_tool_calls", 1), ("conversation", "c"), ("truncation", "auto"), ("include", ["reasoning.encrypted_content"]),
                        ("text", {"verbosity": "low"}), ("reasoning", {"depth": 1}), ("tools", [{"type": "web_search"}]), ("prompt", {"id": "p"})):
        refused("responses", {"input": "x", name: value}, name)
    for items in ([{"type": "item_reference", "id": "x"}], [5], [{"role": "user", "content": [{"type": "input_image"}]}], [{"type": "function_call"}], [{}]):
        out = call("responses", {"input": items})
        assert out["http"] == 400 and out["error"]["param"] == "input", out


@case
def limits_hold():
    equal(refused("completions", {"prompt": [1] * 64}, "prompt", max_model_len=64)["code"], "context_length_exceeded")
    equal(refused("chat", {"messages": [{"role": "user", "content": "x" * 100}]}, "messages", max_model_len=64)["code"], "context_length_exceeded")
    equal(ok("completions", {"prompt": [1] * 60, "max_tokens": 100}, max_model_len=64)["requests"][0]["max_tokens"], 4)
    for raw in ("", "{", "[]", "5", "{\"prompt\": \"\\ud800\"}", "[" * 1000, "{\"a\":" * 200, "{\"prompt\": 1e999}", "{\"prompt\":\"x\",\"prompt\":\"y\"}", "nul"):
        out = L.run({"route": "completions", "raw": raw})
        assert out["http"] == 400 and out["error"]["message"], (raw, out)
    refused("completions", {"prompt": ["x"] * 129}, "prompt")
    refused("chat", {"messages": USER, "tools": [WEATHER] * 1025}, "tools")


# ---- answers ----

TEXTS = ["", "Hello ab world.\n", " \n x \n\n", "na\u00efve \U0001f600 \u4f60\u597d", "\"quoted\" \\ \t\u0001", "a" * 500]


@case
def streams_equal_answers():
    for text in TEXTS:
        for body in ({}, {"logprobs": True, "top_logprobs": 2}, {"n": 2}, {"return_token_ids": True}, {"prompt_logprobs": 1}, {"stop": ["wor", "\n\n"]}, {"max_tokens": 5}):
            equal(len(both("chat", {"messages": USER, **body}, answers=[text])["answer"]["choices"]), body.get("n", 1))
        for body in ({}, {"logprobs": 2}, {"n": 2}, {"echo": True}, {"echo": True, "logprobs": 1}, {"return_token_ids": True}, {"prompt_logprobs": 0},
                     {"stop": "wor", "include_stop_str_in_output": True}):
            both("completions", {"prompt": ["one", "two"], "max_tokens": 4000, **body}, answers=[text])
        for body in ({}, {"top_logprobs": 2}, {"max_output_tokens": 5}, {"stop": "wor"}):
            both("responses", {"input": "hi", **body}, answers=[text])
    out = chat("Hi", {"return_token_ids": True})["answer"]
    equal((out["choices"][0]["token_ids"], out["choices"][0]["logits_hash"]), ([72, 105, 257], f"{1002:016x}"))
    plain = chat("Hello")["answer"]
    equal(plain["choices"], [{"index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": None}, "logprobs": None, "finish_reason": "stop", "stop_reason": None}])
    n = plain["usage"]["prompt_tokens"]
    equal(plain["usage"], {"prompt_tokens": n, "completion_tokens": 6, "total_tokens": n + 6, "prompt_tokens_details": {"cached_tokens": 3}})
    equal((plain["object"], plain["id"], plain["model"], plain["system_fingerprint"]), ("chat.completion", "chatcmpl-1", "test-model", "fp_1"))


@case
def ends_have_reasons():
    def end(text, body=None, **line):
        out = both("chat", {"messages": USER, **(body or {})}, answers=[text], **line)
        choice = out["answer"]["choices"][0]
        return choice["message"]["content"], choice["finish_reason"], choice["stop_reason"], out["cancelled"]
    equal(end("abc"), ("abc", "stop", None, []))
    equal(end("abc", finish="length"), ("abc", "length", None, []))
    equal(end("abcdef", {"max_tokens": 3}), ("abcd", "length", None, []))  # "ab" is one token
    equal(end("one STOP two", {"stop": ["STOP"]}), ("one ", "stop", "STOP", [0]))
    equal(end("one STOP two", {"stop": ["STOP"], "include_stop_str_in_output": True}), ("one STOP", "stop", "STOP", [0]))
    equal(end("one STO", {"stop": ["STOP"]}), ("one STO", "stop", None, []))
    equal(end("x", {"stop_token_ids": [10]}, finish=10), ("x", "stop", 10, []))
    equal(end("x", {"stop_token_ids": [10], "include_stop_str_in_output": True}, finish=10), ("x\n", "stop", 10, []))
    equal(end("x<|eot|>y"), ("xy", "stop", None, []))
    equal(end("x<|eot|>y", {"skip_special_tokens": False}), ("x<|eot|>y", "stop", None, []))


@case
def chunks_are_what_clients_expect():
    out = chat("Hi", {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
    got = chunks(out["sse"])
    equal(got[0]["choices"], [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}])
    equal([c["choices"][0]["delta"] for c in got[1:-1]], [{"content": "H"}, {"content": "i"}, {}])
    equal(got[-2]["choices"][0]["finish_reason"], "stop")
    equal(got[-1]["choices"], [])
    equal([c["usage"]["completion_tokens"] for c in got], [1, 1, 2, 3, 3])
    assert "usage" not in chunks(chat("Hi", {"stream": True})["sse"])[0]
    assert all(c["usage"] is None for c in chunks(chat("Hi", {"stream": True, "stream_options": {"include_usage": True}})["sse"])[:-1])
    one = sse(chat("\u00e9", {"stream": True})["sse"])
    equal(sum("\u00e9" in d for _, d in one), 1)  # two tokens, one character
    assert all(c["object"] == "chat.completion.chunk" for c in got)
    equal([c["choices"][0]["text"] for c in chunks(ok("completions", {"prompt": "x", "stream": True, "echo": True}, answers=["yz"])["sse"])], ["xy", "z", ""])


@case
def failures_are_told():
    e = {"message": "the replica is gone", "type": "server_error", "param": None, "code": None}
    out = ok("chat", {"messages": USER}, answers=["par"], finish=None, fail="the replica is gone")
    equal((out["http"], out["answer"]["error"]), (500, e))
    out = ok("chat", {"messages": USER, "stream": True}, answers=["par"], finish=None, fail="the replica is gone")
    events = sse(out["sse"])
    equal((json.loads(events[-2][1]), events[-1][1]), ({"error": e}, "[DONE]"))
    out = ok("responses", {"input": "x", "stream": True}, answers=["par"], finish=None, fail="the replica is gone")
    got = whole_response(out["sse"])
    equal((got["status"], got["error"]["message"]), ("failed", "the replica is gone"))


@case
def logprobs_name_tokens():
    out = chat("\u00e9", {"logprobs": True, "top_logprobs": 1, "logprob_token_ids": [65]})["answer"]["choices"][0]["logprobs"]["content"]
    equal([(t["token"], t["bytes"], t["logprob"]) for t in out], [("\ufffd", [195], -0.25), ("\ufffd", [169], -0.5), ("<|im_end|>", list(b"<|im_end|>"), -0.75)])
    equal([(t["token"], t["logprob"]) for t in out[0]["top_logprobs"]], [("\ufffd", -0.25), ("A", -9999.0)])
    out = chat("A", {"logprobs": True, "return_tokens_as_token_ids": True})["answer"]["choices"][0]["logprobs"]["content"]
    equal([t["token"] for t in out], ["token_id:65", "token_id:257"])
    out = ok("completions", {"prompt": "ab t", "logprobs": 1, "echo": True}, answers=["\u00e9"])["answer"]["choices"][0]["logprobs"]
    equal(out["tokens"], ["ab", " t", "bytes:\\xc3", "bytes:\\xa9", "<|im_end|>"])
    equal(out["token_logprobs"], [None, -0.5, -0.25, -0.5, -0.75])
    equal(out["text_offset"], [0, 2, 4, 5, 5])
    equal(out["top_logprobs"][:2], [None, {" t": -0.5}])
    out = ok("completions", {"prompt": "xyz", "prompt_logprobs": 1})["answer"]["choices"][0]["prompt_logprobs"]
    equal(out, [None, {"121": {"logprob": -0.5, "rank": 1, "decoded_token": "y"}}, {"122": {"logprob": -0.75, "rank": 1, "decoded_token": "z"}}])
    out = ok("completions", {"prompt": "xyz", "echo": True, "logprobs": 0, "max_tokens": 0})
    choice = out["answer"]["choices"][0]
    equal((choice["text"], choice["finish_reason"], len(choice["logprobs"]["tokens"]), out["cancelled"]), ("xyz", "length", 3, []))
    equal(out["answer"]["usage"]["completion_tokens"], 0)


# ---- reasoning and calls ----

def parts(text, body=None, **line):
    m = both("chat", {"messages": USER, **(body or {})}, answers=[text], **line)["answer"]["choices"][0]
    calls = [(t["function"]["name"], t["function"]["arguments"]) for t in m["message"].get("tool_calls", [])]
    return m["message"].get("reasoning"), m["message"]["content"], calls, m["finish_reason"]


@case
def reasoning_is_split_out():
    def split(text, template=THINKS, **body):
        return parts(text, body, template=template)[:2]
    equal(split("<think>\nhm\n\nyes\n</think>\n\nIt is 4.\n"), ("hm\n\nyes", "It is 4.\n"))
    equal(split("It is 4."), (None, "It is 4."))
    equal(split("<think>\n\n</think>\n\nIt is 4."), (None, "It is 4."))
    equal(split("<think>never ends"), ("never ends", ""))
    equal(split("a < b <thin"), (None, "a < b <thin"))
    equal(split("hm</think>yes", THINKS + "<think>\n"), ("hm", "yes"))
    equal(split("hm</think>yes", THINKS + "<think>\n\n</think>\n"), (None, "hm</think>yes"))
    equal(split("<think>hm</think>yes", include_reasoning=False), (None, "yes"))
    equal(split("<think>hm</think>yes", template=None), (None, "<think>hm</think>yes"))
    equal(split("[THINK]hm[/THINK]yes", "{# [/THINK] #}x"), ("hm", "yes"))
    equal(split("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes", "{# <|channel|> #}x"), ("hm", "yes"))
    out = both("responses", {"input": "hi"}, answers=["<think>hm</think>yes"], template=THINKS)["answer"]
    equal([(i["type"], i["content"][0]["text"]) for i in out["output"]], [("reasoning", "hm"), ("message", "yes")])
    equal(out["usage"]["output_tokens_details"]["reasoning_tokens"], 2)


ARGS = '{"city": "Paris, \\"}]", "n": [1, {"a": null}]}'
FORMATS = {
    "hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGS}}}\n</tool_call>',
    "hermes, arguments first": f'<tool_call>{{"arguments": {ARGS}, "name": "get_weather"}}</tool_call>',
    "smollm list": f'<tool_call>[{{"name": "get_weather", "arguments": {ARGS}}}]</tool_call>',
    "granite": f'<|tool_call|>[{{"name": "get_weather", "arguments": {ARGS}}}]',
    "phi": f'functools[{{"name": "get_weather", "arguments": {ARGS}}}]',
    "phi mini": f'<|tool_call|>[{{"name": "get_weather", "arguments": {ARGS}}}]<|/tool_call|>',
    "llama": f'{{"name": "get_weather", "parameters": {ARGS}}}',
    "llama tag": f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {ARGS}}}',
    "llama nested": f'{{"type": "function", "function": {{"name": "get_weather", "parameters": {ARGS}}}}}',
    "mistral": f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ARGS}, "id": "abcdefghi"}}]',
    "mistral 11": f'[TOOL_CALLS]get_weather[ARGS]{ARGS}',
    "nemotron": f'<TOOLCALL>[{{"name": "get_weather", "arguments": {ARGS}}}]</TOOLCALL>',
    "deepseek": f'<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>get_weather\n```json\n{ARGS}\n```'
                '<\uff5ctool\u2581call\u2581end\uff5c><\uff5ctool\u2581calls\u2581end\uff5c>',
    "kimi": f'<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{ARGS}<|tool_call_end|><|tool_calls_section_end|>',
}
TAGS = {
    "qwen coder": '<tool_call>\n<function=get_weather>\n<parameter=city>\nPa"ris\n</parameter>\n<parameter=n>\n[1, {"a": null}]\n</parameter>\n</function>\n</tool_call>',
    "glm": '<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Pa"ris</arg_value>\n<arg_key>n</arg_key>\n<arg_value>[1, {"a": null}]</arg_value>\n</tool_call>',
    "seed": "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Pa\"ris</parameter>\n<parameter=n>[1, {'a': None}]</parameter>\n</function>\n</seed:tool_call>",
    "minimax": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Pa"ris</parameter>\n<parameter name="n">[1, {"a": null}]</parameter>\n</invoke>'
               '\n</minimax:tool_call>',
}
PYTHON = {
    "pythonic": "[get_weather(city='Pa\\'ris, )', n=[1, 2.5, None, True], o={'a': (1, -2)})]",
    "lfm": "<|tool_call_start|>[get_weather(city='Pa\\'ris, )', n=[1, 2.5, None, True], o={'a': (1, -2)})]<|tool_call_end|>",
    "llama 4": "<|python_start|>[get_weather(city=\"Pa'ris, )\", n=[1, 2.5, null, true], o={\"a\": [1, -2]})]<|python_end|>",
    "llama 3 built-in": "<|python_tag|>get_weather.call(city=\"Pa'ris, )\", n=[1, 2.5, None, True], o={'a': [1, -2]})",
}


@case
def calls_are_parsed():
    with_tools = {"tools": TOOLS}
    for name, text in FORMATS.items():
        equal((name, parts(text, with_tools)[1:]), (name, (None, [("get_weather", ARGS)], "tool_calls")))
    for name, text in PYTHON.items():
        _, content, calls, finish = parts(text, with_tools)
        equal((name, content, finish, len(calls)), (name, None, "tool_calls", 1))
        equal((calls[0][0], json.loads(calls[0][1])), ("get_weather", {"city": "Pa'ris, )", "n": [1, 2.5, None, True], "o": {"a": [1, -2]}}))
    for name, text in TAGS.items():
        _, content, calls, finish = parts(text, with_tools)
        equal((name, content, finish, len(calls)), (name, None, "tool_calls", 1))
        equal((calls[0][0], json.loads(calls[0][1])), ("get_weather", {"city": 'Pa"ris', "n": [1, {"a": None}]}))
    two = '<minimax:tool_call><invoke name="a"></invoke><invoke name="b"></invoke></minimax:tool_call>'
    equal(parts(two, with_tools)[1:], (None, [("a", "{}"), ("b", "{}")], "tool_calls"))
    equal(parts(two, {**with_tools, "parallel_tool_calls": False})[1:], (None, [("a", "{}")], "tool_calls"))
    for text in ('<tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>\n{"name": "b"}\n</tool_call>', '<tool_call>[{"name": "a", "arguments": {}}, {"name": "b"}]</tool_call>',
                 '[TOOL_CALLS][{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]', '[TOOL_CALLS]a[ARGS]{}[TOOL_CALLS]b[ARGS]{}',
                 '<|python_tag|>{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}', '<function_calls>\na()\nb()\n</function_calls>'):
        equal(parts(text, with_tools)[1:], (None, [("a", "{}"), ("b", "{}")], "tool_calls"))
    equal(parts('Let me see.\n\n<tool_call>{"name": "time", "arguments": "{\\"a\\": \\"\\\\u00e9\\"}"}</tool_call>', with_tools)[1:],
          ("Let me see.", [("time", '{"a": "\\u00e9"}')], "tool_calls"))
    equal(parts('<tool_call>{"name": "time", "arguments": {}}</tool_call> Done.', with_tools)[1:], ("Done.", [("time", "{}")], "tool_calls"))
    equal(parts('<think>Call <tool_call>?</think>\n<tool_call>{"name": "time"}</tool_call>', with_tools, template=THINKS), ("Call <tool_call>?", None, [("time", "{}")], "tool_calls"))
    equal(parts('<tool_call>{"name": "time", "arguments": {"a": 1', with_tools, finish="length")[1:], (None, [("time", '{"a": 1')], "length"))
    one = parts('<tool_call>{"name": "a", "arguments": {}}</tool_call><tool_call>{"name": "b"}</tool_call>', {**with_tools, "parallel_tool_calls": False})
    equal(one[1:], (None, [("a", "{}")], "tool_calls"))
    short = both("chat", {"messages": USER, **with_tools}, answers=['[TOOL_CALLS][{"name": "a", "arguments": {}}]'], template="{# [TOOL_CALLS] #}x{{ tools }}")
    equal(len(short["answer"]["choices"][0]["message"]["tool_calls"][0]["id"]), 9)


@case
def what_is_no_call_is_text():
    with_tools = {"tools": TOOLS}
    for text in ('{"name": "unknown", "parameters": {}}', '{"temperature": 21, "unit": "C"}', "[1, 2, 3]", "{", "[", "[link](http://x)", "import functools\nfunctools.reduce(f)",
                 "<tool_call>not JSON</tool_call>", "<tool_call>{\"name\": 5}</tool_call>", " \n{\"a\": 1}\n", "x <tool_call", "functools[1]", "[unknown(a=1)]", "[get_weather(a=b)]",
                 "[get_weather(a=1", "<tool_call>{\"name\": \"time\", \"arguments\": 5}</tool_call>", "[TOOL_CAL", "<tool_call><function=f></tool_call>", "<tool_call><function=f><parameter=a>", "<tool_call><function=f><parameter=>Paris</parameter></function></tool_call>", "<tool_call>a b</tool_call> x", "<tool_call>hello</tool_call>",
                 "[TOOL_CALLS]{\"a\": 1}", "{\"name\": \"get_weather"):
        got = parts(text, with_tools)
        equal(got[1:], (text, [], "stop"))
    equal(parts(FORMATS["hermes"])[1:3], (FORMATS["hermes"], []))
    equal(parts(FORMATS["llama"], {**with_tools, "tool_choice": "none"})[1:3], (FORMATS["llama"], []))


@case
def streams_of_calls_carry_arguments_as_they_come():
    out = chat(FORMATS["hermes"], {"stream": True, "tools": TOOLS})
    pieces = [d["tool_calls"][0]["function"]["arguments"] for c in chunks(out["sse"]) for d in [c["choices"][0]["delta"]] if "tool_calls" in d]
    assert len(pieces) > 10 and "".join(pieces) == ARGS, pieces
    out = both("responses", {"input": "hi", "tools": [{"type": "function", **WEATHER["function"]}, {"type": "function", **TIME["function"]}]},
               answers=['Well.\n<tool_call>{"name": "get_weather", "arguments": {"city": "x"}}</tool_call><tool_call>{"name": "time"}</tool_call>'])["answer"]
    equal([(i["type"], i.get("name"), i.get("arguments")) for i in out["output"]],
          [("message", None, None), ("function_call", "get_weather", '{"city": "x"}'), ("function_call", "time", "{}")])


@case
def random_cuts_change_nothing():
    rng = random.Random(5)
    pool = list(FORMATS.values()) + list(PYTHON.values()) + list(TAGS.values()) + ["<think>hm</think>", "text ", "\n", "<tool_call>", "</tool_call>", "{", "}", "[", "]", '"', "<", "\u00e9", ", "]
    for _ in range(100):
        text = "".join(rng.choice(pool) for _ in range(rng.randint(1, 5)))[:rng.choice((30, 4000))]
        both("chat", {"messages": USER, "tools": TOOLS, "parallel_tool_calls": rng.random() < 0.8}, answers=[text], template=rng.choice((None, THINKS)))
        both("responses", {"input": "x", "tools": [{"type": "function", **WEATHER["function"]}]}, answers=[text])


# What a template writes of an assistant's call, its model writes too.  These write none, or in a form that is not parsed.
NO_CALLS = ("LFM2", "falcon_h1", "granite", "gpt-oss", "command-r", "functionary", "gemma-4")


@case
def real_templates_write_calls_that_are_parsed():
    folder = os.environ.get("TRIREME_REFERENCE_DIR")
    files = sorted(pathlib.Path(folder, "chat", "templates").glob("*.jinja")) if folder else []
    arguments = {"city": "Paris", "n": [1, {"a": True}]}
    said = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": json.dumps(arguments)}}]}
    for f in files:
        line = {"template": f.read_text(encoding="utf-8")}
        before = prompt_of({"messages": USER, "tools": TOOLS}, **line)
        after = prompt_of({"messages": USER + [said], "tools": TOOLS, "add_generation_prompt": False}, **line)
        if any(n in f.name for n in NO_CALLS):
            continue
        thinking = before.rstrip().endswith("<think>")
        base = before[:before.rindex("<think>")] if thinking else before
        assert after.startswith(base), (f.name, after)
        _, content, calls, finish = parts(("</think>" if thinking else "") + after[len(base):], {"tools": TOOLS}, **line)
        equal((f.name, [(n, json.loads(a)) for n, a in calls], finish), (f.name, [("get_weather", arguments)], "tool_calls"))
    print(f"      ({len(files)} templates" + (")" if files else ": TRIREME_REFERENCE_DIR names none)"))


# ---- forms ----

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMS = [{"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}},
         {"structured_outputs": {"json": SCHEMA}}, {"structured_outputs": {"json": json.dumps(SCHEMA)}}, {"structured_outputs": {"regex": "[ab]+c"}},
         {"structured_outputs": {"choice": ["yes", "no"]}}, {"structured_outputs": {"grammar": 'root ::= "a" | "b"'}}, {"structured_outputs": {"json_object": True}},
         {"guided_json": SCHEMA}, {"guided_regex": "a|b"}, {"guided_choice": ["x", "y"]}, {"guided_grammar": 'root ::= "a"'}, {"guided_json_object": True}]


@case
def forms_become_grammars():
    for form in FORMS:
        assert ok("chat", {"messages": USER, **form})["requests"][0]["grammar"] > 0, form
        assert ok("completions", {"prompt": "x", **form})["requests"][0]["grammar"] > 0, form
        refused("chat", {"messages": USER, **form, "tools": TOOLS}, "tools")
        assert ok("chat", {"messages": USER, **form, "tools": TOOLS, "tool_choice": "none"})["requests"][0]["grammar"] > 0
    for none in ({}, {"response_format": {"type": "text"}}, {"structured_outputs": {}}, {"structured_outputs": {"json_object": False}}, {"guided_json_object": False}):
        equal(ok("chat", {"messages": USER, **none, "tools": TOOLS} if none == {"response_format": {"type": "text"}} else {"messages": USER, **none})["requests"][0]["grammar"], 0)
    for text in ({"format": {"type": "json_object"}}, {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}):
        out = ok("responses", {"input": "x", "text": text}, answers=['{"a": 1}'])
        assert out["requests"][0]["grammar"] > 0
        equal(out["answer"]["text"], text)
    # What a grammar lets through is the answer: nothing is split out of it.
    equal(parts('{"a": "<think>x</think>"}', {"response_format": {"type": "json_object"}}, template=THINKS)[:2], (None, '{"a": "<think>x</think>"}'))
    for body, param in (({"response_format": {"type": "xml"}}, "response_format"), ({"response_format": {}}, "response_format"),
                        ({"response_format": {"type": "json_schema"}}, "response_format"), ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
                        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"), ({"structured_outputs": {"choice": "x"}}, "structured_outputs.choice"),
                        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"), ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
                        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"), ({"structured_outputs": {"grammar": "root"}}, "structured_outputs.grammar"),
                        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, None), ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
                        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "guided_json"),
                        ({"guided_json": {"type": "nonsense"}}, "guided_json"), ({"guided_whitespace_pattern": "x"}, "guided_whitespace_pattern")):
        out = call("chat", {"messages": USER, **body})
        assert out["http"] == 400 and param in (None, out["error"]["param"]), (body, out)


@case
def calls_are_forced():
    text = f'[{{"name": "get_weather", "arguments": {ARGS}}}, {{"name": "time", "arguments": {{}}}}]'
    body = {"messages": USER, "tools": TOOLS, "tool_choice": "required"}
    out = both("chat", body, answers=[text])
    assert out["requests"][0]["grammar"] > 0
    message = out["answer"]["choices"][0]["message"]
    equal(([(t["function"]["name"], t["function"]["arguments"]) for t in message["tool_calls"]], message["content"], out["answer"]["choices"][0]["finish_reason"]),
          ([("get_weather", ARGS), ("time", "{}")], None, "tool_calls"))
    one = both("chat", {**body, "parallel_tool_calls": False}, answers=[text])
    equal((len(one["answer"]["choices"][0]["message"]["tool_calls"]), one["cancelled"]), (1, [0]))
    body["tool_choice"] = {"type": "function", "function": {"name": "get_weather"}}
    out = both("chat", body, answers=[ARGS])
    choice = out["answer"]["choices"][0]
    assert out["requests"][0]["grammar"] > 0
    equal((choice["message"]["tool_calls"][0]["function"], choice["message"]["content"], choice["finish_reason"]), ({"name": "get_weather", "arguments": ARGS}, None, "stop"))
    flat = [{"type": "function", **t["function"]} for t in TOOLS]
    for choice in ({"type": "function", "name": "get_weather"}, "required"):
        out = both("responses", {"input": "x", "tools": flat, "tool_choice": choice}, answers=[ARGS if choice != "required" else text])
        equal(out["answer"]["output"][0]["arguments"], ARGS)


# ---- the other routes ----

@case
def embeddings_are_given():
    v = [3.0, 4.0, 12.0, 0.0]
    out = ok("embeddings", {"input": ["a", "b"]}, dim=4, embedding=v)
    equal([(d["object"], d["index"], d["embedding"]) for d in out["answer"]["data"]], [("embedding", 0, v), ("embedding", 1, v)])
    equal(out["answer"]["usage"], {"prompt_tokens": 2, "total_tokens": 2})
    equal([(r["pooling"], r["normalize"], r["max_tokens"]) for r in out["requests"]], [(1, True, 1)] * 2)
    cut = ok("embeddings", {"input": [1, 2], "dimensions": 2, "encoding_format": "base64"}, dim=4, embedding=v)["answer"]["data"][0]["embedding"]
    got = struct.unpack("<2f", base64.b64decode(cut))
    assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(got, (0.6, 0.8))), got
    refused("embeddings", {"input": "a"}, "model")
    for name, value in (("dimensions", 5), ("dimensions", 0), ("encoding_format", "hex"), ("input", []), ("input", 5), ("temperature", 1)):
        refused("embeddings", {"input": "a", name: value}, name, dim=4)


@case
def tokens_are_counted():
    equal(ok("tokenize", {"prompt": "ab t"})["answer"], {"count": 2, "max_model_len": 4096, "tokens": [266, 267], "token_strs": None})
    equal(ok("tokenize", {"messages": USER, "add_generation_prompt": False, "return_token_strs": True})["answer"]["token_strs"],
          ["<|im_start|>", "u", "s", "e", "r", "\u010a", "h", "i", "<|im_end|>", "\u010a"])
    equal(ok("detokenize", {"tokens": [266, 257]})["answer"], {"prompt": "ab<|im_end|>"})
    refused("tokenize", {}, "prompt")
    refused("tokenize", {"prompt": "x", "messages": USER}, "prompt")
    refused("detokenize", {"tokens": ["x"]}, "tokens")
    refused("detokenize", {}, "tokens")


def main():
    global L
    L = Lines(sys.argv[1])
    words, failed = sys.argv[2:], 0
    for f in CASES:
        if words and not any(w in f.__name__ for w in words):
            continue
        try:
            f()
            print(f"ok    {f.__name__}")
        except AssertionError as e:
            failed += 1
            print(f"wrong {f.__name__} (line {e.__traceback__.tb_next.tb_lineno}): {str(e)[:3000]}")
    L.close()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
