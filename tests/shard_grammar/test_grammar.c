/* tests/shard_grammar/test_grammar.c - texts that grammars take and refuse, masks against brute force, hostile bytes, limits. */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "shard/text/grammar_internal.h"
#include "shard/text/tokenizer_text.h"
#include "tests/shard_grammar/walk.h"

static shard_tokenizer *byte_tokenizer;
static shard_grammar_vocab *bytes;

static int open_bytes(void **state)
{
    (void)state;
    static const int32_t end = WALK_END;
    return walk_byte_tokenizer(&byte_tokenizer) == ST_OK && shard_grammar_vocab_create(byte_tokenizer, WALK_BYTES, &end, 1, &bytes) == ST_OK ? 0 : -1;
}

static int close_bytes(void **state)
{
    (void)state;
    shard_grammar_vocab_destroy(&bytes);
    shard_tokenizer_destroy(&byte_tokenizer);
    return 0;
}

/* yes and no: NULL-ended. */
typedef struct verdicts {
    const char *source, *yes[10], *no[12];
} verdicts;

static void check_verdicts(shard_grammar_kind kind, const verdicts *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        walk w;
        if (walk_open(kind, cases[i].source, strlen(cases[i].source), bytes, &w) != ST_OK)
            fail_msg("%s: %s", cases[i].source, status_message());
        for (int k = 0; k < 10 && cases[i].yes[k] != NULL; k++) {
            if (!walk_accepts(&w, cases[i].yes[k], strlen(cases[i].yes[k]), NULL))
                fail_msg("%s: refuses %s", cases[i].source, cases[i].yes[k]);
        }
        for (int k = 0; k < 12 && cases[i].no[k] != NULL; k++) {
            if (walk_accepts(&w, cases[i].no[k], strlen(cases[i].no[k]), NULL))
                fail_msg("%s: accepts %s", cases[i].source, cases[i].no[k]);
        }
        walk_close(&w);
    }
}

static void regexes_match_whole_texts(void **state)
{
    (void)state;
    static const verdicts cases[] = {
        {"abc", {"abc"}, {"", "ab", "abcd", "xabc"}},
        {"", {""}, {"a"}},
        {"a|bc|", {"a", "bc", ""}, {"b", "abc"}},
        {"(ab|a)(bc|c)?", {"ab", "a", "abc", "abbc", "ac"}, {"abcc", "b"}},
        {"a{2,3}b{2}c{0,}d{,2}", {"aabb", "aaabbccdd"}, {"abb", "aabbb", "aabbddd"}},
        {"(a*)*b+?", {"b", "aab", "abb"}, {"", "a"}},
        {"[a-c\\d_\\]-]+", {"a1_]-"}, {"", "d", "["}},
        {"[^a-c]", {"d", "\xc3\xa9", "\xf0\x9f\x98\x80", "\n"}, {"a", "", "dd", "\xc3"}},
        {".", {"x", "\xe2\x82\xac"}, {"\n", "\r", "xx"}},
        {"\\d\\w\\s", {"1_ ", "9z\t"}, {"a_ ", "1- ", "1_x"}},
        {"\\D\\W\\S", {"a-b", "\xc3\xa9-x"}, {"1-x", "aax", "a- "}},
        {"\\p{Lu}\\p{L}\\P{L}", {"\xc3\x89" "a1", "A\xe4\xbd\xa0?"}, {"aa1", "Aaa"}},
        {"\\x41\\u0042\\t\\.\\u{1F600}\\uD83D\\uDE00", {"AB\t.\xf0\x9f\x98\x80\xf0\x9f\x98\x80"}, {"AB\tx"}},
        {"^abc$", {"abc"}, {"ab", "abcd"}},
        {"^a|b$", {"a", "b"}, {"ab", "xb"}},
        {"(^a|b)c(d$|e)", {"acd", "bcd", "ace", "bce"}, {"cd"}},
        {"a^b|c$d|(x|^)y", {"xy", "y"}, {"ab", "cd", "a", "c"}},
        {"(?:a)(?P<n>b)(?<m>c)(?#note)", {"abc"}, {"ab"}},
        {"a{x", {"a{x"}, {"a", "aa"}},
        {"[0-9]{2,1000}", {"12", "1234567890123456789012345678901234567890"}, {"1", "12a"}},
        {"(ab|abc){2,400}x", {"ababx", "abcabx", "ababcabx"}, {"abx", "abcx", "x"}},
        {"([a-z]?){200,300}", {"", "abc"}, {"A"}},
    };
    check_verdicts(SHARD_GRAMMAR_REGEX, cases, ARRAY_LEN(cases));
}

