/* tests/comm_wire/test_wire_security.c - who has no allowed key gets nothing, not even a look; who has one is named by it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "base/log.h"
#include "pair.h"

typedef struct keyed {
    char *dir;
    wire_security gateway, replica;
    wire_server *server;
} keyed;

static keyed keyed_open(void)
{
    keyed k = {.dir = test_dir_make()};
    assert_int_equal(wire_keys_dir_create(k.dir), ST_OK);
    assert_int_equal(wire_security_gateway(k.dir, &k.gateway), ST_OK);
    assert_int_equal(wire_security_replica(k.dir, NULL, &k.replica), ST_OK);
    k.server = server_open("tcp://127.0.0.1:*", &k.gateway, 100, 0);
    return k;
}

static void keyed_close(keyed *k)
{
    wire_server_destroy(&k->server);
    wire_security_clear(&k->gateway);
    wire_security_clear(&k->replica);
    test_dir_remove(&k->dir);
}

static char *key_path(const keyed *k, const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", k->dir, name);
    return path;
}

static void gets_nothing(keyed *k, const wire_security *security, const char *problem)
{
    wire_client *c = client_open(wire_server_endpoint(k->server), security, "intruder", 1, 100);
    wire_received r;
    for (double end = log_clock() + PATIENCE; strstr(wire_client_problem(c), problem) == NULL;) {
        assert_int_equal(wire_server_receive(k->server, 2, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
        assert_int_equal(wire_client_receive(c, 2, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
        if (log_clock() > end)
            fail_msg("\"%s\" expected in: %s", problem, wire_client_problem(c));
    }
    expect_nothing(k->server, c, 0.3);
    wire_counters n;
    wire_client_counters(c, &n);
    assert_int_equal(n.messages_in, 0);
    wire_server_counters(k->server, &n);
    assert_int_equal(n.messages_in, 0); /* what it sent was not even read */
    assert_int_equal(n.peers, 0);
    wire_client_destroy(&c);
}

static void an_allowed_key_names_its_peer(void **state)
{
    (void)state;
    keyed k = keyed_open();
    char *dir = test_dir_make(), ipc[256];
    snprintf(ipc, sizeof(ipc), "ipc://%s/socket", dir);
    for (int local = 0; local < 2; local++) {
        wire_server *s = server_open(local ? ipc : "tcp://127.0.0.1:*", &k.gateway, 0, 0);
        wire_client *c = client_open(wire_server_endpoint(s), &k.replica, "node", 1, 0);
        wire_received r = server_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO);
        assert_string_equal(r.user, "replica"); /* the key's name, not the replica's */
        wire_peer peer = r.peer;
        welcome(s, peer);
        client_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_WELCOME);
        /* A large message, which encryption makes larger still. */
        Trireme__AssetChunk chunk = TRIREME__ASSET_CHUNK__INIT;
        Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
        uint8_t digest[32] = {0};
        e.body_case = TRIREME__ENVELOPE__BODY_ASSET_CHUNK;
        e.asset_chunk = &chunk;
        chunk.sha256 = (ProtobufCBinaryData){32, digest};
        chunk.data = (ProtobufCBinaryData){WIRE_ASSET_CHUNK, calloc(1, WIRE_ASSET_CHUNK)};
        assert_non_null(chunk.data.data);
        assert_int_equal(wire_client_send(c, &e), ST_OK);
        assert_int_equal(server_expect(s, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_ASSET_CHUNK).message->asset_chunk->data.len, WIRE_ASSET_CHUNK);
        free(chunk.data.data);
        wire_client_destroy(&c);
        wire_server_destroy(&s);
    }
    test_dir_remove(&dir);
    keyed_close(&k);
}

static void an_unknown_key_gets_nothing_until_it_is_allowed(void **state)
{
    (void)state;
    keyed k = keyed_open();
    wire_security stranger = k.replica;
    assert_int_equal(wire_keys_create(&stranger.keys), ST_OK);
    gets_nothing(&k, &stranger, "does not admit our key");
    wire_counters n;
    wire_server_counters(k.server, &n);
    assert_true(n.refused_keys > 0);
    wire_client *c = client_open(wire_server_endpoint(k.server), &stranger, "node7", 1, 100);
    expect_nothing(k.server, c, 0.2);
    assert_int_equal(wire_keys_write(key_path(&k, "node7"), &stranger.keys), ST_OK);
    assert_int_equal(wire_keys_dir_allow(k.dir, "node7", key_path(&k, "node7.pub")), ST_OK);
    wire_received r = server_expect(k.server, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_HELLO); /* the gateway was not restarted */
    assert_string_equal(r.user, "node7");
    wire_client_destroy(&c);
    keyed_close(&k);
}

static void a_key_that_is_removed_ends_its_session(void **state)
{
    (void)state;
    keyed k = keyed_open();
    wire_client *c = client_open(wire_server_endpoint(k.server), &k.replica, "node", 1, 100);
    wire_peer peer = session_open(k.server, c);
    assert_int_equal(unlink(key_path(&k, "allow/replica.pub")), 0);
    wire_received r = server_expect(k.server, c, WIRE_GONE, 0);
    assert_int_equal(r.peer, peer);
    assert_string_equal(r.reason, "its key is no longer allowed");
    for (double end = log_clock() + PATIENCE; strstr(wire_client_problem(c), "does not admit our key") == NULL && log_clock() < end;) {
        wire_received mine;
        assert_int_equal(wire_server_receive(k.server, 2, &r), ST_OK);
        assert_int_equal(r.kind, WIRE_NOTHING);
        assert_int_equal(wire_client_receive(c, 2, &mine), ST_OK);
    }
    assert_non_null(strstr(wire_client_problem(c), "does not admit our key"));
    wire_client_destroy(&c);
    keyed_close(&k);
}

