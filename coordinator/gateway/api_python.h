/* coordinator/gateway/api_python.h - a call written in Python, f(a=1, b=["x", None]), as a name and a JSON object. */
#ifndef COORDINATOR_GATEWAY_API_PYTHON_H
#define COORDINATOR_GATEWAY_API_PYTHON_H

#include <jansson.h>
#include <stddef.h>

#include "base/mem.h"
#include "base/status.h"

/* Literals only: numbers, strings, True, False, None (and JSON's spelling of these), lists, tuples, dictionaries with string keys.  ST_NOT_FOUND: it is
 * anything else (nothing is logged: it is what a model wrote). */
status api_python_call(const char *text, size_t len, mem_str *name, mem_str *arguments);

/* One literal and nothing else; a new reference, or NULL. */
json_t *api_python_value(const char *text, size_t len);

#endif