static void counts_are_exact(void **state)
{
    (void)state;
    static const struct { const char *pattern; int min, max; } cases[] = {{"a{3,700}", 3, 700}, {"(ab?){250}", 250, 250}, {"[^b]{0,500}", 0, 500}, {"(a|aa){300,301}", 300, 602}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        walk w;
        assert_int_equal(walk_open(SHARD_GRAMMAR_REGEX, cases[i].pattern, strlen(cases[i].pattern), bytes, &w), ST_OK);
        char text[1000];
        memset(text, 'a', sizeof(text));
        for (int n = 0; n < 900; n++) {
            bool prefix, got = walk_accepts(&w, text, (size_t)n, &prefix);
            if (got != (n >= cases[i].min && n <= cases[i].max) || prefix != (n <= cases[i].max))
                fail_msg("%s: %d times: %d, prefix %d", cases[i].pattern, n, got, prefix);
        }
        walk_close(&w);
    }
}

static void ebnf_rules_may_recur(void **state)
{
    (void)state;
    static const verdicts cases[] = {
        {"root ::= \"a\" root \"b\" | \"\"", {"", "ab", "aaabbb"}, {"a", "aab", "ba"}},
        {"root ::= root \"+\" [0-9] | [0-9]", {"1", "1+2+3"}, {"", "+1", "1+"}},
        {"root ::= e # sum\ne ::= e [-+] t | t\nt ::= t [*/] f\n  | f\nf ::= \"(\" e \")\" | [0-9]+", {"1", "1+2*(3-4)/5"}, {"1+", "(1", "1)"}},
        {"root ::= a\na ::= b \"x\" | \"y\"\nb ::= c\nc ::= a \"z\" | b \"w\" | \"q\"", {"y", "qx", "yzx", "qwx", "yzxzwx"}, {"q", "yz", "wx"}},
        {"root ::= n root \"x\" | \"y\"\nn ::= \"\" | \"k\"", {"y", "yx", "kyx", "kkyxx", "kyxx"}, {"ky", "x"}},
        {"root ::= root root | \"a\"", {"a", "aa", "aaaaaaa"}, {"", "b"}},
        {"root ::= ws \"a\" ws\nws ::= ([ \\t\\n] ws)?", {"a", "  a", "\ta \n"}, {"", "  ", "a b"}},
        {"root ::= (x)*\nx ::= \"\" | \"a\" | x", {"", "aa"}, {"b"}},
        {"root ::= ('it\\'s' | \"\\u00e9\\n\"){1,2} .", {"it's!", "\xc3\xa9\n\xe2\x82\xac"}, {"it's", ""}},
        {"root ::= loop | \"a\"\nloop ::= \"b\" loop", {"a"}, {"b", "ba"}},
        {"root ::= [^\\]\\\\x-z]+", {"a[", "w"}, {"]", "\\", "y"}},
    };
    check_verdicts(SHARD_GRAMMAR_EBNF, cases, ARRAY_LEN(cases));
}

static void json_objects_are_any(void **state)
{
    (void)state;
    static const verdicts cases[] = {{"", {"{}", "{\"a\":1}", "{\"a\": [1, -2.5e+10, {\"b\": null}], \"c\":\"\\ud83d\\ude00\\n\xe2\x82\xac\"}"},
                                      {"", "[]", "{", "{\"a\":01}", "{\"a\":1,}", "{a:1}", "{\"a\":\"\\ud83d\"}", "{\"a\":\"\n\"}", "{  }", "{\"a\":1}}", "{\"a\":\"\xff\"}"}}};
    check_verdicts(SHARD_GRAMMAR_JSON_OBJECT, cases, ARRAY_LEN(cases));
}

