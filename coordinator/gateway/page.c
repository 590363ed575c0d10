#include "coordinator/gateway/page.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

static const struct {
    const char *path, *file, *content_type;
} served[] = {
    {"/", "index.html", "text/html; charset=utf-8"},
    {"/style.css", "style.css", "text/css; charset=utf-8"},
    {"/app.js", "app.js", "text/javascript; charset=utf-8"},
};

static gateway_page pages[ARRAY_LEN(served)];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void pages_make(void)
{
    for (size_t i = 0; i < ARRAY_LEN(served); i++) {
        for (const gateway_page_file *f = gateway_page_files; f->name != NULL; f++) {
            if (strcmp(f->name, served[i].file) != 0)
                continue;
            pages[i] = (gateway_page){.content_type = served[i].content_type, .data = f->data, .len = f->len};
            snprintf(pages[i].etag, sizeof(pages[i].etag), "\"%.16s\"", f->sha256);
        }
    }
}

const gateway_page *gateway_page_find(const char *path)
{
    pthread_once(&once, pages_make);
    for (size_t i = 0; i < ARRAY_LEN(served); i++) {
        if (strcmp(path, served[i].path) == 0)
            return &pages[i];
    }
    return NULL;
}
