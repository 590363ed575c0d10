/* tests/shard_jinja/test_template.c - what templates render to, what they may not do, and where they are stopped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard_jinja/render.h"

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \"Hi\"},"
    " {\"role\": \"assistant\", \"content\": \"Hello \", \"reasoning\": \"greet\"}],"
    " \"variables\": {\"bos_token\": \"<s>\"}, \"kwargs\": {\"n\": 3, \"xs\": [3, 1, 2], \"d\": {\"b\": 1, \"a\": [true, null, 1.5]}, \"u\": \"na\xc3\xafve\"},"
    " \"now\": \"2026-02-03T14:05:06\"}";

static status render_with(const char *source, const char *extra, const shard_template_limits *limits, char **text)
{
    json_error_t error;
    json_t *line = json_loads(conversation, 0, &error), *more = extra == NULL ? json_object() : json_loads(extra, 0, &error);
    mem_str out = {0};
    assert_non_null(line);
    assert_non_null(more);
    json_object_update(line, more);
    status_mute();
    status st = render_json(source, strlen(source), line, limits, &out);
    status_unmute();
    json_decref(line);
    json_decref(more);
    *text = mem_str_take(&out);
    assert_non_null(*text);
    return st;
}

static void expect(const char *source, const char *want)
{
    char *text;
    status st = render_with(source, NULL, NULL, &text);
    if (st != ST_OK)
        print_error("%s: %s\n", source, status_message());
    assert_int_equal(st, ST_OK);
    assert_string_equal(text, want);
    free(text);
}

/* fails with the code, and a message that holds the words */
static void expect_failure(const char *source, status code, const char *words)
{
    char *text;
    status st = render_with(source, NULL, NULL, &text);
    if (st != code || strstr(status_message(), words) == NULL)
        print_error("%s: %s, \"%s\"\n", source, status_text(st), st == ST_OK ? text : status_message());
    assert_int_equal(st, code);
    assert_non_null(strstr(status_message(), words));
    assert_string_equal(text, ""); /* nothing half-rendered is left behind */
    free(text);
}

static void white_space_is_controlled(void **state)
{
    (void)state;
    expect("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc");
    expect("a {%- if true -%}  b  {%- endif %} c", "ab c");
    expect("  {%+ if true +%}\nx{% endif %}", "  \nx");
    expect("x {#- note -#} y{# z #}\n!", "xy!");
    expect("{% raw %}{{ x }}{% endraw %}", "{{ x }}");
    expect("{{ 1 }}\n{{ 2 }}\n", "1\n2");
}

static void values_print_as_python_prints_them(void **state)
{
    (void)state;
    expect("{{ d }} {{ [1, 'a', \"it's\"] }} {{ (1,) }} {{ none }}", "{'b': 1, 'a': [True, None, 1.5]} [1, 'a', \"it's\"] (1,) None");
    expect("{{ 1e16 }} {{ 0.1 + 0.2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 6 / 2 }} {{ 2 ** 10 }}", "1e+16 0.30000000000000004 -4 2 3.0 1024");
    expect("{{ d|tojson }} {{ u|tojson }} {{ u|tojson(ensure_ascii=true) }}", "{\"b\": 1, \"a\": [true, null, 1.5]} \"na\xc3\xafve\" \"na\\u00efve\"");
    expect("{{ d|tojson(indent=1, sort_keys=true) }}", "{\n \"a\": [\n  true,\n  null,\n  1.5\n ],\n \"b\": 1\n}");
    expect("{{ u|length }} {{ u[2] }} {{ u[::-1] }} {{ u|upper }}", "5 \xc3\xaf ev\xc3\xaf" "an NA\xc3\x8fVE");
    expect("{{ '%05.1f|%-4s|%x' % (2.25, 'a', 255) }} {{ '{:>4}|{!r}'.format('b', 'c') }}", "002.2|a   |ff    b|'c'");
}

