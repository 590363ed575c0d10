/* tests/gateway/test_registry.c - replicas join with their text fetched and verified, share it, leave, and are refused where something is wrong. */
#include "coordinator/gateway/registry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "shard/checkpoint.h"

typedef struct seen { /* what the registry had its owner do */
    int n_requests, n_welcomes, n_goodbyes, n_drops, n_left, n_opens;
    bool retry;
    char reason[256];
    wire_peer asked;
    uint8_t sha256[HASH_SHA256_BYTES];
    uint64_t offsets[64];
    uint32_t bytes[64];
    gateway_text *opening;
} seen;

static seen s;
static gateway_registry *r;
static shard_text_asset *assets;
static size_t n_assets;

static status on_send(void *arg, wire_peer peer, const Trireme__Envelope *e)
{
    (void)arg;
    if (e->body_case == TRIREME__ENVELOPE__BODY_WELCOME)
        s.n_welcomes++;
    if (e->body_case == TRIREME__ENVELOPE__BODY_GOODBYE) {
        s.n_goodbyes++;
        s.retry = e->goodbye->retry;
        snprintf(s.reason, sizeof(s.reason), "%s", e->goodbye->reason);
    }
    if (e->body_case == TRIREME__ENVELOPE__BODY_ASSET_REQUEST) {
        s.asked = peer;
        memcpy(s.sha256, e->asset_request->sha256.data, sizeof(s.sha256));
        s.offsets[s.n_requests % 64] = e->asset_request->offset;
        s.bytes[s.n_requests++ % 64] = e->asset_request->bytes;
    }
    return ST_OK;
}

static void on_drop(void *arg, wire_peer peer)
{
    (void)arg, (void)peer;
    s.n_drops++;
}

static void on_open(void *arg, gateway_text *text)
{
    (void)arg;
    s.n_opens++;
    s.opening = text;
}

static void on_left(void *arg, const gateway_replica *replica)
{
    (void)arg, (void)replica;
    s.n_left++;
}

static int begin(void **state)
{
    (void)state;
    gateway_registry_options o = {.gateway = "g", .fetch_seconds = 10, .send = on_send, .drop = on_drop, .open = on_open, .left = on_left};
    s = (seen){0};
    return gateway_registry_create(&o, &r) == ST_OK ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    gateway_registry_destroy(&r);
    return 0;
}

static void hello(wire_peer peer, const char *name, const char *model, const char *digest, const char *numerics)
{
    static uint8_t hashes[32][HASH_SHA256_BYTES];
    static Trireme__AssetName names[32];
    Trireme__AssetName *pointers[32];
    Trireme__Hello h = TRIREME__HELLO__INIT;
    for (size_t i = 0; i < n_assets; i++) {
        trireme__asset_name__init(&names[i]);
        hash_sha256_of(assets[i].data, assets[i].len, hashes[i]);
        names[i].name = assets[i].name;
        names[i].sha256 = (ProtobufCBinaryData){HASH_SHA256_BYTES, hashes[i]};
        names[i].bytes = assets[i].len;
        pointers[i] = &names[i];
    }
    h.version = "1";
    h.replica = (char *)name;
    h.model = (char *)model;
    h.checkpoint_digest = (char *)digest;
    h.numerics_id = (char *)numerics;
    h.max_model_len = 1000 + (int32_t)peer;
    h.vocab = 1 << 20;
    h.max_num_seqs = 4;
    h.block_tokens = 16;
    h.kv_blocks = 100;
    h.tp = (int32_t)peer;
    h.pp = 1;
    h.n_assets = n_assets;
    h.assets = pointers;
    gateway_registry_hello(r, peer, "key", &h, 0);
}

static const shard_text_asset *asked_asset(void)
{
    uint8_t digest[HASH_SHA256_BYTES];
    for (size_t i = 0; i < n_assets; i++) {
        hash_sha256_of(assets[i].data, assets[i].len, digest);
        if (memcmp(digest, s.sha256, sizeof(digest)) == 0)
            return &assets[i];
    }
    return NULL;
}