static void schema_keywords_are_kept(void **state)
{
    (void)state;
    static const verdicts cases[] = {
        {"{}", {"1", "\"a\"", "[]", "{\"a\":null}"}, {"", "a"}},
        {"true", {"null"}, {""}},
        {"{\"type\":\"null\"}", {"null"}, {"0", "false"}},
        {"{\"type\":\"boolean\"}", {"true", "false"}, {"null", "1"}},
        {"{\"type\":\"integer\"}", {"0", "-7", "120"}, {"1.5", "01", "-0", "\"1\""}},
        {"{\"type\":\"number\"}", {"0", "-7.25", "1e5", "-0.5E-3"}, {"01", ".5", "1.", "1e"}},
        {"{\"type\":[\"string\",\"null\"]}", {"\"\"", "null"}, {"1", "[]"}},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", {"\"ab\"", "\"\xe2\x82\xac\xf0\x9f\x98\x80x\"", "\"\\n\\u00e9\"", "\"\\ud83d\\ude00x\""}, {"\"a\"", "\"abcd\"", "\"\\ud83dx\""}},
        {"{\"type\":\"string\",\"maxLength\":2000}", {"\"\"", "\"abc\""}, {"\"a"}},
        {"{\"type\":\"string\",\"pattern\":\"^a.*\\\"$\"}", {"\"a\\\"\"", "\"axx\\\"\""}, {"\"a\"", "\"b\\\"\""}},
        {"{\"type\":\"string\",\"pattern\":\"b\"}", {"\"abc\"", "\"b\""}, {"\"ac\""}},
        {"{\"type\":\"string\",\"pattern\":\"^[a-z]*$\",\"minLength\":2,\"not\":{\"enum\":[\"abc\"]}}", {"\"ab\"", "\"abcd\""}, {"\"a\"", "\"abc\"", "\"A1\""}},
        {"{\"type\":\"string\",\"format\":\"date-time\"}", {"\"2024-02-28T23:59:59Z\"", "\"1999-12-31T00:00:00.5+01:00\""}, {"\"2024-02-30T00:00:00Z\"", "\"2024-02-28\""}},
        {"{\"type\":\"string\",\"format\":\"uuid\"}", {"\"2eb8aa08-aa98-11ea-b4aa-73b441d16380\""}, {"\"2eb8aa08\""}},
        {"{\"type\":\"string\",\"format\":\"ipv4\"}", {"\"192.168.0.1\"", "\"255.0.0.0\""}, {"\"256.0.0.0\"", "\"1.2.3\""}},
        {"{\"type\":\"string\",\"format\":\"email\"}", {"\"a.b@c-d.org\""}, {"\"a.org\"", "\"@b\""}},
        {"{\"type\":\"string\",\"format\":\"uri\"}", {"\"https://a.b/c?d=e#f\"", "\"mailto:x@y\""}, {"\"//a\"", "\"a b:c\""}},
        {"{\"type\":\"integer\",\"minimum\":-12,\"exclusiveMaximum\":105}", {"-12", "0", "104", "99", "-1"}, {"-13", "105", "1000", "-100"}},
        {"{\"type\":\"number\",\"minimum\":0.25,\"maximum\":3}", {"0.25", "0.3", "1", "2.999", "3"}, {"0", "0.2", "0.249", "3.1", "30", "-1"}},
        {"{\"type\":\"number\",\"exclusiveMaximum\":-1.5}", {"-1.51", "-2", "-20.5"}, {"-1.5", "-1", "0", "1.6"}},
        {"{\"type\":\"integer\",\"multipleOf\":12}", {"0", "24", "-36", "120"}, {"6", "13", "-1"}},
        {"{\"type\":\"number\",\"multipleOf\":2.5}", {"0", "5", "-10"}, {"2", "7"}},
        {"{\"enum\":[1,\"a\\\"b\",null,[1,{\"x\":2}]]}", {"1", "\"a\\\"b\"", "null", "[1,{\"x\":2}]", "[1, {\"x\": 2}]"}, {"2", "\"a\"", "[1]"}},
        {"{\"const\":3.5}", {"3.5"}, {"3", "3.6"}},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}", {"[1]", "[1, 2,3]"}, {"[]", "[1,2,3,4]", "[\"a\"]", "[1,]"}},
        {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":150,\"maxItems\":900}", {NULL}, {"[]", "[true]"}},
        {"{\"type\":\"array\",\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":{\"const\":3}}", {"[]", "[1]", "[1,2]", "[1,2,3,3]"}, {"[2]", "[1,3]", "[1,2,2]"}},
        {"{\"type\":\"array\",\"prefixItems\":[{\"const\":1}],\"items\":false,\"minItems\":1}", {"[1]"}, {"[]", "[1,1]"}},
        {"{\"$schema\":\"http://json-schema.org/draft-07/schema#\",\"type\":\"array\",\"items\":[{\"const\":1}],\"additionalItems\":{\"const\":2}}", {"[1,2,2]"}, {"[2]", "[1,1]"}},
        {"{\"type\":\"array\",\"contains\":{\"const\":1},\"minContains\":2,\"maxContains\":3,\"items\":{\"enum\":[1,2]}}", {"[1,1]", "[2,1,2,1,1,2]"}, {"[1]", "[2,2]", "[1,1,1,1]", "[3,1,1]"}},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"},\"c\":{\"const\":1}},\"required\":[\"b\"]}",
         {"{\"b\":null}", "{\"a\": 1, \"b\": null}", "{\"a\":1,\"b\":null,\"c\":1}", "{\"b\":null,\"c\":1}"}, {"{}", "{\"a\":1}", "{\"b\":null,\"a\":1}", "{\"b\":null,\"d\":1}", "{\"b\":null,}", "{,\"b\":null}"}},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1}},\"additionalProperties\":{\"const\":2}}", {"{\"a\":1,\"x\":2,\"\":2}", "{\"aa\":2}", "{}"}, {"{\"a\":2}", "{\"x\":1}", "{\"x\":2,\"a\":2}"}},
        {"{\"type\":\"object\",\"patternProperties\":{\"^x\":{\"const\":1},\"y$\":{\"enum\":[1,2]}},\"additionalProperties\":false}", {"{\"xa\":1,\"ay\":2,\"xy\":1}"}, {"{\"xy\":2}", "{\"z\":1}", "{\"xa\":2}"}},
        {"{\"type\":\"object\",\"propertyNames\":{\"pattern\":\"^[a-b]+$\"}}", {"{\"ab\":1}", "{}"}, {"{\"c\":1}"}},
        {"{\"type\":\"object\",\"minProperties\":1,\"maxProperties\":2,\"properties\":{\"a\":{},\"b\":{},\"c\":{}}}", {"{\"a\":1}", "{\"a\":1,\"c\":2}"}, {"{}", "{\"a\":1,\"b\":2,\"c\":3}"}},
        {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"object\",\"properties\":{\"k\":{\"const\":1}},\"required\":[\"k\"]}]}", {"1", "{\"k\":1}"}, {"{}", "1.5", "null"}},
        {"{\"oneOf\":[{\"type\":\"integer\",\"minimum\":0},{\"type\":\"integer\",\"maximum\":10}]}", {"-1", "11"}, {"0", "10", "5"}},
        {"{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"t\":{\"const\":\"a\"},\"x\":{\"type\":\"integer\"}},\"required\":[\"t\",\"x\"]},{\"type\":\"object\",\"properties\":{\"t\":{\"const\":\"b\"}},\"required\":[\"t\"]}]}",
         {"{\"t\":\"a\",\"x\":1}", "{\"t\":\"b\"}"}, {"{\"t\":\"a\"}", "{\"t\":\"c\"}"}},
        {"{\"allOf\":[{\"minimum\":2},{\"type\":\"integer\",\"maximum\":4}],\"not\":{\"const\":3}}", {"2", "4"}, {"3", "1", "5", "\"a\""}},
        {"{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[\"a\",\"b\"]},\"v\":{\"const\":1}},\"required\":[\"k\"],\"if\":{\"properties\":{\"k\":{\"const\":\"a\"}}},\"then\":{\"required\":[\"v\"]},\"else\":{\"maxProperties\":1}}",
         {"{\"k\":\"a\",\"v\":1}", "{\"k\":\"b\"}"}, {"{\"k\":\"a\"}", "{\"k\":\"b\",\"v\":1}"}},
        {"{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}},\"dependentRequired\":{\"a\":[\"b\"]}}", {"{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"}, {"{\"a\":1}"}},
        {"{\"type\":\"array\",\"items\":{\"enum\":[1,2,\"a\",1.0]},\"uniqueItems\":true,\"minItems\":1}", {"[1]", "[2,1]", "[\"a\",1,2]"}, {"[]", "[1,1]", "[1,2,1]", "[3]"}},
        {"{\"type\":\"array\",\"items\":{\"enum\":[1,2,3,4,5,6,7,8,9]},\"uniqueItems\":true,\"maxItems\":3}", {"[]", "[1,9]", "[2,3,4]"}, {"[1,1]", "[1,2,3,4]"}},
        {"{\"type\":\"array\",\"uniqueItems\":true,\"maxItems\":1}", {"[]", "[{}]"}, {"[1,2]"}},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1}},\"anyOf\":[{\"properties\":{\"b\":{\"const\":2}},\"required\":[\"b\"]},true],\"unevaluatedProperties\":false}",
         {"{}", "{\"a\":1}", "{\"a\":1,\"b\":2}"}, {"{\"c\":1}", "{\"a\":1,\"b\":3}"}},
        {"{\"type\":\"array\",\"allOf\":[{\"prefixItems\":[{\"const\":1}]}],\"unevaluatedItems\":{\"const\":2}}", {"[]", "[1]", "[1,2,2]"}, {"[2]", "[1,1]"}},
        {"{\"$ref\":\"#/$defs/list\",\"$defs\":{\"list\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/list\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}}}",
         {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"}, {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
        {"{\"anyOf\":[{\"$ref\":\"#\"},{\"const\":1}]}", {"1"}, {""}}, /* ill-founded: only that it ends */
        {"{\"$id\":\"http://x/y/root.json\",\"$ref\":\"other.json#a\",\"$defs\":{\"o\":{\"$id\":\"other.json\",\"$defs\":{\"p\":{\"$anchor\":\"a\",\"const\":1}}}}}", {"1"}, {"2"}},
    };
    check_verdicts(SHARD_GRAMMAR_JSON_SCHEMA, cases, ARRAY_LEN(cases));
}

