#include "coordinator/client/workload.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

enum { MAX_FILE = INT32_MAX, TRUSTED = 16, CORRECTIONS = 4, BYTES_PER_TOKEN = 4, PREFIX_SEED = 0x70726566 };

/* Words that most tokenizers have as one token each, with a space before them. */
static const char *const words[] = {
    "the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his", "they", "at", "be", "this", "have", "from", "or", "one",
    "had", "by", "but", "not", "what", "all", "were", "we", "when", "your", "can", "said", "there", "use", "an", "each", "which", "she", "do", "how", "their", "if", "will",
    "up", "other", "about", "out", "many", "then", "them", "these", "so", "some", "her", "would", "make", "like", "him", "into", "time", "has", "look", "two", "more", "write",
    "go", "see", "number", "no", "way", "could", "people", "my", "than", "first", "water", "been", "call", "who", "its", "now", "find", "long", "down", "day", "did", "get",
    "come", "made", "may", "part", "over", "new", "sound", "take", "only", "little", "work", "know", "place", "year", "live", "me", "back", "give", "most", "very", "after",
    "thing", "our", "just", "name", "good", "man", "think", "say", "great", "where", "help", "through", "much", "before", "line", "right", "too", "mean", "old", "any", "same",
    "tell", "boy", "follow", "came", "want", "show", "also", "around", "form", "three", "small", "set", "put", "end", "does", "another", "well", "large", "must", "big", "even",
    "such", "because", "turn", "here", "why", "ask", "went", "men", "read", "need", "land", "home", "us", "move", "try", "kind", "hand", "again", "change", "off", "play",
};

double client_uniform(uint64_t seed, uint64_t i)
{
    return (double)(hash_mix(hash_mix(seed) + i * 0x9e3779b97f4a7c15u) >> 11) * 0x1p-53;
}

/* ---- building ---- */

static status segment_add(client_workload *w, client_item *item, uint64_t seed, int32_t n)
{
    if (n == 0)
        return ST_OK;
    TRY(mem_grow(&w->segments, &w->cap_segments, w->n_segments + 1, sizeof(*w->segments), "parts of prompts"));
    if (item->n_segments++ == 0)
        item->first_segment = w->n_segments;
    w->segments[w->n_segments++] = (client_segment){seed, n};
    return ST_OK;
}

/* Uniform in [length * (1 - ratio), length * (1 + ratio)], at least 1. */
static int32_t draw_length(int32_t length, double ratio, uint64_t seed, uint64_t i)
{
    double low = floor(length * (1 - ratio)), high = ceil(length * (1 + ratio));
    int32_t n = (int32_t)(low + floor(client_uniform(seed, i) * (high - low + 1)));
    return n < 1 ? 1 : n;
}

static status make_random(const client_data_options *o, client_workload *w)
{
    for (int32_t i = 0; i < w->n; i++) {
        client_item *item = &w->items[i];
        int32_t own = draw_length(o->input_len, o->range_ratio, o->seed + 1, (uint64_t)i);
        item->n_prompt = o->prefix_len + own;
        item->n_output = draw_length(o->output_len, o->range_ratio, o->seed + 2, (uint64_t)i);
        TRY(segment_add(w, item, hash_mix(o->seed + PREFIX_SEED), o->prefix_len));
        TRY(segment_add(w, item, hash_mix(o->seed + 3) + (uint64_t)i, own));
    }
    return ST_OK;
}

/* A random order of n things, from a seed. */
static status order_make(int32_t n, uint64_t seed, int32_t **out)
{
    TRY(mem_calloc((size_t)n, sizeof(**out), "order", out));
    for (int32_t i = 0; i < n; i++) {
        int32_t k = (int32_t)(client_uniform(seed, (uint64_t)i) * (i + 1));
        (*out)[i] = (*out)[k];
        (*out)[k] = i;
    }
    return ST_OK;
}

