// The page at /: a conversation with the served checkpoint, and what its replicas are doing.
//
// Plain functions over the same HTTP API that every client uses.  Text from the checkpoint reaches the page by textContent alone.
"use strict";

const $ = (id) => document.getElementById(id);

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// ---- the API ----

// A link ending in #key=... hands the key over; a fragment is never sent to a server.  It leaves the address bar at once.
function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    sessionStorage.setItem("trireme-key", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  $("key").value = sessionStorage.getItem("trireme-key") || "";
}

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: "Bearer " + key } : {};
}

// The reason in OpenAI's form, else the status.
async function reason(response) {
  let text = "";
  try {
    const body = await response.json();
    text = body.error && body.error.message;
  } catch (e) { /* not JSON */ }
  if (response.status === 401) return "An API key is needed, or this one is not valid: see Settings.";
  return text || "The service answered " + response.status + ".";
}

function setStatus(text, bad) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", Boolean(bad));
}

async function loadModels() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) {
    if (response.status === 401) $("settings").open = true;
    throw new Error(await reason(response));
  }
  const models = (await response.json()).data || [];
  const chosen = $("model").value;
  $("model").replaceChildren(...models.map((m) => new Option(m.id, m.id)));
  if (models.some((m) => m.id === chosen)) $("model").value = chosen;
  return models.length;
}

// ---- simple Markdown: fenced code, lists, paragraphs; `code` and **bold** inside.  Everything else stays as it was written. ----

function inline(parent, text) {
  for (const part of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) parent.append(element("code", "", part.slice(1, -1)));
    else if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) parent.append(element("strong", "", part.slice(2, -2)));
    else if (part) parent.append(document.createTextNode(part));
  }
  return parent;
}

