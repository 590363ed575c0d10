#include "tests/shard_files/make.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/half.h"
#include "base/hash.h"

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "test set-up failed: %s\n", what);
    abort();
}

char *make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char *path = NULL;
    must(asprintf(&path, "%s/trireme-test-XXXXXX", tmp == NULL ? "/tmp" : tmp) > 0 && mkdtemp(path) != NULL, "a temporary folder");
    return path;
}

void make_remove(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        struct stat sb;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char *path = make_path(folder, e->d_name);
        if (lstat(path, &sb) == 0 && S_ISDIR(sb.st_mode))
            make_remove(path);
        else
            unlink(path);
        free(path);
    }
    if (d != NULL)
        closedir(d);
    rmdir(folder);
}

char *make_path(const char *folder, const char *name)
{
    char *path = file_join(folder, name);
    must(path != NULL, "memory");
    return path;
}

void make_file(const char *folder, const char *name, const void *bytes, size_t n)
{
    char *path = make_path(folder, name);
    must(file_write_all(path, bytes, n, 0644) == ST_OK, path);
    free(path);
}

void make_text(const char *folder, const char *name, const char *text)
{
    make_file(folder, name, text, strlen(text));
}

float make_value(const char *hf_name, int64_t row, int64_t col)
{
    uint64_t h = hash_mix(hash_fast(hf_name, strlen(hf_name), 1) ^ hash_mix((uint64_t)row * 1000003 + (uint64_t)col));
    return (float)((int)(h % 255) - 127) / 64;
}

static void put_value(mem_str *s, shard_dtype dtype, float v)
{
    uint16_t half = dtype == SHARD_F16 ? half_f32_to_f16(v) : half_f32_to_bf16(v);
    if (dtype == SHARD_F32)
        mem_str_append(s, &v, 4);
    else
        mem_str_append(s, &half, 2);
}

/* ---- safetensors ---- */