static status make_prefixes(const client_data_options *o, client_workload *w)
{
    int32_t *order;
    TRY(order_make(w->n, o->seed + 4, &order));
    status st = ST_OK;
    for (int32_t i = 0; i < w->n && st == ST_OK; i++) {
        client_item *item = &w->items[i];
        item->n_prompt = o->prefix_len + o->input_len;
        item->n_output = o->output_len;
        st = segment_add(w, item, hash_mix(o->seed + PREFIX_SEED) + (uint64_t)(order[i] % o->n_prefixes), o->prefix_len);
        if (st == ST_OK)
            st = segment_add(w, item, hash_mix(o->seed + 3) + (uint64_t)i, o->input_len);
    }
    free(order);
    return st;
}

/* ---- a trace ---- */

static status item_add(client_workload *w, int32_t *cap, client_item **out)
{
    if (w->n == *cap) {
        int32_t n = *cap * 2 + 1024;
        client_item *p = realloc(w->items, (size_t)n * sizeof(*p));
        if (p == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for %d requests", n);
        w->items = p;
        *cap = n;
    }
    *out = &w->items[w->n++];
    **out = (client_item){0};
    return ST_OK;
}

static status trace_blocks(const char *where, const json_t *ids, uint64_t seed, client_workload *w, client_item *item)
{
    int32_t left = item->n_prompt;
    for (size_t i = 0; i < json_array_size(ids) && left > 0; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id))
            return FAIL(ST_FORMAT, "%s: hash_ids must be whole numbers", where);
        int32_t n = left < CLIENT_TRACE_BLOCK ? left : CLIENT_TRACE_BLOCK;
        TRY(segment_add(w, item, hash_mix(seed + 5) + (uint64_t)json_integer_value(id), n));
        left -= n;
    }
    return segment_add(w, item, hash_mix(seed + 3) + (uint64_t)w->n, left);
}

static status trace_line(const char *where, const json_t *line, const client_data_options *o, client_workload *w, client_item *item)
{
    double ms = 0;
    json_t *ids;
    if (!json_is_object(line))
        return FAIL(ST_FORMAT, "%s: not a JSON object with timestamp, input_length and output_length", where);
    TRY(json_get_f64(line, where, "timestamp", -1, &ms));
    TRY(json_get_i32(line, where, "input_length", 0, 1, CLIENT_MAX_TOKENS, &item->n_prompt));
    TRY(json_get_i32(line, where, "output_length", 0, 1, CLIENT_MAX_TOKENS, &item->n_output));
    TRY(json_get_arr(line, where, "hash_ids", &ids));
    if (ms < 0 || item->n_prompt == 0 || item->n_output == 0)
        return FAIL(ST_FORMAT, "%s: timestamp (ms, from 0), input_length and output_length are needed", where);
    item->at = ms * 1e-3 / o->trace_speed;
    return trace_blocks(where, ids, o->seed, w, item);
}

static int by_time(const void *x, const void *y)
{
    double a = ((const client_item *)x)->at, b = ((const client_item *)y)->at;
    return (a > b) - (a < b);
}

status client_trace_parse(const char *where, const char *text, size_t len, const client_data_options *o, client_workload *w)
{
    int32_t cap = 0;
    size_t number = 1;
    for (size_t at = 0; at < len && (o->n == 0 || w->n < o->n); number++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end != NULL ? (size_t)(end - text) - at : len - at;
        char place[512];
        json_t *line;
        client_item *item = NULL;
        snprintf(place, sizeof(place), "%.440s, line %zu", where, number);
        if (strspn(text + at, " \t\r") < n) {
            TRY(json_parse(place, text + at, n, &line));
            status st = item_add(w, &cap, &item);
            if (st == ST_OK)
                st = trace_line(place, line, o, w, item);
            json_decref(line);
            TRY(st);
        }
        at += n + 1;
    }
    if (w->n == 0)
        return FAIL(ST_FORMAT, "%s: no line of a trace in it", where);
    qsort(w->items, (size_t)w->n, sizeof(*w->items), by_time);
    double first = w->items[0].at;
    for (int32_t i = 0; i < w->n; i++)
        w->items[i].at -= first;
    return ST_OK;
}

static status make_trace(const client_data_options *o, client_workload *w)
{
    char *text;
    size_t len;
    TRY(file_read_all(o->path, MAX_FILE, &text, &len));
    status st = client_trace_parse(o->path, text, len, o, w);
    free(text);
    return st;
}