static void statements_scope_as_in_jinja(void **state)
{
    (void)state;
    expect("{% set x = 1 %}{% for y in xs %}{% set x = y %}{% endfor %}{{ x }}", "1");
    expect("{% set ns = namespace(s=0) %}{% for y in xs %}{% set ns.s = ns.s + y %}{% endfor %}{{ ns.s }}", "6");
    expect("{% macro m() %}{{ v }}{% endmacro %}{{ m() }}{% set v = 1 %}{{ m() }}", "1");
    expect("{% for x in xs if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ', ' if not loop.last }}{% endfor %}", "1/2:3, 2/2:2");
    expect("{% for x in xs %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "31");
    expect("{% macro m(a, b=a) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{% call m(2, 3) %}!{% endcall %}", "1123!");
    expect("{% for n in [[1, [2]], 3] recursive %}{% if n is iterable %}({{ loop(n) }}){% else %}{{ n }}{% endif %}{% endfor %}", "(1(2))3");
    expect("{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}", "1");
    expect("{{ messages|selectattr('role', 'eq', 'user')|map(attribute='content')|join }}", "Hi");
}

static void conversations_are_prepared_as_transformers_does(void **state)
{
    (void)state;
    expect("{{ bos_token }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "<s>TrueTrueFalse");
    expect("{{ messages[2].thinking }}{{ messages[2].reasoning_content }}{{ messages[2].reasoning }}", "greetgreetgreet");
    expect("{{ messages[2] }}", "{'thinking': 'greet', 'role': 'assistant', 'content': 'Hello ', 'reasoning': 'greet', 'reasoning_content': 'greet'}");
    expect("{{ strftime_now('%d %b %Y %H:%M:%S %A %j') }}", "03 Feb 2026 14:05:06 Tuesday 034");
}

static void the_last_message_is_continued(void **state)
{
    (void)state;
    char *text;
    static const char go[] = "{\"continue_final_message\": true}";
    assert_int_equal(render_with("{% for m in messages %}[{{ m.content }}]{% endfor %}<end>", go, NULL, &text), ST_OK);
    assert_string_equal(text, "[Be brief.][Hi][Hello ");
    free(text);
    assert_int_equal(render_with("{% for m in messages %}[{{ m.content|trim }}]{% endfor %}<end>", go, NULL, &text), ST_OK);
    assert_string_equal(text, "[Be brief.][Hi][Hello");
    free(text);
    assert_int_equal(render_with("{% for m in messages %}<{{ m.thinking }}>{{ m.content }}{% endfor %}", "{\"continue_final_message\": \"reasoning_content\"}", NULL, &text), ST_OK);
    assert_string_equal(text, "<>Be brief.<>Hi<greet");
    free(text);
    assert_int_equal(render_with("{{ messages[0].content }}", go, NULL, &text), ST_INVALID);
    assert_non_null(strstr(status_message(), "does not appear"));
    free(text);
    assert_int_equal(render_with("{{ messages[0].role }}", go, NULL, &text), ST_INVALID);
    assert_non_null(strstr(status_message(), "does not use"));
    free(text);
}

static void wrong_templates_name_the_line(void **state)
{
    (void)state;
    expect_failure("a\n{% if x %}", ST_FORMAT, "line 2: unexpected end of template; looking for 'endif'");
    expect_failure("{{ a\n", ST_FORMAT, "line 1");
    expect_failure("{{ a }}\n\n{{ (1 }}", ST_FORMAT, "line 3: unexpected '}', expected ')'");
    expect_failure("{% for (a == 1) in b %}{% endfor %}", ST_FORMAT, "can't assign to 'compare'");
    expect_failure("{% for (a % 2) in b %}{% endfor %}", ST_FORMAT, "can't assign to 'mod'");
    expect_failure("{% for (a.b) in c %}{% endfor %}", ST_FORMAT, "can't assign to 'getattr'");
    expect_failure("{% nope %}", ST_FORMAT, "unknown tag 'nope'");
    expect_failure("{{ 1|nope }}", ST_UNSUPPORTED, "no filter named 'nope'");
    expect_failure("{% include 'a' %}", ST_UNSUPPORTED, "'include' is not supported");
    expect_failure("{% break %}", ST_FORMAT, "'break' outside loop");
    expect_failure("{# x", ST_FORMAT, "missing end of comment");
}

static void wrong_input_is_refused(void **state)
{
    (void)state;
    expect_failure("x\n{{ raise_exception('only two roles') }}", ST_INVALID, "line 2: the template refused the conversation: only two roles");
    expect_failure("{{ nothing.here }}", ST_INVALID, "'nothing' is undefined");
    expect_failure("{{ d.zz.y }}", ST_INVALID, "'dict object' has no attribute 'zz'");
    expect_failure("{{ 1 + 'a' }}", ST_INVALID, "unsupported operand");
    expect_failure("{{ 1 // 0 }}", ST_INVALID, "division by zero");
    char *text;
    assert_int_equal(render_with("", "{\"messages\": [1]}", NULL, &text), ST_INVALID);
    free(text);
    assert_int_equal(render_with("", "{\"tools\": 5}", NULL, &text), ST_INVALID);
    free(text);
}

static void the_sandbox_holds(void **state)
{
    (void)state;
    expect_failure("{{ d.update({'x': 1}) }}", ST_INVALID, "unsafe");
    expect_failure("{{ xs.append(1) }}", ST_INVALID, "unsafe");
    expect_failure("{{ ''.__class__.__mro__ }}", ST_INVALID, "unsafe");
    expect_failure("{{ namespace(_x=1) }}", ST_INVALID, "underscore");
    expect("{{ ''.__class__ }}{{ d.__init__ }}", "");
}

static void bounds_stop_what_would_not_end(void **state)
{
    (void)state;
    expect_failure("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", ST_LIMIT, "steps");
    expect_failure("{{ 'x' * 999999999 }}", ST_LIMIT, "");
    expect_failure("{% set ns = namespace(s='xxxxxxxxxx') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", ST_LIMIT, "");
    expect_failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ST_LIMIT, "");
    expect_failure("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", ST_LIMIT, "");
    expect_failure("{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}", ST_LIMIT, "nested");
    expect_failure("{{ range(100001) }}", ST_INVALID, "Range too big");
    expect_failure("{{ 9223372036854775807 + 1 }}", ST_LIMIT, "64 bits");
    expect_failure("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", ST_LIMIT, "");
    expect_failure("{{ '%999999999d' % 1 }}", ST_LIMIT, "wide");
    char *deep = malloc(20001);
    assert_non_null(deep);
    memset(deep, '(', 20000);
    deep[0] = deep[1] = '{';
    deep[20000] = '\0';
    expect_failure(deep, ST_LIMIT, "nested");
    for (int i = 2; i < 20000; i++)
        deep[i] = i % 2 == 0 ? '1' : '+';
    memcpy(deep + 19998, "}}", 2);
    expect_failure(deep, ST_LIMIT, "nests");
    free(deep);
}

static void growing_a_text_or_list_costs_no_square(void **state)
{
    (void)state;
    char *text;
    shard_template_limits limits = {.max_memory = 24 << 20};
    assert_int_equal(render_with("{% set ns = namespace(s='', l=[]) %}{% for a in range(50000) %}{% set ns.s = ns.s ~ 'abcdefghij' %}{% set ns.l = ns.l + [a] %}{% endfor %}"
                                 "{{ ns.s|length }} {{ ns.l|length }}", NULL, &limits, &text), ST_OK);
    assert_string_equal(text, "500000 50000");
    free(text);
    /* what shares a buffer must not see what others append */
    expect("{% set a = 'x' ~ 'y' %}{% set b = a ~ '1' %}{% set c = a ~ '2' %}{{ a }}{{ b }}{{ c }}", "xyxy1xy2");
    expect("{% set a = [1] + [2] %}{% set b = a + [3] %}{% set c = a + [4] %}{{ a }}{{ b }}{{ c }}", "[1, 2][1, 2, 3][1, 2, 4]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_is_controlled),
        cmocka_unit_test(values_print_as_python_prints_them),
        cmocka_unit_test(statements_scope_as_in_jinja),
        cmocka_unit_test(conversations_are_prepared_as_transformers_does),
        cmocka_unit_test(the_last_message_is_continued),
        cmocka_unit_test(wrong_templates_name_the_line),
        cmocka_unit_test(wrong_input_is_refused),
        cmocka_unit_test(the_sandbox_holds),
        cmocka_unit_test(bounds_stop_what_would_not_end),
        cmocka_unit_test(growing_a_text_or_list_costs_no_square),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