void make_st_tensor(make_st *s, const char *name, const char *hf_name, shard_dtype dtype, int64_t rows, int64_t cols, bool transposed)
{
    int64_t outer = transposed ? cols : rows, inner = cols == 0 ? 1 : transposed ? rows : cols;
    size_t begin = s->data.len;
    for (int64_t r = 0; r < outer; r++) {
        for (int64_t c = 0; c < inner; c++)
            put_value(&s->data, dtype, transposed ? make_value(hf_name, c, r) : make_value(hf_name, r, c));
    }
    mem_str_printf(&s->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", s->header.len == 0 ? "{" : ",", name, shard_dtype_name(dtype),
                   (long long)outer);
    if (cols > 0)
        mem_str_printf(&s->header, ",%lld", (long long)inner);
    mem_str_printf(&s->header, "],\"data_offsets\":[%zu,%zu]}", begin, s->data.len);
}

static void write_st(const char *folder, const char *name, const mem_str *header, const mem_str *data)
{
    mem_str file = {0};
    uint64_t n = header->len;
    mem_str_append(&file, &n, 8);
    mem_str_append(&file, header->data, header->len);
    mem_str_append(&file, data->data, data->len);
    must(!file.failed, "memory");
    make_file(folder, name, file.data, file.len);
    mem_str_free(&file);
}

void make_st_write(make_st *s, const char *folder, const char *name)
{
    mem_str_putc(&s->header, '}');
    must(!s->header.failed && !s->data.failed, "memory");
    write_st(folder, name, &s->header, &s->data);
    mem_str_free(&s->header);
    mem_str_free(&s->data);
}

void make_st_raw(const char *folder, const char *name, const char *header, size_t data_bytes)
{
    mem_str h = {0}, d = {0};
    mem_str_puts(&h, header);
    for (size_t i = 0; i < data_bytes; i++)
        mem_str_putc(&d, 0);
    write_st(folder, name, &h, &d);
    mem_str_free(&h);
    mem_str_free(&d);
}

/* ---- GGUF ---- */

static void put_u32(mem_str *s, uint32_t v)
{
    mem_str_append(s, &v, 4);
}

static void put_str(mem_str *s, const char *v)
{
    uint64_t n = strlen(v);
    mem_str_append(s, &n, 8);
    mem_str_append(s, v, (size_t)n);
}

static void put_key(make_gguf *g, const char *key, uint32_t kind)
{
    put_str(&g->kv, key);
    put_u32(&g->kv, kind);
    g->n_kv++;
}

void make_gguf_u32(make_gguf *g, const char *key, uint32_t v)
{
    put_key(g, key, 4);
    put_u32(&g->kv, v);
}

void make_gguf_u16(make_gguf *g, const char *key, uint16_t v)
{
    put_key(g, key, 2);
    mem_str_append(&g->kv, &v, 2);
}

void make_gguf_f32(make_gguf *g, const char *key, float v)
{
    put_key(g, key, 6);
    mem_str_append(&g->kv, &v, 4);
}

void make_gguf_str(make_gguf *g, const char *key, const char *v)
{
    put_key(g, key, 8);
    put_str(&g->kv, v);
}

void make_gguf_strs(make_gguf *g, const char *key, const char *const *v, size_t n)
{
    uint64_t count = n;
    put_key(g, key, 9);
    put_u32(&g->kv, 8);
    mem_str_append(&g->kv, &count, 8);
    for (size_t i = 0; i < n; i++)
        put_str(&g->kv, v[i]);
}

/* Where GGUF keeps row r of a head of `rotary` rows, the other way round: the Hugging Face row at GGUF row r. */
static int64_t hf_row(int64_t r, int64_t rotary)
{
    if (rotary == 0)
        return r;
    int64_t head = r / rotary, j = r % rotary;
    return head * rotary + (j % 2 == 0 ? j / 2 : rotary / 2 + j / 2);
}

static void put_row(mem_str *s, const char *hf_name, shard_dtype dtype, int64_t row, int64_t cols)
{
    for (int64_t c = 0; c < cols; c++) {
        float v = make_value(hf_name, row, c);
        if (dtype == SHARD_Q8_0) {
            uint16_t scale = half_f32_to_f16(1.0f / 64);
            if (c % 32 == 0)
                mem_str_append(s, &scale, 2);
            mem_str_putc(s, (char)(int)(v * 64));
        } else {
            put_value(s, dtype, v);
        }
    }
}

void make_gguf_tensor(make_gguf *g, const char *name, const char *hf_name, shard_dtype dtype, int64_t rows, int64_t cols, int64_t rotary)
{
    static const struct {
        shard_dtype dtype;
        uint32_t ggml;
    } types[] = {{SHARD_F32, 0}, {SHARD_F16, 1}, {SHARD_BF16, 30}, {SHARD_Q8_0, 8}};
    uint32_t ggml = 0;
    uint64_t inner = (uint64_t)(cols == 0 ? rows : cols), outer = (uint64_t)rows;
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        ggml = types[i].dtype == dtype ? types[i].ggml : ggml;
    while (g->data.len % 32 != 0)
        mem_str_putc(&g->data, 0);
    uint64_t offset = g->data.len;
    put_str(&g->infos, name);
    put_u32(&g->infos, cols == 0 ? 1 : 2);
    mem_str_append(&g->infos, &inner, 8);
    if (cols > 0)
        mem_str_append(&g->infos, &outer, 8);
    put_u32(&g->infos, ggml);
    mem_str_append(&g->infos, &offset, 8);
    g->n_tensors++;
    for (int64_t r = 0; r < rows; r++)
        put_row(&g->data, hf_name, dtype, hf_row(r, rotary), cols == 0 ? 1 : cols);
}

void make_gguf_bytes(make_gguf *g, mem_str *out)
{
    mem_str_append(out, "GGUF", 4);
    put_u32(out, g->version == 0 ? 3 : g->version);
    mem_str_append(out, &g->n_tensors, 8);
    mem_str_append(out, &g->n_kv, 8);
    mem_str_append(out, g->kv.data, g->kv.len);
    mem_str_append(out, g->infos.data, g->infos.len);
    while (out->len % 32 != 0)
        mem_str_putc(out, 0);
    mem_str_append(out, g->data.data, g->data.len);
    must(!out->failed && !g->kv.failed && !g->infos.failed && !g->data.failed, "memory");
    mem_str_free(&g->kv);
    mem_str_free(&g->infos);
    mem_str_free(&g->data);
}

void make_gguf_write(make_gguf *g, const char *folder, const char *name)
{
    mem_str file = {0};
    make_gguf_bytes(g, &file);
    make_file(folder, name, file.data, file.len);
    mem_str_free(&file);
}

/* ---- the llama ---- */

static const struct {
    const char *hf, *gguf;
    int64_t rows, cols, rotary;
} layer_tensors[] = {
    {"input_layernorm", "attn_norm", 64, 0, 0},
    {"self_attn.q_proj", "attn_q", 64, 64, 16},
    {"self_attn.k_proj", "attn_k", 32, 64, 16},
    {"self_attn.v_proj", "attn_v", 32, 64, 0},
    {"self_attn.o_proj", "attn_output", 64, 64, 0},
    {"post_attention_layernorm", "ffn_norm", 64, 0, 0},
    {"mlp.gate_proj", "ffn_gate", 96, 64, 0},
    {"mlp.up_proj", "ffn_up", 96, 64, 0},
    {"mlp.down_proj", "ffn_down", 64, 96, 0},
};

void make_llama_config(const char *folder)
{
    make_text(folder, "config.json",
              "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
              "\"head_dim\":16,\"num_hidden_layers\":2,\"intermediate_size\":96,\"vocab_size\":70,\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,"
              "\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"hidden_act\":\"silu\",\"torch_dtype\":\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":2}");
}

void make_llama_folder(const char *folder, shard_dtype dtype)
{
    make_st s = {0};
    char name[128];
    make_llama_config(folder);
    make_text(folder, "generation_config.json", "{\"eos_token_id\":[2,5],\"bos_token_id\":1,\"temperature\":0.6,\"top_p\":0.9}");
    make_st_tensor(&s, "model.embed_tokens.weight", "model.embed_tokens.weight", dtype, 70, 64, false);
    make_st_tensor(&s, "model.norm.weight", "model.norm.weight", dtype, 64, 0, false);
    for (int layer = 0; layer < 2; layer++) {
        for (size_t i = 0; i < ARRAY_LEN(layer_tensors); i++) {
            snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer, layer_tensors[i].hf);
            make_st_tensor(&s, name, name, dtype, layer_tensors[i].rows, layer_tensors[i].cols, false);
        }
    }
    make_st_write(&s, folder, "model.safetensors");
}