/* ---- conversations ---- */

static const json_t *turn_text(const json_t *turn)
{
    const json_t *v = json_object_get(turn, "value");
    return json_is_string(v) ? v : json_object_get(turn, "content");
}

status client_sharegpt_parse(const char *where, json_t *file, uint64_t seed, json_t **out)
{
    int32_t n = (int32_t)json_array_size(file), *order;
    json_t *pairs = json_array();
    if (!json_is_array(file)) {
        json_decref(pairs);
        return FAIL(ST_FORMAT, "%s: not a list of conversations: [{\"conversations\": [{\"from\": \"human\", \"value\": ...}, ...]}, ...]", where);
    }
    TRY(order_make(n > 0 ? n : 1, seed, &order));
    for (int32_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(file, (size_t)order[i]), *turns = json_object_get(one, "conversations");
        turns = turns != NULL ? turns : json_object_get(one, "messages");
        const json_t *question = turn_text(json_array_get(turns, 0)), *answer = turn_text(json_array_get(turns, 1));
        if (json_is_string(question) && json_is_string(answer) && json_string_length(question) > 0)
            json_array_append_new(pairs, json_pack("[OO]", question, answer));
    }
    free(order);
    if (json_array_size(pairs) == 0) {
        json_decref(pairs);
        return FAIL(ST_FORMAT, "%s: no conversation of two turns in it", where);
    }
    *out = pairs;
    return ST_OK;
}

/* Tokens of a text as the server counts them, else by its length. */
static status count(client_workload *w, client_server *server, const char *model, const char *text, bool add_special, int32_t *n)
{
    status st = w->uncounted ? ST_UNSUPPORTED : client_tokenize(server, model, text, add_special, n, NULL);
    if (st != ST_UNSUPPORTED)
        return st;
    w->uncounted = true;
    *n = (int32_t)(strlen(text) / BYTES_PER_TOKEN) + 1;
    return ST_OK;
}

/* As vLLM does: neither too short to measure anything nor longer than 1024 tokens, 2048 with the answer. */
static bool fits(int32_t n_prompt, int32_t n_output, bool output_given)
{
    return n_prompt >= 4 && (n_output >= 4 || output_given) && n_prompt <= 1024 && n_prompt + n_output <= 2048;
}

static status make_sharegpt(const client_data_options *o, client_server *server, const char *model, client_workload *w)
{
    json_t *file, *pairs;
    log_progress progress;
    int32_t n = 0;
    TRY(json_parse_file(o->path, MAX_FILE, &file));
    status st = client_sharegpt_parse(o->path, file, o->seed, &pairs);
    json_decref(file);
    TRY(st);
    log_progress_begin(&progress, "counting tokens", (unsigned long long)w->n, false);
    for (size_t i = 0; i < json_array_size(pairs) && n < w->n && st == ST_OK; i++) {
        const json_t *pair = json_array_get(pairs, i);
        client_item *item = &w->items[n];
        const char *question = json_string_value(json_array_get(pair, 0)), *answer = json_string_value(json_array_get(pair, 1));
        st = count(w, server, model, question, o->add_special, &item->n_prompt);
        item->n_output = o->output_len;
        if (st == ST_OK && item->n_output == 0)
            st = count(w, server, model, answer, false, &item->n_output);
        if (st != ST_OK || !fits(item->n_prompt, item->n_output, o->output_len > 0))
            continue;
        item->text = strdup(question);
        st = item->text != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for a prompt");
        log_progress_update(&progress, (unsigned long long)++n);
    }
    log_progress_end(&progress);
    json_decref(pairs);
    if (st == ST_OK && n == 0)
        st = FAIL(ST_FORMAT, "%s: no conversation of 4 to 1024 tokens, 2048 with its answer", o->path);
    for (int32_t i = n; i < w->n && st == ST_OK; i++) { /* fewer than asked for: they come again */
        w->items[i] = w->items[i - n];
        w->items[i].text = strdup(w->items[i - n].text);
        st = w->items[i].text != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for a prompt");
    }
    return st;
}

