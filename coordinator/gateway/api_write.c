#include "coordinator/gateway/api_write.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the whole UTF-8 character at s, 0 if there is none. */
static size_t character(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    bool bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);
    return bad ? 0 : n;
}

static void put_special(mem_str *out, unsigned char c)
{
    static const char letters[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
    const char *known = strchr(letters, c);
    if (c != 0 && known != NULL)
        mem_str_printf(out, "\\%c", names[known - letters]);
    else
        mem_str_printf(out, "\\u%04x", c);
}

void api_put_string(mem_str *out, const char *s, size_t len)
{
    size_t from = 0;
    mem_str_putc(out, '"');
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)s[i];
        size_t n = character(s + i, len - i);
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\') {
            i += n;
            continue;
        }
        mem_str_append(out, s + from, i - from);
        if (n == 0)
            mem_str_puts(out, "\xef\xbf\xbd");
        else
            put_special(out, c);
        from = ++i;
    }
    if (len > from)
        mem_str_append(out, s + from, len - from);
    mem_str_putc(out, '"');
}

void api_put_text(mem_str *out, const char *s)
{
    if (s == NULL)
        mem_str_puts(out, "null");
    else
        api_put_string(out, s, strlen(s));
}

void api_put_ids(mem_str *out, const int32_t *ids, size_t n)
{
    mem_str_putc(out, '[');
    for (size_t i = 0; i < n; i++)
        mem_str_printf(out, "%s%d", i == 0 ? "" : ",", ids[i]);
    mem_str_putc(out, ']');
}

/* As many digits as it takes to read the same float again. */
static void put_shortest(mem_str *out, float v)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    mem_str_puts(out, text);
}

void api_put_float(mem_str *out, double v)
{
    if (isnan(v))
        mem_str_puts(out, "null");
    else if (isinf(v))
        mem_str_puts(out, v < 0 ? "-9999.0" : "9999.0");
    else if (v == floor(v) && fabs(v) < 1e9)
        mem_str_printf(out, "%.1f", v);
    else
        put_shortest(out, (float)v);
}

void api_put_base64(mem_str *out, const void *bytes, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i;
        uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        const char four[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=', left > 2 ? digits[v & 63] : '='};
        mem_str_append(out, four, 4);
    }
}