void make_llama_metadata(make_gguf *g, int part, int count)
{
    static const char *const tokens[] = {"<unk>", "<s>", "</s>", "a", "b"};
    if (count > 0) {
        make_gguf_u16(g, "split.no", (uint16_t)part);
        make_gguf_u16(g, "split.count", (uint16_t)count);
        make_gguf_u32(g, "split.tensors.count", 20);
        if (part > 0)
            return;
    }
    make_gguf_str(g, "general.architecture", "llama");
    make_gguf_str(g, "general.name", "Tiny test llama");
    make_gguf_str(g, "general.license", "apache-2.0");
    make_gguf_u32(g, "general.base_model.count", 1);
    make_gguf_str(g, "general.base_model.0.name", "Tiny Base");
    make_gguf_u32(g, "llama.block_count", 2);
    make_gguf_u32(g, "llama.embedding_length", 64);
    make_gguf_u32(g, "llama.context_length", 128);
    make_gguf_u32(g, "llama.feed_forward_length", 96);
    make_gguf_u32(g, "llama.attention.head_count", 4);
    make_gguf_u32(g, "llama.attention.head_count_kv", 2);
    make_gguf_u32(g, "llama.vocab_size", 70);
    make_gguf_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    make_gguf_f32(g, "llama.rope.freq_base", 10000);
    make_gguf_str(g, "tokenizer.ggml.model", "llama");
    make_gguf_strs(g, "tokenizer.ggml.tokens", tokens, 5);
    make_gguf_u32(g, "tokenizer.ggml.bos_token_id", 1);
    make_gguf_u32(g, "tokenizer.ggml.eos_token_id", 2);
    make_gguf_str(g, "tokenizer.chat_template", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
    make_gguf_str(g, "tokenizer.chat_template.tool_use", "tools");
}

void make_llama_gguf_layer(make_gguf *g, int layer, shard_dtype dtype)
{
    char name[128], hf[128];
    for (size_t i = 0; i < ARRAY_LEN(layer_tensors); i++) {
        snprintf(name, sizeof(name), "blk.%d.%s.weight", layer, layer_tensors[i].gguf);
        snprintf(hf, sizeof(hf), "model.layers.%d.%s.weight", layer, layer_tensors[i].hf);
        make_gguf_tensor(g, name, hf, layer_tensors[i].cols == 0 ? SHARD_F32 : dtype, layer_tensors[i].rows, layer_tensors[i].cols, layer_tensors[i].rotary);
    }
}

void make_llama_gguf(const char *folder, const char *name, shard_dtype dtype)
{
    make_gguf g = {0};
    make_llama_metadata(&g, 0, 0);
    make_gguf_tensor(&g, "token_embd.weight", "model.embed_tokens.weight", dtype, 70, 64, 0);
    make_gguf_tensor(&g, "output_norm.weight", "model.norm.weight", SHARD_F32, 64, 0, 0);
    make_llama_gguf_layer(&g, 0, dtype);
    make_llama_gguf_layer(&g, 1, dtype);
    make_gguf_write(&g, folder, name);
}