static void without_encryption_one_gets_nothing(void **state)
{
    (void)state;
    keyed k = keyed_open();
    gets_nothing(&k, &no_security, "encryption");
    keyed_close(&k);
}

static void with_the_wrong_gateways_key_one_gets_nothing(void **state)
{
    (void)state;
    keyed k = keyed_open();
    wire_security misled = k.replica;
    wire_keys other;
    assert_int_equal(wire_keys_create(&other), ST_OK);
    memcpy(misled.server_key, other.public_key, WIRE_KEY);
    gets_nothing(&k, &misled, "encryption");
    keyed_close(&k);
}

static void an_encrypting_replica_does_not_talk_to_a_plain_gateway(void **state)
{
    (void)state;
    keyed k = keyed_open();
    wire_server_destroy(&k.server);
    k.server = server_open("tcp://127.0.0.1:*", &no_security, 100, 0);
    gets_nothing(&k, &k.replica, "encryption");
    keyed_close(&k);
}

static void another_replica_may_not_take_a_name_over(void **state)
{
    (void)state;
    keyed k = keyed_open();
    wire_security other;
    assert_int_equal(wire_keys_dir_add(k.dir, "other"), ST_OK);
    assert_int_equal(wire_security_replica(k.dir, "other", &other), ST_OK);
    wire_client *c = client_open(wire_server_endpoint(k.server), &k.replica, "node", 5, 100);
    wire_peer peer = session_open(k.server, c);
    wire_client *thief = client_open(wire_server_endpoint(k.server), &other, "node", 5, 100); /* name and epoch are right, the key is another */
    wire_received r = {0}, mine;
    for (double end = log_clock() + PATIENCE; r.kind == WIRE_NOTHING && log_clock() < end;) {
        wire_received at_server;
        assert_int_equal(wire_client_receive(c, 2, &mine), ST_OK);
        assert_int_equal(mine.kind, WIRE_NOTHING);
        assert_int_equal(wire_server_receive(k.server, 2, &at_server), ST_OK);
        assert_int_equal(at_server.kind, WIRE_NOTHING);
        assert_int_equal(wire_client_receive(thief, 2, &r), ST_OK);
    }
    assert_int_equal(r.kind, WIRE_MESSAGE);
    assert_int_equal(r.message->body_case, TRIREME__ENVELOPE__BODY_GOODBYE);
    Trireme__Cancel cancel;
    Trireme__Envelope e = cancel_of(&cancel, 1);
    assert_int_equal(wire_server_send(k.server, peer, &e), ST_OK);
    client_expect(k.server, c, WIRE_MESSAGE, TRIREME__ENVELOPE__BODY_CANCEL);
    wire_client_destroy(&thief);
    wire_client_destroy(&c);
    wire_security_clear(&other);
    keyed_close(&k);
}

static void a_folder_open_to_others_admits_nobody(void **state)
{
    (void)state;
    keyed k = keyed_open();
    wire_server *s = NULL;
    char *allow = strdup(key_path(&k, "allow"));
    assert_int_equal(chmod(allow, 0777), 0);
    assert_int_equal(wire_server_create(&(wire_server_options){.endpoint = "tcp://127.0.0.1:*", .security = &k.gateway}, &s), ST_INVALID);
    assert_non_null(strstr(status_message(), "chmod go-w"));
    usleep(300000); /* older than what a handshake accepts of the list */
    wire_security replica = k.replica;
    gets_nothing(&k, &replica, "does not admit our key");
    assert_int_equal(chmod(allow, 0700), 0);
    wire_client *c = client_open(wire_server_endpoint(k.server), &k.replica, "node", 1, 100);
    session_open(k.server, c);
    wire_client_destroy(&c);
    /* A file that is no key is passed over. */
    FILE *f = fopen(key_path(&k, "allow/broken.pub"), "w");
    assert_non_null(f);
    fputs("not a key\n", f);
    fclose(f);
    usleep(300000);
    c = client_open(wire_server_endpoint(k.server), &k.replica, "node2", 1, 100);
    session_open(k.server, c);
    wire_client_destroy(&c);
    free(allow);
    keyed_close(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_allowed_key_names_its_peer),
        cmocka_unit_test(an_unknown_key_gets_nothing_until_it_is_allowed),
        cmocka_unit_test(a_key_that_is_removed_ends_its_session),
        cmocka_unit_test(without_encryption_one_gets_nothing),
        cmocka_unit_test(with_the_wrong_gateways_key_one_gets_nothing),
        cmocka_unit_test(an_encrypting_replica_does_not_talk_to_a_plain_gateway),
        cmocka_unit_test(another_replica_may_not_take_a_name_over),
        cmocka_unit_test(a_folder_open_to_others_admits_nobody),
    };
    if (!zmq_has("curve")) {
        print_message("skipped: this libzmq has no CURVE\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