static void send_chunk(wire_peer peer, uint64_t offset, uint32_t n, bool wrong)
{
    const shard_text_asset *a = asked_asset();
    assert_non_null(a);
    Trireme__AssetChunk c = TRIREME__ASSET_CHUNK__INIT;
    uint8_t sha256[HASH_SHA256_BYTES], *data = malloc(n);
    memcpy(sha256, s.sha256, sizeof(sha256));
    memcpy(data, (const uint8_t *)a->data + offset, n);
    data[0] ^= wrong;
    c.sha256 = (ProtobufCBinaryData){sizeof(sha256), sha256};
    c.offset = offset;
    c.data = (ProtobufCBinaryData){n, data};
    gateway_registry_chunk(r, peer, &c, 1);
    free(data);
}

/* Answers all requests until the text is to be opened. */
static void send_text(wire_peer peer)
{
    for (int i = 0; s.n_opens == 0 && i < s.n_requests && i < 1000; i++) {
        assert_int_equal(s.asked, peer);
        send_chunk(peer, s.offsets[i % 64], s.bytes[i % 64], false);
    }
    assert_int_equal(s.n_opens, 1);
}

static void join(wire_peer peer, const char *name)
{
    hello(peer, name, "m", "digest-a", "n1");
    send_text(peer);
    gateway_text_open(s.opening);
    gateway_registry_opened(r, s.opening, 2);
}

static gateway_model *model(const char *name, status want)
{
    gateway_model *m = NULL;
    assert_int_equal(gateway_registry_model(r, name, &m), want);
    return m;
}

static void a_replica_is_ready_once_its_text_is_here(void **state)
{
    (void)state;
    model("m", ST_BUSY);
    hello(1, "a", "m", "digest-a", "n1");
    assert_int_equal(s.n_welcomes, 1);
    assert_string_equal(gateway_replica_state(gateway_registry_find(r, 1)), "joining");
    send_text(1);
    model("m", ST_BUSY);
    gateway_text_open(s.opening);
    gateway_registry_opened(r, s.opening, 2);
    assert_string_equal(gateway_replica_state(gateway_registry_find(r, 1)), "ready");
    gateway_model *m = model("m", ST_OK), *same = model("", ST_OK);
    assert_ptr_equal(m, same);
    assert_int_equal(m->api.max_model_len, 1001);
    assert_non_null(shard_text_tokenizer(m->api.text));
    assert_string_equal(m->fingerprint, "fp_digest-a_1_tp1pp1");
    gateway_model_release(&same);
    gateway_model_release(&m);
    model("other", ST_NOT_FOUND);
}

static void a_second_one_shares_text_and_model(void **state)
{
    (void)state;
    join(1, "a");
    gateway_model *before = model("m", ST_OK);
    int asked = s.n_requests;
    hello(2, "b", "m", "digest-a", "n2");
    assert_int_equal(s.n_requests, asked);
    assert_true(gateway_registry_find(r, 2)->ready);
    assert_int_not_equal(gateway_registry_find(r, 1)->numerics, gateway_registry_find(r, 2)->numerics);
    gateway_model *after = model("m", ST_OK);
    assert_ptr_not_equal(before, after); /* a version each; requests under way keep theirs */
    assert_ptr_equal(before->served, after->served);
    assert_int_equal(after->api.max_model_len, 1001); /* what both can do */
    assert_int_equal(after->max_num_seqs, 8);
    assert_non_null(strstr(after->fingerprint, "tp2pp1"));
    gateway_model_release(&before);
    gateway_model_release(&after);
}

static void one_restarted_is_ready_at_once(void **state)
{
    (void)state;
    join(1, "a");
    gateway_registry_gone(r, 1, "it died");
    assert_int_equal(s.n_left, 1);
    assert_null(gateway_registry_find(r, 1));
    gateway_model *m = model("m", ST_OK); /* still known: requests may wait for it */
    assert_false(gateway_served_has_replica(m->served));
    gateway_model_release(&m);
    gateway_model *models[4];
    assert_int_equal(gateway_registry_models(r, models, 4), 0);
    int asked = s.n_requests;
    hello(2, "a", "m", "digest-a", "n1");
    assert_int_equal(s.n_requests, asked);
    assert_true(gateway_registry_find(r, 2)->ready);
    assert_int_equal(gateway_registry_models(r, models, 4), 1);
    gateway_model_release(&models[0]);
}