function markdown(text) {
  const out = [];
  let code = null, list = null, paragraph = null;
  const close = () => { list = paragraph = null; };
  for (const line of text.split("\n")) {
    if (/^\s*```/.test(line)) {
      close();
      if (code) code = null;
      else {
        const pre = element("pre");
        code = element("code");
        pre.append(code);
        out.push(pre);
      }
    } else if (code) {
      code.textContent += line + "\n";
    } else if (line.trim() === "") {
      close();
    } else if (/^\s*[-*] /.test(line)) {
      if (!list) out.push(list = element("ul"));
      paragraph = null;
      list.append(inline(element("li"), line.replace(/^\s*[-*] /, "")));
    } else {
      if (!paragraph) out.push(paragraph = element("p"));
      else paragraph.append("\n");
      list = null;
      inline(paragraph, line);
    }
  }
  return out;
}

// ---- the conversation ----

const conversation = []; // {role, content} as the API wants them, without the system prompt
let running = null;      // the AbortController of the answer under way

function addMessage(role, text) {
  const e = element("div", "message " + role, text);
  $("log").append(e);
  e.scrollIntoView({ block: "end" });
  return e;
}

function request() {
  const body = { model: $("model").value, messages: conversation.slice(), stream: true, stream_options: { include_usage: true } };
  const system = $("system").value.trim(), temperature = $("temperature").value, most = $("max-tokens").value;
  if (system) body.messages.unshift({ role: "system", content: system });
  if (temperature !== "") body.temperature = Number(temperature);
  body.max_tokens = most !== "" ? Number(most) : 512;
  return body;
}

// The data of each server-sent event.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}

// Follows the bottom unless the reader has scrolled away from it.
function draw(message, answer) {
  const log = $("log"), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const parts = [];
  if (answer.reasoning) parts.push(element("div", "thought", answer.reasoning));
  parts.push(...markdown(answer.content));
  if (answer.figures) parts.push(element("p", "figures", answer.figures));
  message.replaceChildren(...parts);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function figures(times, usage) {
  const parts = [];
  if (times.first) parts.push("first token " + ((times.first - times.begin) / 1000).toFixed(2) + " s");
  const n = usage ? usage.completion_tokens : times.chunks, seconds = (times.last - times.first) / 1000;
  if (n) parts.push(n + " tokens");
  if (n > 1 && seconds > 0) parts.push(((n - 1) / seconds).toFixed(1) + " tokens/s");
  return parts.join(", ");
}

function takeChunk(answer, times, chunk) {
  if (chunk.error) throw new Error(chunk.error.message || "The answer was cut off.");
  if (chunk.usage) answer.usage = chunk.usage;
  const delta = chunk.choices && chunk.choices[0] && chunk.choices[0].delta;
  const content = delta && (delta.content || ""), thought = delta && (delta.reasoning || delta.reasoning_content || "");
  if (!content && !thought) return;
  times.last = performance.now();
  times.first = times.first || times.last;
  times.chunks++;
  answer.content += content;
  answer.reasoning += thought;
}

// Streams one answer into `message`; drawn once a frame however fast tokens come.
async function stream(message, answer, times) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers() },
    body: JSON.stringify(request()),
    signal: running.signal,
  });
  if (!response.ok) throw new Error(await reason(response));
  let drawing = false;
  for await (const data of events(response)) {
    if (data === "[DONE]") break;
    takeChunk(answer, times, JSON.parse(data));
    if (!drawing) {
      drawing = true;
      requestAnimationFrame(() => { drawing = false; draw(message, answer); });
    }
  }
}

function setRunning(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
  $("log").setAttribute("aria-busy", String(on)); // a screen reader waits for the whole answer
}

async function ask(text) {
  conversation.push({ role: "user", content: text });
  addMessage("user", text);
  const message = addMessage("assistant", "");
  const answer = { content: "", reasoning: "", figures: "", usage: null };
  const times = { begin: performance.now(), first: 0, last: 0, chunks: 0 };
  running = new AbortController();
  setRunning(true);
  let stopped = false;
  try {
    await stream(message, answer, times);
  } catch (e) {
    stopped = e.name === "AbortError";
    if (!stopped) addMessage("error", e.message);
  }
  running = null;
  setRunning(false);
  answer.figures = [figures(times, answer.usage), stopped ? "stopped" : ""].filter(Boolean).join(", ");
  if (answer.content) conversation.push({ role: "assistant", content: answer.content });
  else conversation.pop(); // as if it had not been asked
  if (answer.content || answer.reasoning || stopped) requestAnimationFrame(() => draw(message, answer));
  else message.remove();
}

function submit(event) {
  event.preventDefault();
  const text = $("input").value.trim();
  if (!text || running) return;
  $("input").value = "";
  ask(text);
}

function newConversation() {
  if (running) running.abort();
  conversation.length = 0;
  $("log").replaceChildren();
  $("input").focus();
}

// ---- the cluster ----

const looks = new Map(); // replica -> {at, counters, rates}: counters of the last look, tokens/s of the last minute
const SAMPLES = 60;

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let u = 0;
  while (n >= 1023.5 && u < units.length - 1) { n /= 1024; u++; }
  return n.toFixed(u > 0 && n < 99.95 ? 1 : 0) + " " + units[u];
}

const number = (n) => Number(n || 0).toLocaleString("en");
const perSecond = (n) => (n < 9.95 ? n.toFixed(1) : n.toFixed(0)) + "/s";

// Counters come as totals; what is shown is their growth since the last look.  A restarted replica counts from 0 again.
function rates(replica, now) {
  const counters = { generated: replica.generated_tokens || 0, prompt: replica.prompt_tokens || 0, ranks: replica.ranks || [] };
  const past = looks.get(replica.name) || { at: now, counters, line: [] };
  const seconds = (now - past.at) / 1000, grew = counters.generated >= past.counters.generated && counters.prompt >= past.counters.prompt;
  const r = { generated: 0, prompt: 0, past: grew ? past.counters.ranks : [] };
  if (seconds > 0 && grew) {
    r.generated = (counters.generated - past.counters.generated) / seconds;
    r.prompt = (counters.prompt - past.counters.prompt) / seconds;
  }
  r.line = past.line.concat(r.generated).slice(-SAMPLES);
  looks.set(replica.name, { at: now, counters, line: r.line });
  return r;
}

function pair(list, name, value) {
  const box = element("div");
  box.append(element("dt", "", name), element("dd", "", value));
  list.append(box);
}

function chart(line) {
  const ns = "http://www.w3.org/2000/svg", most = Math.max(1, ...line), svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 " + (SAMPLES - 1) + " 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "chart");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "tokens per second over the last minute, at most " + most.toFixed(0));
  const path = document.createElementNS(ns, "polyline");
  path.setAttribute("points", line.map((v, i) => (SAMPLES - line.length + i) + "," + (19 - 18 * v / most).toFixed(2)).join(" "));
  path.setAttribute("fill", "none");
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("vector-effect", "non-scaling-stroke");
  svg.append(path);
  return svg;
}

// Time of a step, and the share of it spent in sums between ranks and waiting for others, since the last look.
function rankRow(rank, past) {
  const before = past.find((p) => p.rank === rank.rank) || {}, grown = (k) => (rank[k] || 0) - (before[k] || 0);
  const steps = grown("steps"), seconds = grown("step_seconds"), waited = grown("exchange_seconds") + grown("wait_seconds");
  const row = element("tr");
  const cells = [rank.rank, rank.stage, rank.host || "", bytes(rank.resident_bytes || 0), bytes(rank.weight_bytes || 0), bytes(rank.kv_bytes || 0),
    steps > 0 ? (seconds / steps * 1000).toFixed(1) + " ms" : "idle", steps > 0 && seconds > 0 ? Math.min(100, waited / seconds * 100).toFixed(0) + " %" : ""];
  row.append(...cells.map((c) => element("td", "", String(c))));
  return row;
}

function rankTable(replica, r) {
  const box = element("div", "table"), table = element("table"), head = element("tr"), body = element("tbody"), top = element("thead");
  head.append(...["rank", "stage", "host", "memory", "weights", "KV", "step", "waiting"].map((n) => {
    const th = element("th", "", n);
    th.scope = "col";
    return th;
  }));
  top.append(head);
  body.append(...(replica.ranks || []).map((rank) => rankRow(rank, r.past)));
  table.append(element("caption", "", "Ranks"), top, body);
  box.append(table);
  return box;
}

function drawReplica(replica, now) {
  const r = rates(replica, now), box = element("article", "replica"), title = element("h3", "", replica.name), list = element("dl");
  const total = replica.kv_blocks || 0, used = Math.max(0, total - (replica.kv_blocks_free || 0)); // free ones may be cached too
  box.dataset.replica = replica.name;
  title.append(element("span", "state " + replica.state, replica.state));
  title.append(element("span", "state", [replica.model, replica.backend, "tp " + replica.tp + " x pp " + replica.pp].filter(Boolean).join(", ")));
  pair(list, "running", number(replica.running));
  pair(list, "waiting", number(replica.waiting));
  pair(list, "answer tokens", perSecond(r.generated));
  pair(list, "prompt tokens", perSecond(r.prompt));
  if (replica.prefix_queries > 0) pair(list, "prefix cache", (replica.prefix_hits / replica.prefix_queries * 100).toFixed(0) + " %");
  const label = element("label", "note", "KV cache: " + number(used) + " of " + number(total) + " blocks in use, " + number(replica.kv_blocks_cached) +
    " can be found again"), kv = element("meter");
  kv.max = total || 1;
  kv.value = used;
  kv.high = kv.max * 0.9;
  label.append(kv);
  box.append(title, list, label, chart(r.line), rankTable(replica, r));
  return { box, rate: r.generated };
}

function drawState(state) {
  const now = performance.now(), drawn = (state.replicas || []).map((replica) => drawReplica(replica, now)), list = $("totals");
  const requests = state.requests || {};
  list.replaceChildren();
  pair(list, "replicas", number((state.replicas || []).filter((r) => r.state === "ready").length));
  pair(list, "running", number(requests.running));
  pair(list, "waiting", number(requests.waiting));
  pair(list, "finished", number(requests.finished));
  pair(list, "tokens", perSecond(drawn.reduce((sum, d) => sum + d.rate, 0)));
  $("replicas").replaceChildren(...drawn.map((d) => d.box));
  if (!drawn.length) $("replicas").append(element("p", "note", "No replica has joined yet."));
  for (const name of looks.keys()) {
    if (!(state.replicas || []).some((r) => r.name === name)) looks.delete(name);
  }
  return drawn.length;
}

// Once a second while the page is seen; backs off while the service is away.
let delay = 1000;
async function look() {
  try {
    if (document.visibilityState === "visible") {
      const response = await fetch("state", { headers: headers() });
      if (!response.ok) throw new Error(await reason(response));
      const state = await response.json();
      drawState(state);
      if (!$("model").options.length) await loadModels();
      setStatus($("model").value ? $("model").value + " \u00b7 version " + (state.version || "?") : "waiting for a replica");
    }
    delay = 1000;
  } catch (e) {
    setStatus(e instanceof TypeError ? "The service does not answer." : e.message, true);
    delay = Math.min(delay * 2, 15000);
  }
  setTimeout(look, delay);
}

// ---- at start ----

function show(view) {
  document.querySelector("main").dataset.view = view;
  $("show-chat").setAttribute("aria-pressed", String(view === "chat"));
  $("show-cluster").setAttribute("aria-pressed", String(view === "cluster"));
}

function start() {
  takeKey();
  show("chat");
  $("show-chat").addEventListener("click", () => show("chat"));
  $("show-cluster").addEventListener("click", () => show("cluster"));
  $("form").addEventListener("submit", submit);
  $("stop").addEventListener("click", () => running && running.abort());
  $("clear").addEventListener("click", newConversation);
  $("input").addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) submit(e);
  });
  $("key").addEventListener("change", () => {
    sessionStorage.setItem("trireme-key", $("key").value.trim());
    loadModels().catch((e) => setStatus(e.message, true));
  });
  loadModels().catch((e) => setStatus(e.message, true)).then(look);
}

start();
