/* The header traceparent (W3C Trace Context, level 1): what is one, and what is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "coordinator/gateway/otlp.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00f067aa0ba902b7"

static void what_is_one(void **state)
{
    (void)state;
    static const uint8_t trace[] = {0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}, parent[] = {0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7};
    static const struct {
        const char *text;
        bool sampled;
    } cases[] = {{"00-" TRACE "-" PARENT "-01", true},       {"00-" TRACE "-" PARENT "-00", false}, {"00-" TRACE "-" PARENT "-03", true},
                 {"00-" TRACE "-" PARENT "-02", false},      {"01-" TRACE "-" PARENT "-01", true},  {"cc-" TRACE "-" PARENT "-01-what the future will bring", true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        otlp_context c = {0};
        assert_true(otlp_traceparent_parse(cases[i].text, &c));
        assert_memory_equal(c.trace, trace, sizeof(trace));
        assert_memory_equal(c.parent, parent, sizeof(parent));
        assert_true(c.has_parent);
        assert_int_equal(c.sampled, cases[i].sampled);
    }
}

static void what_is_none(void **state)
{
    (void)state;
    static const char *const cases[] = {"",
                                        "00",
                                        "00-" TRACE "-" PARENT,
                                        "00-" TRACE "-" PARENT "-",
                                        "00-" TRACE "-" PARENT "-0",
                                        "00-" TRACE "-" PARENT "-0x",
                                        "00-" TRACE "-" PARENT "-011",
                                        "00-" TRACE "-" PARENT "-01-more",
                                        "01-" TRACE "-" PARENT "-01more",
                                        "ff-" TRACE "-" PARENT "-01",
                                        "0x-" TRACE "-" PARENT "-01",
                                        "00_" TRACE "-" PARENT "-01",
                                        "00-00000000000000000000000000000000-" PARENT "-01",
                                        "00-" TRACE "-0000000000000000-01",
                                        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" PARENT "-01",
                                        "00-4bf92f3577b34da6a3ce929d0e0e473-" PARENT "-01 ",
                                        " 00-" TRACE "-" PARENT "-01"};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        otlp_context c = {.has_parent = false, .sampled = true};
        assert_false(otlp_traceparent_parse(cases[i], &c));
        assert_false(c.has_parent); /* untouched */
    }
}

static void no_collector_no_trace(void **state)
{
    (void)state;
    otlp_context c;
    otlp_context_make(NULL, "00-" TRACE "-" PARENT "-01", &c);
    assert_false(c.sampled);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_one), cmocka_unit_test(what_is_none), cmocka_unit_test(no_collector_no_trace)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
