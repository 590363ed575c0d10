/* tests/coordinator/test_page.c - the page is whole, needs nothing from outside, and keeps its own security policy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "coordinator/gateway/page.h"

static const struct { const char *path, *file, *type; } pages[] = {
    {"/", "index.html", "text/html; charset=utf-8"}, {"/style.css", "style.css", "text/css; charset=utf-8"}, {"/app.js", "app.js", "text/javascript; charset=utf-8"}};

static void each_file_is_there_as_it_was_written(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        char path[512], *text;
        size_t len;
        snprintf(path, sizeof(path), TEST_SOURCE_DIR "/../coordinator/gateway/page/%s", pages[i].file);
        assert_int_equal(file_read_all(path, 1 << 20, &text, &len), ST_OK);
        const gateway_page *p = gateway_page_find(pages[i].path);
        assert_non_null(p);
        assert_int_equal(p->len, len);
        assert_memory_equal(p->data, text, len);
        assert_string_equal(p->content_type, pages[i].type);
        assert_int_equal(strlen(p->etag), 18);
        free(text);
    }
    assert_string_not_equal(gateway_page_find("/")->etag, gateway_page_find("/app.js")->etag);
}

static void nothing_else_is(void **state)
{
    (void)state;
    static const char *const others[] = {"", "/index.html", "//", "/app.js/", "/../app.js", "/APP.JS", "/style.css?x", "/favicon.ico"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        assert_null(gateway_page_find(others[i]));
}

static void lacks(const char *path, const char *what)
{
    const gateway_page *p = gateway_page_find(path);
    if (memmem(p->data, p->len, what, strlen(what)) != NULL)
        fail_msg("%s contains %s", path, what);
}

static void no_outside_resource_and_nothing_that_the_policy_forbids(void **state)
{
    (void)state;
    static const char *const html[] = {"<script>", "style=\"", "onclick", "onload", "http:", "https:", "src=\"//", "<base", "<iframe"};
    static const char *const script[] = {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "https:", "localStorage", "cookie"};
    for (size_t i = 0; i < ARRAY_LEN(html); i++)
        lacks("/", html[i]);
    for (size_t i = 0; i < ARRAY_LEN(script); i++)
        lacks("/app.js", script[i]);
    lacks("/style.css", "url(");
    lacks("/style.css", "@import");
    assert_non_null(strstr(GATEWAY_PAGE_CSP, "default-src 'none'"));
    assert_null(strstr(GATEWAY_PAGE_CSP, "unsafe"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_file_is_there_as_it_was_written),
        cmocka_unit_test(nothing_else_is),
        cmocka_unit_test(no_outside_resource_and_nothing_that_the_policy_forbids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
