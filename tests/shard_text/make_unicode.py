#!/usr/bin/env python3
"""Writes shard/text/tokenizer_unicode.c: the character classes of the reference tokenizers, asked from them.

    make_unicode.py > shard/text/tokenizer_unicode.c
    make_unicode.py --scripts > shard/text/tokenizer_scripts.c

Needs `pip install tokenizers`, libutf8proc2 2.8 and a Python whose unicodedata is version 14 (3.11), PCRE2 10.42's: the classes that
patterns name are given as what that version lacks.
"""
import ctypes
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", "a Python with Unicode 14 is needed"
POINTS = [c for c in range(0x110000) if not 0xd800 <= c <= 0xdfff]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf".split()


def chunks():
    for i in range(0, len(POINTS), 2000):
        yield POINTS[i:i + 2000]


def matched(pattern):
    """Characters that a pattern matches (and so removes)."""
    out, pre = set(), pre_tokenizers.Split(Regex(pattern), "removed")
    for part in chunks():
        kept = set()
        for _, (a, b) in pre.pre_tokenize_str("".join(chr(c) + "\x02" for c in part)):
            kept.update(range(a, b))
        out.update(c for k, c in enumerate(part) if 2 * k not in kept)
    return out


def alone(pre):
    """Characters that a pre-tokenizer isolates."""
    out = set()
    for part in chunks():
        for _, (a, b) in pre.pre_tokenize_str("".join(chr(c) + "\x02" for c in part)):
            if b - a == 1 and a % 2 == 0:
                out.add(part[a // 2])
    return out


def words():
    """Characters that join with letters on both sides."""
    out = set()
    for part in chunks():
        for _, (a, b) in pre_tokenizers.Whitespace().pre_tokenize_str(" ".join("a" + chr(c) + "a" for c in part)):
            if b - a == 3 and a % 4 == 0:
                out.add(part[a // 4])
    return out


def erased(normalizer):
    return {c for c in POINTS if normalizer.normalize_str(chr(c)) == ""}


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def rows(items):
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 150:
            print(line)
            line = "   "
        line += " " + item + ","
    if line.strip():
        print(line)


def table(name, points, comment):
    found = ranges(points)
    print("\n/* %s */\nstatic const tok_range %s[] = {" % (comment, name))
    rows("{0x%x, 0x%x}" % (a, b) for a, b in found)
    print("};")
    PUBLIC.append(name)



SCRIPTS = """Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo Brahmi Braille
Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Common Coptic Cuneiform Cypriot Cyrillic Deseret Devanagari
Duployan Egyptian_Hieroglyphs Elbasan Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gurmukhi Han Hangul Hanunoo Hatran Hebrew
Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kayah_Li Kharoshthi Khmer
Khojki Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Malayalam Mandaic Manichaean Marchen Meetei_Mayek
Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean New_Tai_Lue Newa Nko Ogham Ol_Chiki
Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_South_Arabian Old_Turkic Oriya Osage Osmanya Pahawh_Hmong Palmyrene
Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sora_Sompeng
Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta
Ugaritic Vai Warang_Citi Yi""".split()


def scripts():
    """{character: script} as the UnicodeScripts pre-tokenizer sees it; it knows only characters of Unicode 9 or so, and takes
    some for another script than today's tables."""
    guess, first = {}, {}
    POINTS[:] = [c for c in POINTS if unicodedata.category(chr(c)) not in ("Cn", "Co")]
    for name in SCRIPTS:
        for c in matched("\\p{%s}" % name):
            guess[c] = "Han" if name in ("Hiragana", "Katakana") else name
    pre = pre_tokenizers.UnicodeScripts()

    def joins(pairs):
        """For each (a, b): no cut between."""
        out = []
        for i in range(0, len(pairs), 2000):
            part = pairs[i:i + 2000]
            cuts = {a for _, (a, b) in pre.pre_tokenize_str("".join(a + b for a, b in part))}
            out += [2 * k + 1 not in cuts for k in range(len(part))]
        return out
    points = sorted(guess)
    # A representative of each script: its first character that takes part at all (a cut before and after it).
    for c in points:
        other = "\u03b1" if guess[c] != "Greek" else "a"
        if guess[c] not in first and not joins([(other, chr(c))])[0]:
            first[guess[c]] = chr(c)
    found, doubtful = {}, []
    points = [c for c in points if guess[c] in first]
    same = joins([(first[guess[c]], chr(c)) for c in points])
    away = joins([("\u03b1" if guess[c] != "Greek" else "a", chr(c)) for c in points])
    for c, s, a in zip(points, same, away):
        if s and not a:
            found[c] = guess[c]
        elif not s:
            doubtful.append(c)
    for c in doubtful:
        for name, r in first.items():
            if joins([(r, chr(c))])[0]:
                found[c] = name
    return found


def print_scripts():
    found = scripts()
    names = sorted(set(found.values()))
    print("""/* shard/text/tokenizer_scripts.c - data: the script of each character as the reference's UnicodeScripts pre-tokenizer sees it, which
 * is not today's (made by tests/shard_text/make_unicode.py with tokenizers %s).  A row: first, last, number of the script. */
#include "shard/text/tokenizer_unicode.h"

static const tok_script scripts[] = {""" % tokenizers.__version__)
    runs = []
    for c in sorted(found):
        if runs and runs[-1][1] == c - 1 and runs[-1][2] == found[c]:
            runs[-1][1] = c
        else:
            runs.append([c, c, found[c]])
    rows("{0x%x, 0x%x, %d}" % (a, b, names.index(n) + 1) for a, b, n in runs)
    print("};\n\nconst tok_scripts tok_script_of = {scripts, sizeof(scripts) / sizeof(scripts[0])};")


if "--scripts" in sys.argv:
    print_scripts()
    sys.exit(0)

PUBLIC = []
print("""/* shard/text/tokenizer_unicode.c - data: the character classes of the reference tokenizers (made by tests/shard_text/make_unicode.py
 * with tokenizers %s).
 *
 * The reference takes each class from another library, each with tables of another version of Unicode; equal ids need
 * equal tables. */
#include "shard/text/tokenizer_unicode.h\"""" % tokenizers.__version__)
table("numeric", alone(pre_tokenizers.Digits(True)), "the Digits pre-tokenizer")
table("punctuation", alone(pre_tokenizers.Punctuation("isolated")), "the Punctuation and Bert pre-tokenizers")
table("other", erased(normalizers.BertNormalizer(True, False, False, False)), "what the Bert normaliser cleans away")
table("nonspacing", erased(normalizers.BertNormalizer(False, False, True, False)), "what the Bert normaliser strips as accents")
table("mark", erased(normalizers.StripAccents()), "what StripAccents strips")
table("word", words(), "\\\\w of the Whitespace pre-tokenizer and of added tokens that must be single words")

utf8proc = ctypes.CDLL("libutf8proc.so.2")
utf8proc.utf8proc_NFKD.restype = ctypes.c_char_p
nfkd = normalizers.NFKD()
table("undecomposed", {c for c in POINTS if c and nfkd.normalize_str(chr(c)) == chr(c) != utf8proc.utf8proc_NFKD(chr(c).encode()).decode()},
      "what normalisation leaves alone although utf8proc 2.8 would decompose it")
found = {k: matched("\\p{%s}" % k) for k in CATEGORIES}
letters = {c for c in POINTS if unicodedata.category(chr(c)) in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nl")}
table("alphabetic", matched("\\p{Alphabetic}") - letters, "Alphabetic beyond letters and letter numbers of Unicode 14, as patterns see it")
table("uppercase", matched("\\p{Uppercase}") - {c for c in letters if unicodedata.category(chr(c)) == "Lu"}, "Uppercase beyond Lu of Unicode 14")
table("lowercase", matched("\\p{Lowercase}") - {c for c in letters if unicodedata.category(chr(c)) == "Ll"}, "Lowercase beyond Ll of Unicode 14")
print("\n/* Characters whose category, as patterns see it, is not that of Unicode 14. */\nstatic const tok_newer newer[] = {")
items = []
for k in CATEGORIES:
    items += [(a, b, k) for a, b in ranges(c for c in found[k] if unicodedata.category(chr(c)) != k)]
rows('{0x%x, 0x%x, "%s"}' % i for i in sorted(items))
print("};")
print("\n/* Lower case that differs from utf8proc 2.8's: a range, and what to add. */\nstatic const tok_shift lower[] = {")
shifts, low = [], normalizers.Lowercase()
for c in POINTS:
    if unicodedata.category(chr(c)) in ("Cn", "Ll") or c in (0x130,):
        text = low.normalize_str(chr(c))
        if len(text) == 1 and text != chr(c):
            d = ord(text) - c
            if shifts and shifts[-1][1] == c - 1 and shifts[-1][2] == d:
                shifts[-1][1] = c
            else:
                shifts.append([c, c, d])
rows("{0x%x, 0x%x, %d}" % tuple(s) for s in shifts)
print("};\n")
for name in PUBLIC:
    print("const tok_ranges tok_ranges_%s = {%s, sizeof(%s) / sizeof(%s[0])};" % (name, name, name, name))
print("const tok_newer_list tok_newer_characters = {newer, sizeof(newer) / sizeof(newer[0])};")
print("const tok_shifts tok_lower_shifts = {lower, sizeof(lower) / sizeof(lower[0])};")