static void another_goes_on_fetching(void **state)
{
    (void)state;
    hello(1, "a", "m", "digest-a", "n1");
    hello(2, "b", "m", "digest-a", "n1");
    assert_int_equal(s.asked, 1);
    gateway_registry_gone(r, 1, "");
    assert_int_equal(s.asked, 2);
    s.n_requests = 1; /* the first chunk again is what it wants */
    s.offsets[0] = s.offsets[1];
    s.bytes[0] = s.bytes[1];
    send_text(2);
    gateway_text_open(s.opening);
    gateway_registry_opened(r, s.opening, 2);
    assert_true(gateway_registry_find(r, 2)->ready);
}

static void wrong_text_is_refused(void **state)
{
    (void)state;
    hello(1, "a", "m", "digest-a", "n1");
    send_chunk(1, 1, 10, false); /* not from where it was asked */
    assert_int_equal(s.n_goodbyes, 1);
    assert_null(gateway_registry_find(r, 1));
    hello(2, "a", "m", "digest-a", "n1");
    int first = s.n_requests - 1;
    send_chunk(2, s.offsets[first % 64], s.bytes[first % 64], true); /* a wrong byte: the hash tells */
    for (int i = first + 1; i < s.n_requests && s.n_goodbyes == 1; i++)
        send_chunk(2, s.offsets[i % 64], s.bytes[i % 64], false);
    assert_int_equal(s.n_goodbyes, 2);
    assert_true(s.retry);
    assert_int_equal(s.n_opens, 0);
    hello(3, "a", "m", "digest-a", "n1");
    gateway_registry_tick(r, 9);
    assert_int_equal(s.n_goodbyes, 2);
    gateway_registry_tick(r, 11); /* it sends nothing */
    assert_int_equal(s.n_goodbyes, 3);
    assert_null(gateway_registry_first(r));
}

static void a_name_has_one_checkpoint_at_a_time(void **state)
{
    (void)state;
    join(1, "a");
    hello(2, "b", "m", "digest-b", "n1");
    assert_int_equal(s.n_goodbyes, 1);
    assert_true(s.retry);
    assert_non_null(strstr(s.reason, "another checkpoint"));
    hello(3, "c", "m2", "digest-b", "n1");
    assert_true(gateway_registry_find(r, 3)->ready);
    model("", ST_NOT_FOUND); /* two are served: a request must say which */
    gateway_registry_gone(r, 1, "");
    hello(4, "d", "m", "digest-b", "n1"); /* now it may */
    assert_true(gateway_registry_find(r, 4)->ready);
}

static void load_and_health_are_kept(void **state)
{
    (void)state;
    join(1, "a");
    Trireme__Load load = TRIREME__LOAD__INIT;
    load.running = 3;
    load.steps = 7;
    load.draining = true;
    gateway_registry_load(r, 1, &load, 5);
    const gateway_replica *p = gateway_registry_find(r, 1);
    assert_int_equal(p->load->running, 3);
    assert_true(p->progressed == 5);
    gateway_registry_load(r, 1, &load, 6); /* no step more, and something runs: no progress */
    assert_true(p->progressed == 5);
    assert_string_equal(gateway_replica_state(p), "draining");
    Trireme__Health health = TRIREME__HEALTH__INIT;
    health.detail = "rank 1 hangs";
    gateway_registry_health(r, 1, &health);
    assert_string_equal(gateway_replica_state(p), "stalled");
    assert_string_equal(p->detail, "rank 1 hangs");
    gateway_registry_load(r, 99, &load, 6); /* of nobody */
    gateway_registry_health(r, 99, &health);
}

int main(void)
{
    shard_checkpoint *c;
    shard_open_options o = {0};
    if (shard_checkpoint_open(TEST_SOURCE_DIR "/golden/gemma", &o, &c) != ST_OK || shard_checkpoint_text_assets(c, &assets, &n_assets) != ST_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_replica_is_ready_once_its_text_is_here, begin, end),
        cmocka_unit_test_setup_teardown(a_second_one_shares_text_and_model, begin, end),
        cmocka_unit_test_setup_teardown(one_restarted_is_ready_at_once, begin, end),
        cmocka_unit_test_setup_teardown(another_goes_on_fetching, begin, end),
        cmocka_unit_test_setup_teardown(wrong_text_is_refused, begin, end),
        cmocka_unit_test_setup_teardown(a_name_has_one_checkpoint_at_a_time, begin, end),
        cmocka_unit_test_setup_teardown(load_and_health_are_kept, begin, end),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    shard_text_assets_free(assets, n_assets);
    shard_checkpoint_close(&c);
    return failed;
}
