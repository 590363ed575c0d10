/* coordinator/gateway/api_write.h - JSON text written straight into a buffer: an answer's pieces, many times a second. */
#ifndef COORDINATOR_GATEWAY_API_WRITE_H
#define COORDINATOR_GATEWAY_API_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

/* A string with its quotes; bytes that are no UTF-8 become U+FFFD. */
void api_put_string(mem_str *out, const char *s, size_t len);
void api_put_text(mem_str *out, const char *s);          /* NUL-terminated; NULL: null */
void api_put_ids(mem_str *out, const int32_t *ids, size_t n);
/* What JSON has no word for: -infinity is -9999 (as OpenAI writes it), NaN null. */
void api_put_float(mem_str *out, double v);
/* Standard base64 with padding. */
void api_put_base64(mem_str *out, const void *bytes, size_t n);

#endif
