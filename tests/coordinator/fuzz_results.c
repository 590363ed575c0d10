/* tests/coordinator/fuzz_results.c - any bytes as a file of results: what is read can be compared with itself, which shows no difference, and reported, without markup from it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/compare.h"
#include "coordinator/report.h"
#include "coordinator/results.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the results say is text. */
static void check_page(const char *page)
{
    static const char *const never[] = {"<script", "<img", "<a ", "<b>", "<iframe"};
    for (size_t i = 0; i < ARRAY_LEN(never); i++) {
        if (strstr(page, never[i]) != NULL)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *rows;
    status_mute();
    if (results_parse("results", (const char *)data, size, &rows) == ST_OK) {
        const compare_options o = {.confidence = 0.95};
        const char *names[] = {"<b>a</b>", "b"};
        json_t *both[] = {rows, rows};
        compare_table t;
        mem_str page = {0};
        if (compare_results(rows, rows, &o, &t) == ST_OK) {
            for (size_t i = 0; i < t.n; i++) {
                if (t.rows[i].verdict == COMPARE_FASTER || t.rows[i].verdict == COMPARE_SLOWER)
                    abort();
            }
            if (t.unmatched_a + t.unmatched_b != 0)
                abort();
            compare_table_free(&t);
        }
        if (report_html("<b>title</b>", names, both, 2, &page) == ST_OK)
            check_page(page.data);
        mem_str_free(&page);
        json_decref(rows);
    }
    status_unmute();
    return 0;
}