/* ---- spelling ---- */

static void put_words(const client_workload *w, const client_item *item, uint64_t salt, mem_str *out)
{
    bool first = true;
    for (size_t k = 0; k < item->n_segments; k++) {
        const client_segment *s = &w->segments[item->first_segment + k];
        for (int32_t i = 0; i < s->n; i++) {
            const char *word = words[(size_t)(client_uniform(s->seed ^ salt, (uint64_t)i) * ARRAY_LEN(words))];
            if (!first)
                mem_str_putc(out, ' ');
            mem_str_puts(out, word);
            first = false;
        }
    }
}

static void put_number(mem_str *out, int32_t v)
{
    char text[16], *p = text + sizeof(text);
    do {
        *--p = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    mem_str_append(out, p, (size_t)(text + sizeof(text) - p));
}

static void put_ids(const client_workload *w, const client_item *item, uint64_t salt, mem_str *out)
{
    bool first = true;
    mem_str_putc(out, '[');
    for (size_t k = 0; k < item->n_segments; k++) {
        const client_segment *s = &w->segments[item->first_segment + k];
        for (int32_t i = 0; i < s->n; i++) {
            double u = client_uniform(s->seed ^ salt, (uint64_t)i);
            if (!first)
                mem_str_putc(out, ',');
            put_number(out, w->vocab_size > 0 ? (int32_t)(u * w->vocab_size) : w->ids[(size_t)(u * (double)w->n_ids)]);
            first = false;
        }
    }
    mem_str_putc(out, ']');
}

void client_prompt_put(const client_workload *w, const client_item *item, uint64_t salt, mem_str *out)
{
    if (item->text != NULL) {
        json_t *text = json_string(item->text);
        char *line = text == NULL ? NULL : json_line(text);
        mem_str_puts(out, line != NULL ? line : "\"\"");
        out->failed = out->failed || line == NULL;
        free(line);
        json_decref(text);
    } else if (w->text) { /* nothing in the words needs escaping */
        mem_str_putc(out, '"');
        put_words(w, item, salt, out);
        mem_str_putc(out, '"');
    } else {
        put_ids(w, item, salt, out);
    }
}

/* ---- ids that exist, words that are counted ---- */

/* The tokens of all words, each once. */
static status tokenize_words(client_server *server, const char *model, int32_t *n, json_t **ids)
{
    mem_str all = {0};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        mem_str_printf(&all, "%s%s", i > 0 ? " " : "", words[i]);
    status st = all.failed ? FAIL(ST_NO_MEMORY, "no memory for words") : client_tokenize(server, model, all.data, false, n, ids);
    mem_str_free(&all);
    return st;
}

static status take_ids(client_server *server, const char *model, client_workload *w)
{
    json_t *ids = NULL;
    int32_t n = 0;
    status st = tokenize_words(server, model, &n, &ids);
    if (st == ST_UNSUPPORTED)
        return FAIL(ST_UNSUPPORTED, "%s has no /tokenize to learn token ids from: give --vocab-size N, or send text with --prompts text", server->url);
    if (st == ST_OK && n == 0)
        st = FAIL(ST_PEER, "%s/tokenize makes no tokens of English words: give --vocab-size N", server->url);
    if (st == ST_OK)
        st = mem_calloc((size_t)n, sizeof(*w->ids), "token ids", &w->ids);
    for (int32_t i = 0; i < n && st == ST_OK; i++) {
        json_int_t v = json_integer_value(json_array_get(ids, (size_t)i));
        if (v < 0 || v > INT32_MAX)
            st = FAIL(ST_PEER, "%s/tokenize gives an id of %lld", server->url, (long long)v);
        else
            w->ids[w->n_ids++] = (int32_t)v;
    }
    json_decref(ids);
    return st;
}

/* Tokens of a prompt of words. */
static status count_item(client_workload *w, client_server *server, const char *model, const client_item *item, bool add_special, int32_t *n)
{
    mem_str text = {0};
    put_words(w, item, 0, &text);
    mem_str_putc(&text, '\0');
    status st = text.failed ? FAIL(ST_NO_MEMORY, "no memory for a prompt") : client_tokenize(server, model, text.data, add_special, n, NULL);
    mem_str_free(&text);
    return st;
}

/* Corrects the number of words of an item's last segment until the server counts n_prompt tokens, or no number of words gives as many. *right: the guess was. */
static status fit_item(client_workload *w, client_server *server, const char *model, const client_item *item, bool add_special, double each, bool *right)
{
    client_segment *last = &w->segments[item->first_segment + item->n_segments - 1];
    int32_t n = 0;
    *right = false;
    for (int i = 0; i < CORRECTIONS; i++) {
        TRY(count_item(w, server, model, item, add_special, &n));
        *right = i == 0 && n == item->n_prompt;
        int32_t by = (int32_t)lround((item->n_prompt - n) * each);
        if (by == 0)
            break;
        last->n = last->n + by > 1 ? last->n + by : 1;
    }
    return ST_OK;
}

/* Words for tokens: as many as the server makes of a token on average, equally in every segment, so that those that are shared stay so; then each prompt's last one is
 * corrected.  Where several prompts in a row come out as guessed, the others are taken to do so too. */
static status fit_words(const client_data_options *o, client_server *server, const char *model, client_workload *w)
{
    log_progress progress;
    int32_t right = 0, special = 0, n = 0;
    client_item none = {0};
    TRY(tokenize_words(server, model, &n, NULL));
    if (o->add_special)
        TRY(count_item(w, server, model, &none, true, &special));
    double each = n > 0 ? (double)ARRAY_LEN(words) / n : 1;
    each = each > 0.95 && each < 1.05 ? 1 : each;
    for (size_t i = 0; i < w->n_segments; i++) {
        int32_t scaled = (int32_t)lround(w->segments[i].n * each);
        w->segments[i].n = scaled > 1 ? scaled : 1;
    }
    status st = ST_OK;
    log_progress_begin(&progress, "counting tokens", (unsigned long long)w->n, false);
    for (int32_t i = 0; i < w->n && st == ST_OK; i++) {
        const client_item *item = &w->items[i];
        client_segment *last = &w->segments[item->first_segment + item->n_segments - 1];
        bool good = false;
        last->n = last->n > special ? last->n - special : 1;
        if (right < TRUSTED)
            st = fit_item(w, server, model, item, o->add_special, each, &good);
        right += right < TRUSTED ? (good ? 1 : -right) : 0;
        log_progress_update(&progress, (unsigned long long)i + 1);
    }
    log_progress_end(&progress);
    return st;
}

/* ---- all of it ---- */

static status make(const client_data_options *o, client_server *server, const char *model, client_workload *w)
{
    w->text = o->text;
    w->vocab_size = o->vocab_size;
    if (o->kind != CLIENT_TRACE) {
        TRY(mem_calloc((size_t)o->n, sizeof(*w->items), "requests", &w->items));
        w->n = o->n;
    }
    switch (o->kind) {
    case CLIENT_RANDOM:
        TRY(make_random(o, w));
        break;
    case CLIENT_PREFIX:
        TRY(make_prefixes(o, w));
        break;
    case CLIENT_TRACE:
        TRY(make_trace(o, w));
        break;
    case CLIENT_SHAREGPT:
        return make_sharegpt(o, server, model, w);
    }
    if (!w->text)
        return w->vocab_size > 0 ? ST_OK : take_ids(server, model, w);
    status st = fit_words(o, server, model, w);
    w->uncounted = st == ST_UNSUPPORTED; /* no /tokenize: each word stands for a token */
    return w->uncounted ? ST_OK : st;
}

status client_workload_create(const client_data_options *options, client_server *server, const char *model, client_workload *out)
{
    *out = (client_workload){0};
    status st = make(options, server, model, out);
    if (st != ST_OK)
        client_workload_free(out);
    return st;
}

void client_workload_free(client_workload *w)
{
    for (int32_t i = 0; i < w->n && w->items != NULL; i++)
        free(w->items[i].text);
    free(w->items);
    free(w->segments);
    free(w->ids);
    *w = (client_workload){0};
}
