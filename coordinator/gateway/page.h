/* coordinator/gateway/page.h - the page at `/`: HTML, style and script, part of the program.
 *
 * The files lie in coordinator/gateway/page; cmake/embed.cmake makes them a C source.  They name no outside resource and hold no secret, so they are
 * served without a key; what they show they fetch from the API with the key that the user enters. */
#ifndef COORDINATOR_GATEWAY_PAGE_H
#define COORDINATOR_GATEWAY_PAGE_H

#include <stddef.h>

/* Sent with each of the files: nothing but our own files and API, no inline script or style, in nobody's frame. */
#define GATEWAY_PAGE_CSP                                                                                                            \
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; " \
    "frame-ancestors 'none'"
#define GATEWAY_PAGE_CACHE "no-cache" /* ask each time; the ETag makes it cheap */

typedef struct gateway_page {
    const char *content_type;
    const unsigned char *data;
    size_t len;
    char etag[20]; /* with its quotes */
} gateway_page;

/* What is at "/", "/style.css", "/app.js"; NULL for any other path. */
const gateway_page *gateway_page_find(const char *path);

/* Made by cmake/embed.cmake. */
typedef struct gateway_page_file {
    const char *name;
    const unsigned char *data;
    unsigned long len;
    const char *sha256;
} gateway_page_file;
extern const gateway_page_file gateway_page_files[]; /* ends with a NULL name */

#endif