static void choices_are_exact(void **state)
{
    (void)state;
    static const verdicts cases[] = {{"[\"yes\",\"yesterday\",\"\\u00e9\\\"\"]", {"yes", "yesterday", "\xc3\xa9\""}, {"", "ye", "yest", "no"}}};
    check_verdicts(SHARD_GRAMMAR_CHOICE, cases, ARRAY_LEN(cases));
}

static void bad_sources_are_refused_by_name(void **state)
{
    (void)state;
    static const struct { shard_grammar_kind kind; const char *source; status st; const char *says; } cases[] = {
        {SHARD_GRAMMAR_REGEX, "a(?=b)", ST_UNSUPPORTED, "look-ahead"},
        {SHARD_GRAMMAR_REGEX, "(?<!a)b", ST_UNSUPPORTED, "look-behind"},
        {SHARD_GRAMMAR_REGEX, "(a)\\1", ST_UNSUPPORTED, "reference back"},
        {SHARD_GRAMMAR_REGEX, "\\bword\\b", ST_UNSUPPORTED, "word boundary"},
        {SHARD_GRAMMAR_REGEX, "(?i)a", ST_UNSUPPORTED, "flag"},
        {SHARD_GRAMMAR_REGEX, "\\p{Klingon}", ST_UNSUPPORTED, "Klingon"},
        {SHARD_GRAMMAR_REGEX, "a++", ST_UNSUPPORTED, "possessive"},
        {SHARD_GRAMMAR_REGEX, "(a", ST_INVALID, "not closed"},
        {SHARD_GRAMMAR_REGEX, "a)", ST_INVALID, "too many"},
        {SHARD_GRAMMAR_REGEX, "[a", ST_INVALID, "not closed"},
        {SHARD_GRAMMAR_REGEX, "[b-a]", ST_INVALID, "backwards"},
        {SHARD_GRAMMAR_REGEX, "*a", ST_INVALID, "nothing to repeat"},
        {SHARD_GRAMMAR_REGEX, "a{3,1}", ST_INVALID, "backwards"},
        {SHARD_GRAMMAR_REGEX, "\\q", ST_INVALID, "escape"},
        {SHARD_GRAMMAR_REGEX, "\xff", ST_INVALID, "UTF-8"},
        {SHARD_GRAMMAR_REGEX, "[]", ST_INVALID, "no text"},
        {SHARD_GRAMMAR_REGEX, "a^b", ST_INVALID, "no text"},
        {SHARD_GRAMMAR_CHOICE, "{}", ST_INVALID, "list"},
        {SHARD_GRAMMAR_CHOICE, "[]", ST_INVALID, "list"},
        {SHARD_GRAMMAR_CHOICE, "[\"a\",1]", ST_INVALID, "item 1"},
        {SHARD_GRAMMAR_CHOICE, "[", ST_FORMAT, "choice"},
        {SHARD_GRAMMAR_EBNF, "a ::= \"x\"", ST_INVALID, "root"},
        {SHARD_GRAMMAR_EBNF, "root ::= a", ST_INVALID, "\"a\" is not defined"},
        {SHARD_GRAMMAR_EBNF, "root ::= \"a\"\nroot ::= \"b\"", ST_INVALID, "twice"},
        {SHARD_GRAMMAR_EBNF, "root ::= \"a", ST_INVALID, "not closed"},
        {SHARD_GRAMMAR_EBNF, "root ::= (\"a\"", ST_INVALID, "not closed"},
        {SHARD_GRAMMAR_EBNF, "root ::= \"a\" root", ST_INVALID, "no text"},
        {SHARD_GRAMMAR_EBNF, "root = \"a\"", ST_INVALID, "rule"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{", ST_FORMAT, "schema"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "[]", ST_INVALID, "object or a boolean"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "false", ST_INVALID, "no text"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"float\"}", ST_INVALID, "float"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"minLenght\":3}", ST_UNSUPPORTED, "minLenght"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"array\",\"uniqueItems\":true}", ST_UNSUPPORTED, "uniqueItems"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"format\":\"color\"}", ST_UNSUPPORTED, "color"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"pattern\":\"(?=a)b\"}", ST_UNSUPPORTED, "look-ahead"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"http://elsewhere/s.json\"}", ST_UNSUPPORTED, "elsewhere"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"$ref\":\"#/$defs/none\"}", ST_UNSUPPORTED, "none"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":1}}", ST_INVALID, "object or a boolean"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"string\",\"minLength\":-1}", ST_INVALID, "minLength"},
        {SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", ST_INVALID, "no text"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        mem_str out = {0};
        status_mute();
        status st = shard_grammar_compile(cases[i].kind, cases[i].source, strlen(cases[i].source), NULL, &out);
        status_unmute();
        if (st != cases[i].st || strstr(status_message(), cases[i].says) == NULL)
            fail_msg("%s: status %s, message %s", cases[i].source, status_text(st), status_message());
        assert_int_equal(out.len, 0);
        mem_str_free(&out);
    }
}

static void compiling_is_bounded(void **state)
{
    (void)state;
    static const struct { const char *source; shard_grammar_limits limits; } cases[] = {
        {"(((((a{1,99}){1,99}){1,99}){1,99}b){1,99}){1,99}", {.max_steps = 100000}},
        {"(a|b)*a(a|b){18}", {.max_steps = 1000000}},
        {"(a|b)*a(a|b){14}", {.max_seconds = 1e-9, .max_steps = 1000000000}},
        {"[a-z]{100}", {.max_bytes = 100}},
        {"abcdef", {.max_source = 5}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        mem_str out = {0};
        status_mute();
        status st = shard_grammar_compile(SHARD_GRAMMAR_REGEX, cases[i].source, strlen(cases[i].source), &cases[i].limits, &out);
        status_unmute();
        if (st != ST_LIMIT)
            fail_msg("%s: %s", cases[i].source, status_text(st));
        mem_str_free(&out);
    }
}

/* ---- masks ---- */

static bool bit(const uint32_t *mask, int32_t i)
{
    return (mask[i / 32] >> (i % 32) & 1) != 0;
}

/* Walks at random; at each state the mask says of every token what trying it says. */
static void check_masks(shard_grammar_kind kind, const char *source, uint64_t seed)
{
    walk w;
    uint32_t mask[(WALK_BYTES + 31) / 32];
    if (walk_open(kind, source, strlen(source), bytes, &w) != ST_OK)
        fail_msg("%s: %s", source, status_message());
    shard_grammar_state *s, *copy;
    assert_int_equal(shard_grammar_state_create(w.grammar, &s), ST_OK);
    status_mute();
    for (int step = 0; step < 60; step++) {
        int32_t allowed[WALK_BYTES], n = 0;
        assert_int_equal(shard_grammar_mask(s, mask), ST_OK);
        for (int32_t i = 0; i < WALK_BYTES; i++) {
            assert_int_equal(shard_grammar_state_copy(s, &copy), ST_OK);
            bool taken = shard_grammar_accept(copy, i) == ST_OK;
            shard_grammar_state_destroy(&copy);
            if (taken != bit(mask, i))
                fail_msg("%s: step %d: token %d: %d, mask %d (%s)", source, step, i, taken, bit(mask, i), status_message());
            if (taken)
                allowed[n++] = i;
        }
        if (shard_grammar_ended(s))
            break;
        seed = hash_mix(seed + 0x9e3779b97f4a7c15u);
        assert_int_equal(shard_grammar_accept(s, allowed[seed % (uint64_t)n]), ST_OK);
    }
    status_unmute();
    shard_grammar_state_destroy(&s);
    walk_close(&w);
}

static void masks_say_what_trying_says(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 8; seed++) {
        check_masks(SHARD_GRAMMAR_JSON_OBJECT, "", seed);
        check_masks(SHARD_GRAMMAR_JSON_SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":[\"string\",\"integer\",\"array\"],\"maxLength\":300},\"minItems\":3}", seed);
        check_masks(SHARD_GRAMMAR_REGEX, "[^x]{2,6}(ab|abc){250,260}", seed);
        check_masks(SHARD_GRAMMAR_EBNF, "root ::= e\ne ::= e \"+\" e | [a-c] | \"(\" e \")\"", seed);
    }
}

static void an_end_token_ends(void **state)
{
    (void)state;
    walk w;
    uint32_t mask[(WALK_BYTES + 31) / 32];
    shard_grammar_state *s;
    assert_int_equal(walk_open(SHARD_GRAMMAR_REGEX, "ab?", 3, bytes, &w), ST_OK);
    assert_int_equal(shard_grammar_state_create(w.grammar, &s), ST_OK);
    assert_int_equal(shard_grammar_mask(s, mask), ST_OK);
    assert_false(bit(mask, WALK_END));
    assert_int_equal(shard_grammar_accept(s, 'a'), ST_OK);
    assert_false(shard_grammar_ended(s));
    assert_int_equal(shard_grammar_mask(s, mask), ST_OK);
    assert_true(bit(mask, WALK_END) && bit(mask, 'b') && !bit(mask, 'a'));
    assert_int_equal(shard_grammar_accept(s, 'b'), ST_OK);
    assert_true(shard_grammar_ended(s));
    assert_int_equal(shard_grammar_accept(s, WALK_END), ST_OK);
    assert_true(shard_grammar_ended(s));
    assert_int_equal(shard_grammar_accept(s, WALK_END), ST_OK); /* nothing else may follow, and that may */
    status_mute();
    assert_int_equal(shard_grammar_accept(s, 'b'), ST_INVALID);
    assert_int_equal(shard_grammar_accept(s, -1), ST_INVALID);
    assert_int_equal(shard_grammar_accept(s, WALK_BYTES), ST_INVALID);
    status_unmute();
    shard_grammar_state_destroy(&s);
    walk_close(&w);
}

static void deep_nesting_stays_closable(void **state)
{
    (void)state;
    walk w;
    shard_grammar_state *s;
    assert_int_equal(walk_open(SHARD_GRAMMAR_EBNF, "root ::= \"[\" root \"]\" | \"x\"", strlen("root ::= \"[\" root \"]\" | \"x\""), bytes, &w), ST_OK);
    assert_int_equal(shard_grammar_state_create(w.grammar, &s), ST_OK);
    int depth = 0;
    status_mute();
    while (depth < 100000 && shard_grammar_accept(s, '[') == ST_OK)
        depth++;
    status_unmute();
    assert_in_range(depth, 500, 2000);
    assert_int_equal(shard_grammar_accept(s, 'x'), ST_OK);
    for (int i = 0; i < depth; i++)
        assert_int_equal(shard_grammar_accept(s, ']'), ST_OK);
    assert_true(shard_grammar_ended(s));
    shard_grammar_state_destroy(&s);
    walk_close(&w);
}

/* Enough places for the run to be rebuilt several times, with states that must outlive that. */
static void a_long_run_is_renewed(void **state)
{
    (void)state;
    walk w;
    shard_grammar_state *s, *held;
    assert_int_equal(walk_open(SHARD_GRAMMAR_REGEX, "((ab|abc){2,60000}x){1,60000}", strlen("((ab|abc){2,60000}x){1,60000}"), bytes, &w), ST_OK);
    assert_int_equal(shard_grammar_state_create(w.grammar, &s), ST_OK);
    assert_int_equal(shard_grammar_accept(s, 'a'), ST_OK);
    assert_int_equal(shard_grammar_state_copy(s, &held), ST_OK);
    for (int i = 0; i < 50000; i++) {
        assert_int_equal(shard_grammar_accept(s, 'b'), ST_OK);
        assert_int_equal(shard_grammar_accept(s, 'a'), ST_OK);
    }
    assert_int_equal(shard_grammar_accept(held, 'b'), ST_OK);
    status_mute();
    assert_int_equal(shard_grammar_accept(held, 'x'), ST_INVALID);
    status_unmute();
    assert_int_equal(shard_grammar_accept(held, 'c'), ST_OK);
    for (const char *t = "abcx"; *t != '\0'; t++)
        assert_int_equal(shard_grammar_accept(held, *t), ST_OK);
    assert_int_equal(shard_grammar_accept(held, WALK_END), ST_OK);
    shard_grammar_state_destroy(&s);
    shard_grammar_state_destroy(&held);
    walk_close(&w);
}

/* ---- vocabularies ---- */

/* What a token adds to a text, by decoding it behind another. */
static void check_vocabulary(const char *path)
{
    char *json;
    size_t len;
    shard_tokenizer *t;
    shard_grammar_vocab *v;
    assert_int_equal(file_read_all(path, (size_t)1 << 28, &json, &len), ST_OK);
    assert_int_equal(shard_tokenizer_from_json(path, json, len, &t), ST_OK);
    free(json);
    status_mute();
    status st = shard_grammar_vocab_create(t, shard_tokenizer_size(t), NULL, 0, &v);
    status_unmute();
    if (st == ST_UNSUPPORTED) {
        shard_tokenizer_destroy(&t);
        return;
    }
    assert_int_equal(st, ST_OK);
    shard_ids lead = {0};
    assert_int_equal(shard_tokenizer_encode(t, "a", 1, 0, &lead), ST_OK);
    int32_t ids[2] = {lead.n > 0 ? lead.data[0] : 0};
    mem_str alone = {0}, both = {0};
    shard_tokenizer_decode(t, ids, 1, false, &alone);
    for (ids[1] = 0; ids[1] < v->n_vocab; ids[1]++) {
        const char *text = v->text.data + v->offset[ids[1]];
        size_t n = v->offset[ids[1] + 1] - v->offset[ids[1]];
        if (n == 0)
            continue;
        mem_str_clear(&both);
        shard_tokenizer_decode(t, ids, 2, false, &both);
        /* Parts of characters show only as U+FFFD. */
        if (tok_utf8_valid(text, n) && (both.len != alone.len + n || memcmp(both.data + alone.len, text, n) != 0))
            fail_msg("%s: token %d: %.*s, decoded %.*s", path, ids[1], (int)n, text, (int)(both.len - alone.len), both.data + alone.len);
    }
    mem_str_free(&alone);
    mem_str_free(&both);
    shard_ids_free(&lead);
    shard_grammar_vocab_destroy(&v);
    shard_tokenizer_destroy(&t);
}

static void tokens_are_the_bytes_they_decode_to(void **state)
{
    glob_t found;
    (void)state;
    assert_int_equal(glob(TEST_SOURCE_DIR "/golden/*/tokenizer.json", 0, NULL, &found), 0);
    assert_true(found.gl_pathc > 0);
    for (size_t i = 0; i < found.gl_pathc; i++)
        check_vocabulary(found.gl_pathv[i]);
    globfree(&found);
    const char *more = getenv("GRAMMAR_TOKENIZER"); /* a large one, by hand */
    if (more != NULL)
        check_vocabulary(more);
}

/* ---- bytes ---- */

static void damaged_bytes_are_refused_or_run(void **state)
{
    (void)state;
    static const char source[] = "root ::= e\ne ::= e \"+\" t | t\nt ::= [0-9]{1,400} | \"(\" e \")\"";
    mem_str good = {0};
    assert_int_equal(shard_grammar_compile(SHARD_GRAMMAR_EBNF, source, strlen(source), NULL, &good), ST_OK);
    status_mute();
    for (size_t i = 0; i < good.len; i++) {
        for (int flip = 0; flip < 12; flip++) {
            uint8_t *copy = malloc(good.len);
            shard_grammar *g = NULL;
            shard_grammar_state *s;
            uint32_t mask[(WALK_BYTES + 31) / 32];
            memcpy(copy, good.data, good.len);
            copy[i] ^= (uint8_t)(flip < 8 ? 1 << flip : 37 * flip);
            if (shard_grammar_load(copy, good.len, bytes, &g) == ST_OK) {
                assert_int_equal(shard_grammar_state_create(g, &s), ST_OK);
                shard_grammar_mask(s, mask);
                for (const char *t = "(1+23)+4"; *t != '\0' && shard_grammar_accept(s, *t) == ST_OK; t++)
                    shard_grammar_mask(s, mask);
                shard_grammar_state_destroy(&s);
            }
            shard_grammar_destroy(&g);
            free(copy);
        }
        shard_grammar *cut = NULL;
        uint8_t *part = malloc(i + 1);
        memcpy(part, good.data, i);
        assert_int_equal(shard_grammar_load(part, i, bytes, &cut), ST_FORMAT);
        free(part);
    }
    status_unmute();
    mem_str_free(&good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regexes_match_whole_texts), cmocka_unit_test(counts_are_exact), cmocka_unit_test(ebnf_rules_may_recur),
        cmocka_unit_test(json_objects_are_any), cmocka_unit_test(schema_keywords_are_kept),
        cmocka_unit_test(choices_are_exact), cmocka_unit_test(bad_sources_are_refused_by_name),
        cmocka_unit_test(compiling_is_bounded), cmocka_unit_test(masks_say_what_trying_says), cmocka_unit_test(an_end_token_ends),
        cmocka_unit_test(deep_nesting_stays_closable), cmocka_unit_test(a_long_run_is_renewed), cmocka_unit_test(tokens_are_the_bytes_they_decode_to),
        cmocka_unit_test(damaged_bytes_are_refused_or_run),
    };
    return cmocka_run_group_tests(tests, open_bytes, close_bytes);
}
