#!/usr/bin/env python3
"""Compares `trireme tokenize` with the Python package `tokenizers` on tokenizers made here.

    diff_tokenizers.py TRIREME [--only NAME] [--scan] [--seed N]
    diff_tokenizers.py --dump FOLDER     writes the small tokenizers and vectors that the unit tests hold

Needs `pip install tokenizers`; exits 77 (skipped) without it.  Each case is a tokenizer.json made through the library and a
set of strings and id sequences; ids (with and without special tokens) and decoded texts (with and without them) must be
equal.  --scan adds every assigned character, one by one, to the cases about character classes.  A text on which the
library itself fails or panics is left out.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    import tokenizers
except ImportError:
    print("skipped: the Python package tokenizers is not installed")
    sys.exit(77)

WORDS = ("the quick brown fox jumps over lazy dog it's I'll we've don't HELLO World naive resume 12345 3.14 foo_bar "
         "x==y; /* c */ http://a.b/c?d=e user@host.org").split()
SCRIPTS = ["Straße", "naïve café", "e\u0301le\u0300ve", "İstanbul ıI", "ﬁn ﬂy", "Ǆ ǅ", "ΑΣ σς Ὀδυσσεύς", "Привет, мир", "שלום עולם", "مرحبا بالعالم",
           "नमस्ते दुनिया", "ภาษาไทย", "你好，世界", "こんにちは カタカナー", "한국어 텍스트 각", "ㅎㅏㄴ", "𝒳𝔘𝟙𝟚", "①②③ ½ Ⅷ", "٣٤٥ ৪৫", "☃ ❤️ 👩‍👩‍👧‍👦 🇩🇪 👍🏽",
           "a\u0300\u0301\u0302\u0323b", "\u0323\u0300x", "Å Å", "ｆｕｌｌ ｗｉｄｔｈ", "\u1e9b\u0323", "q̣̇", "ﷺ", "ǰ ΐ", "K Å", "ſs ß SS", "\ufb03", "\u2126"]
BLANKS = ["", " ", "  ", "   a", "a   ", "\t", "\n", "\r\n", "a\r\nb", "\n\n\n a", " \n \t b", "a\u00a0b", "\u3000x\u3000", "\u2028p\u2029", "a\u200bb", "a\u200db",
          "\ufeffa", "a\u0085b", "\x00", "a\x00b", "\x01\x02\x7f\x80\x9f", "\u180e", "\ufffd", "\ufffe", "\U000e0001", "\ue000", "\U0010ffff", "\u0378", "▁", "▁▁a ▁b", "a▁"]
LONG = ["a" * 300, "ab" * 200, " " * 200 + "x", "\u0301" * 100, "1" * 120, "!?" * 80, "é" * 150, "word " * 60, "中" * 120, "\n" * 90, "A" * 90 + "a", "a b" * 100]


def strings(rng, n=160, extra=()):
    pool = WORDS + SCRIPTS + list(extra)
    out = WORDS + SCRIPTS + BLANKS + LONG + list(extra)
    alphabets = ["abAB 01", "aé \u0301ß\u0327", " \t\n\u3000.,!'", "中文한글かなカナ ", "'stmdlrev ", "𝒳👍🏽\u200d\ufe0f", "▁ a", "<>|[]/se", "\u0900\u094d\u0915\u093f", "각가각"]
    for _ in range(n):
        k = rng.randrange(3)
        if k == 0:
            a = rng.choice(alphabets) + rng.choice(alphabets)
            out.append("".join(rng.choice(a) for _ in range(rng.randrange(1, 30))))
        elif k == 1:
            out.append("".join(rng.choice(pool) + rng.choice(["", " ", "  ", "\n", ", ", "\t"]) for _ in range(rng.randrange(1, 8))))
        else:
            out.append("".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xa0, 0x250), rng.randrange(0x300, 0x370), rng.randrange(0x370, 0x3000),
                                                rng.randrange(0x3000, 0xd7a4), rng.randrange(0xe000, 0x10000), rng.randrange(0x10000, 0x1fb00)]))
                               for _ in range(rng.randrange(1, 20))))
    return out


def scan_strings():
    """Every code point that may be assigned, with an x between, 128 to a string."""
    points = [c for c in list(range(0x0, 0xd800)) + list(range(0xe000, 0x18d10)) + list(range(0x1af00, 0x1fc00)) + list(range(0x20000, 0x20010)) +
              list(range(0x2f800, 0x2fa20)) + list(range(0x30000, 0x30010)) + list(range(0xe0000, 0xe01f0)) + [0xf0000, 0x10ffff]]
    return ["x".join(chr(c) for c in points[i:i + 128]) for i in range(0, len(points), 128)]


# ---- the tokenizers ----

def byte_chars():
    return pre_tokenizers.ByteLevel.alphabet()


def reveal(normalizer=None, pre=None):
    """A model that tells every byte, and whether it begins a piece."""
    chars = sorted(byte_chars())
    vocab = {c: i for i, c in enumerate(chars)}
    vocab.update({"##" + c: 256 + i for i, c in enumerate(chars)})
    t = Tokenizer(models.BPE(vocab=vocab, merges=[], continuing_subword_prefix="##"))
    if normalizer is not None:
        t.normalizer = normalizer
    steps = [] if pre is None else [pre]
    t.pre_tokenizer = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return t


CORPUS = (" ".join(WORDS) + " " + " ".join(SCRIPTS) + " lower lowest newer newest wider the theatre then there their ") * 3
CORPUS = [CORPUS[i:i + 200] for i in range(0, len(CORPUS), 200)]


def trained(kind, pre=None, normalizer=None, **model_args):
    if kind == "bpe":
        t = Tokenizer(models.BPE(**model_args))
        keys = {k: v for k, v in model_args.items() if k in ("continuing_subword_prefix", "end_of_word_suffix")}
        tr = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, **keys,
                                 **({"initial_alphabet": byte_chars()} if isinstance(pre, pre_tokenizers.ByteLevel) else {}))
    elif kind == "unigram":
        t = Tokenizer(models.Unigram())
        tr = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    elif kind == "wordpiece":
        t = Tokenizer(models.WordPiece(unk_token="[UNK]", **model_args))
        tr = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    else:
        t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tr = trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False)
    if pre is not None:
        t.pre_tokenizer = pre
    if normalizer is not None:
        t.normalizer = normalizer
    t.train_from_iterator(CORPUS, tr)
    return t


def edited(t, **model):
    """The tokenizer with members of its model changed."""
    j = json.loads(t.to_str())
    j["model"].update(model)
    return Tokenizer.from_str(json.dumps(j))


def byte_fallback(t, unigram=False):
    j = json.loads(t.to_str())
    m = j["model"]
    m["byte_fallback"] = True
    for b in range(256):
        name = "<0x%02X>" % b
        if unigram:
            m["vocab"].append([name, -20.0])
        elif name not in m["vocab"]:
            m["vocab"][name] = len(m["vocab"])
    return Tokenizer.from_str(json.dumps(j))


def charsmap():
    """A small SentencePiece character map: a double array made by hand, and the texts it points at."""
    import base64
    import struct
    keys = {"ﬁ": "fi", "Å": "A\u030a", "\u00a0": " ", "\t": " ", "\r": " ", "\n": " ", "①": "1", "ｱ": "ア", "é": "e", "e\u0301": "E", "ab": "X", "한": "H", "\u200b": "", "가": "GA", "क": "k"}
    texts, offset = b"", {}
    for k, v in keys.items():
        offset[k.encode()] = len(texts)
        texts += v.encode() + b"\x00"
    trie = {}
    for k, o in offset.items():
        node = trie
        for byte in k:
            node = node.setdefault(byte, {})
        node[-1] = o
    units, used = {0: 0}, {0}

    def place(node, at, label):
        children = [b for b in node if b >= 0]
        need = children + ([0] if -1 in node else [])
        base = 1
        while any((base ^ c) in used or (base ^ c) == at for c in need) or ((base ^ at) >= 1 << 21):
            base += 1
        off = base ^ at
        unit = (label & 0xff) | (off << 10 if off < 1 << 21 else 0)
        if -1 in node:
            unit |= 1 << 8
            units[base] = node[-1] | 1 << 31
            used.add(base)
        units[at] = unit
        for c in children:
            used.add(base ^ c)
        for c in children:
            place(node[c], base ^ c, c)
    place(trie, 0, 0)
    size = (max(units) | 0xff) + 1
    array = [units.get(i, 0) for i in range(size)]
    blob = struct.pack("<I", size * 4) + struct.pack("<%dI" % size, *array) + texts
    return blob, base64.b64encode(blob).decode(), [k for k in keys]


def with_part(t, part, value):
    j = json.loads(t.to_str())
    j[part] = value
    return Tokenizer.from_str(json.dumps(j))


def normaliser_cases():
    n = normalizers
    blob, _, keys = charsmap()
    yield "norm-nfc", n.NFC(), True
    yield "norm-nfd", n.NFD(), True
    yield "norm-nfkc", n.NFKC(), True
    yield "norm-nfkd", n.NFKD(), True
    yield "norm-lowercase", n.Lowercase(), True
    yield "norm-strip-accents", n.StripAccents(), True
    yield "norm-nfd-strip-accents", n.Sequence([n.NFD(), n.StripAccents()]), True
    yield "norm-nmt", n.Nmt(), True
    yield "norm-bytes", n.ByteLevel(), False
    yield "norm-prepend", n.Prepend("▁"), False
    yield "norm-sp", n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")]), False
    yield "norm-replace-empty", n.Replace("", "-"), False
    yield "norm-replace-two", n.Replace(Regex(" {2,}"), "▁"), False
    yield "norm-replace-regex", n.Replace(Regex("(?i:l+)|\\d"), "<>"), False
    yield "norm-replace-delete", n.Replace(Regex("[aeiou]"), ""), False
    yield "norm-replace-empty-match", n.Replace(Regex("b*"), "-"), False
    for left in (False, True):
        for right in (False, True):
            yield "norm-strip-%d%d" % (left, right), n.Strip(left, right), left and right
    for clean in (False, True):
        for chinese in (False, True):
            for accents in (None, False, True):
                for lower in (False, True):
                    full = clean and chinese and accents is None
                    yield "norm-bert-%d%d%s%d" % (clean, chinese, accents, lower), n.BertNormalizer(clean, chinese, accents, lower), full
    yield "norm-precompiled", n.Precompiled(blob), True
    yield "norm-xlnet", n.Sequence([n.Replace("``", '"'), n.NFKD(), n.StripAccents(), n.Lowercase(), n.Replace(Regex(" {2,}"), " ")]), False


REGEXES = [
    r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+", r"\s+$", r"^.", r".$", r"(?=(\d{3})+(?!\d))", r"\d{1,3}(?=(?:\d{3})*\b)", r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"\w+", r"\W", r"\b", r"\B", r"\h+", r"\H", r"[[:alpha:]]+", r"[[:^space:]]", r"[[:punct:]]", r"[[:upper:][:digit:]]", r"[[:word:]]+", r"[[:cntrl:]]", r"[[:graph:]]+", r"[[:print:]]+", r"[[:alnum:]]+", r"[[:xdigit:]]+", r"[[:blank:]]",
    r"[\w&&[^\d_]]+", r"[^\W\d]+", r"[^\s&&[^\n]]+", r"[a-z&&[aeiou]]", r"[^a-z&&[aeiou]]", r"[^[a-m]x]+", r"[a\-z]", r"[]a]+", r"[\]\[]", r"[a-]", r"[\d\-x]",
    r"\p{Alpha}+", r"\p{^Lu}+", r"\P{Lu}", r"\p{Punct}", r"\p{Greek}+", r"\p{Hiragana}|\p{Katakana}", r"\p{Letter}", r"\p{Lowercase_Letter}+", r"\p{Space}", r"\p{Word}+", r"\p{Any}", r"\p{Cyrillic}+",
    r"a{2}", r"a{,2}b", r"a{1,}?", r"a{2}?b", r"a{1,2}+b", r"(?:ab){2}", r"a**", r"(?>a+)b", r"(a)\1", r"(?<x>a|b)\k<x>", r"(?i)HELLO|w", r"l(?i)O|W", r"(?m).+", r".+", r"(?i-m:A.)", r"(?#note)a",
    r"\x41|\x{4e2d}|\u0062", r"\t|\n|\v|\f|\r", r"\.", r"\/|\-|\_", r"(?<=a)b", r"(?<!a)b", r"(?<=\s)\S", r"a|", r"", r"(?:)", r"x?", r"\R", r"\A.", r".\z", r"\s*\Z", r"(?i:ss|ß)", r"(?i:k)", r"(?i:σ)", r"[^\p{L}\p{N}\s]", r"\S\s", r"[\S]+", r"[^\S]+", r"[\s\S]{1,3}",
    r"[㄰-㆏一-鿿]+", "[!-/:-~！-／：-～‘-‟　-。]+", r"{|}", r"a{x}", r"\Qa", r"\d+(?:\.\d+)?",
]


def split_cases():
    p = pre_tokenizers
    yield "pre-whitespace", p.Whitespace(), True
    yield "pre-whitespace-split", p.WhitespaceSplit(), True
    yield "pre-bert", p.BertPreTokenizer(), True
    yield "pre-digits", p.Digits(False), True
    yield "pre-digits-each", p.Digits(True), True
    yield "pre-scripts", p.UnicodeScripts(), True
    yield "pre-delimiter", p.CharDelimiterSplit("e"), False
    yield "pre-fixed", p.FixedLength(3), False
    for add in (False, True):
        for rx in (False, True):
            yield "pre-bytes-%d%d" % (add, rx), p.ByteLevel(add_prefix_space=add, use_regex=rx), rx and not add
    for b in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        yield "pre-punctuation-" + b, p.Punctuation(b), b == "isolated"
        for inv in (False, True):
            yield "pre-split-%s-%d" % (b, inv), p.Split(Regex(r"\d|\s+|an?|-"), b, inv), False
            yield "pre-split-string-%s-%d" % (b, inv), p.Split("a", b, inv), False
            yield "pre-split-empty-%s-%d" % (b, inv), p.Split(Regex(r"b*"), b, inv), False
    yield "pre-split-no-text", p.Split("", "isolated", False), False
    for scheme in ("always", "first", "never"):
        for split in (False, True):
            yield "pre-metaspace-%s-%d" % (scheme, split), p.Metaspace("▁", scheme, split), False
            yield "pre-metaspace-after-%s-%d" % (scheme, split), p.Sequence([p.WhitespaceSplit(), p.Metaspace("▁", scheme, split)]), False
            yield "pre-metaspace-punct-%s-%d" % (scheme, split), p.Sequence([p.Punctuation("isolated"), p.Metaspace("▁", scheme, split)]), False
    yield "pre-falcon", p.Sequence([p.Punctuation("contiguous"), p.ByteLevel(add_prefix_space=False), p.Digits(False), p.Split(Regex("[0-9][0-9][0-9]"), "isolated")]), False
    yield "pre-deepseek", p.Sequence([p.Split(Regex("[\r\n]"), "isolated"), p.Split(Regex(r"\s?\p{L}+"), "isolated"), p.Split(Regex(r"\s?\p{P}+"), "isolated"),
                                      p.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"), p.Digits(True)]), False


def token_cases(rng):
    """Added tokens with every combination of flags, over several normalisers and pre-tokenizers."""
    contents = ["<a>", "<ab>", "foo", "Foo", " sp", "sp ", "<|x|>", "a", "é", "e\u0301", "\n", "  ", "word", "word2", "▁", "[MASK]", "不", "-"]
    norms = {"none": None, "lower": normalizers.Lowercase(), "nfd": normalizers.NFD(), "sp": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
             "strip": normalizers.Strip(), "bert": normalizers.BertNormalizer()}
    pres = {"none": None, "meta": pre_tokenizers.Metaspace("▁", "first", True), "space": pre_tokenizers.Whitespace()}
    for nname, norm in norms.items():
        for pname, pre in pres.items():
            for k in range(4):
                t, taken = reveal(norm, pre), {""}
                for c in rng.sample(contents, 8):
                    token = AddedToken(c, single_word=rng.random() < 0.3, lstrip=rng.random() < 0.3, rstrip=rng.random() < 0.3,
                                       normalized=rng.random() < 0.5, special=rng.random() < 0.4)
                    form = norm.normalize_str(c) if norm is not None and token.normalized else c
                    # Of tokens that normalise alike the library takes any, by the order of a hash; one that becomes empty makes it panic.
                    if (form, token.normalized) not in taken and form != "":
                        taken.add((form, token.normalized))
                        t.add_tokens([token])
                text = ["".join(rng.choice(contents + [" ", "  ", "x", "\n", "foobar", "\t", "FOO", "é "]) for _ in range(rng.randrange(1, 9))) for _ in range(150)]
                yield "added-%s-%s-%d" % (nname, pname, k), t, text


def model_cases():
    bl = pre_tokenizers.ByteLevel(add_prefix_space=False)
    meta = pre_tokenizers.Metaspace("▁", "always", True)
    t = trained("bpe", bl)
    t.decoder = decoders.ByteLevel()
    yield "bpe-bytes", t
    yield "bpe-bytes-ignore-merges", edited(t, ignore_merges=True)
    sparse = json.loads(t.to_str())
    for c in ("Ġ", "é", "Ī"):  # bytes that the vocabulary lacks
        i = sparse["model"]["vocab"].pop(c, None)
        sparse["model"]["merges"] = [m for m in sparse["model"]["merges"] if c not in "".join(m)]
        sparse["model"]["vocab"] = {k: v for k, v in sparse["model"]["vocab"].items() if c not in k}
    yield "bpe-bytes-missing", Tokenizer.from_str(json.dumps(sparse))
    sparse["model"]["unk_token"] = "<unk>"
    yield "bpe-bytes-missing-unk", Tokenizer.from_str(json.dumps(sparse))
    sparse["model"]["fuse_unk"] = True
    yield "bpe-bytes-missing-fuse", Tokenizer.from_str(json.dumps(sparse))
    for suffix in (None, "</w>"):
        for prefix in (None, "##"):
            keys = {k: v for k, v in (("continuing_subword_prefix", prefix), ("end_of_word_suffix", suffix)) if v}
            t = trained("bpe", pre_tokenizers.Whitespace(), unk_token="<unk>", **keys)
            t.decoder = decoders.BPEDecoder("</w>") if suffix else decoders.WordPiece("##")
            yield "bpe-words-%s-%s" % (prefix, suffix), t
            yield "bpe-words-fuse-%s-%s" % (prefix, suffix), edited(t, fuse_unk=True)
            yield "bpe-words-no-unk-%s-%s" % (prefix, suffix), edited(t, unk_token=None)
            yield "bpe-words-fallback-%s-%s" % (prefix, suffix), byte_fallback(t)
    sp = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t = trained("bpe", meta, unk_token="<unk>")
    t = byte_fallback(edited(t, fuse_unk=True))
    t.pre_tokenizer = None
    t.normalizer = sp
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(["<s>", "</s>"])
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    yield "bpe-sentencepiece", t
    t = trained("unigram", meta)
    t.decoder = decoders.Metaspace("▁", "always")
    yield "unigram", t
    yield "unigram-fallback", byte_fallback(t, True)
    f = byte_fallback(t, True)
    f.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", "always")])
    f.normalizer = normalizers.Precompiled(charsmap()[0])
    f.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", "always", True)])
    f.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A $B", special_tokens=[("</s>", 2)])
    yield "unigram-t5", f
    whole = trained("unigram", meta)
    whole.pre_tokenizer = None
    yield "unigram-no-split", whole
    t = trained("wordpiece", pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer())
    t.decoder = decoders.WordPiece("##", True)
    t.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    t.add_special_tokens(["[CLS]", "[SEP]", "[UNK]"])
    yield "wordpiece", t
    yield "wordpiece-short", edited(t, max_input_chars_per_word=4)
    d = Tokenizer.from_str(t.to_str())
    d.decoder = decoders.WordPiece("##", False)
    yield "wordpiece-no-cleanup", d
    yield "wordpiece-other-prefix", edited(t, continuing_subword_prefix="@@")
    r = trained("bpe", pre_tokenizers.ByteLevel(add_prefix_space=True))
    r.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    r.add_special_tokens(["<s>", "</s>"])
    r.decoder = decoders.ByteLevel()
    yield "roberta", r
    s = Tokenizer.from_str(r.to_str())
    s.post_processor = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(single="<s> <s> $A", pair="$A $B", special_tokens=[("<s>", 1)])])
    yield "post-sequence", s
    s = Tokenizer.from_str(r.to_str())
    s.post_processor = processors.TemplateProcessing(single="<s> $A </s> $A", pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    yield "post-twice", s
    t = trained("wordlevel", pre_tokenizers.Whitespace())
    yield "wordlevel", t
    vocab = {"<pad>": 0, "|": 1, "a": 2, "b": 3, "'": 4, "c": 5, " ": 6, "": 7, ".": 8, "<unk>": 9}
    for clean in (False, True):
        t = Tokenizer(models.WordLevel(vocab=vocab, unk_token="<unk>"))
        t.decoder = decoders.CTC("<pad>", "|", clean)
        yield "ctc-%d" % clean, t


def decoder_cases():
    d = decoders
    words = ["▁the", "▁", "a", "##b", "b</w>", "</w>", "<0x41>", "<0xE4>", "<0xBD>", "<0xA0>", "<0xzz>", "<0x+F>", "<0x0A>", " .", "n't", " n't", " do not", "Ġx", "é", "ä½ł", "  ", "x▁y", "▁▁", "'s", "!", "aab", "\n",
             "Ã", "©", "ĠÐ", "Ł", "你", "<s>", "##", "▁a▁"]
    chains = {
        "none": None, "bytes": d.ByteLevel(), "fallback": d.ByteFallback(), "meta-always": d.Metaspace("▁", "always"), "meta-first": d.Metaspace("▁", "first"),
        "meta-never": d.Metaspace("▁", "never"), "wordpiece": d.WordPiece("##", True), "wordpiece-raw": d.WordPiece("##", False), "bpe": d.BPEDecoder("</w>"), "fuse": d.Fuse(),
        "strip": d.Strip(" ", 1, 0), "strip-more": d.Strip(" ", 3, 0), "strip-right": d.Sequence([d.Fuse(), d.Strip("a", 0, 1)]), "replace": d.Replace("▁", " "),
        "replace-regex": d.Replace(Regex("a+|<"), "-"), "replace-empty": d.Replace("a", ""),
        "llama": d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]), "gemma": d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse()]),
        "fuse-replace": d.Sequence([d.Fuse(), d.Replace("ab", "X")]), "fuse-regex": d.Sequence([d.Fuse(), d.Replace(Regex("b.a"), "X")]), "bytes-strip": d.Sequence([d.ByteLevel(), d.Strip(" ", 1, 0)]),
        "fuse-meta": d.Sequence([d.Fuse(), d.Metaspace("▁", "always")]), "meta-fallback": d.Sequence([d.Metaspace("▁", "always"), d.ByteFallback()]), "fuse-bytes": d.Sequence([d.Fuse(), d.ByteLevel()]),
        "empty": d.Sequence([]), "ctc": d.CTC("a", "▁", True), "ctc-after-fuse": d.Sequence([d.Fuse(), d.CTC("a", "▁", True)]), "fallback-wordpiece": d.Sequence([d.ByteFallback(), d.WordPiece("##", True)]),
    }
    for name, chain in chains.items():
        t = Tokenizer(models.WordLevel(vocab={w: i for i, w in enumerate(words)}, unk_token="<s>"))
        if chain is not None:
            t.decoder = chain
        t.add_tokens([AddedToken("extra", special=False), AddedToken("▁extra", special=True)])
        yield "dec-" + name, t


# ---- the comparison ----

class Failure(Exception):
    pass


def ours(binary, path, lines, *options):
    p = subprocess.run([binary, "tokenize", "--tokenizer", path, *options, "--jsonl", "-"], input="\n".join(json.dumps(x) for x in lines) + "\n", capture_output=True, text=True)
    if p.returncode != 0:
        raise Failure("exit code %d after %d of %d lines: %s" % (p.returncode, p.stdout.count("\n"), len(lines), p.stderr.strip()[-300:]))
    return [json.loads(x) for x in p.stdout.split("\n") if x]


def reference(f):
    try:
        return f()
    except BaseException as e:  # the library panics on some inputs
        if isinstance(e, KeyboardInterrupt):
            raise
        return None


def compare(binary, name, t, texts, ids_lists, shown):
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as f:
        f.write(t.to_str())
        f.flush()
        t = Tokenizer.from_str(t.to_str())
        n = bad = 0
        for special in (False, True):
            want = [reference(lambda s=s: t.encode(s, add_special_tokens=special).ids) for s in texts]
            use = [(s, w) for s, w in zip(texts, want) if w is not None]
            got = ours(binary, f.name, [{"text": s} for s, _ in use], *(["--special"] if special else []))
            for (s, w), g in zip(use, got):
                n += 1
                if g["ids"] != w:
                    bad += 1
                    if bad <= shown:
                        print("  %s text %r special %s\n    want %s\n    got  %s" % (name, s[:80], special, w[:40], g["ids"][:40]))
            if not special:
                ids_lists = ids_lists + [w for _, w in use[:300]]
        for keep in (False, True):
            want = [reference(lambda i=i: t.decode(i, skip_special_tokens=not keep)) for i in ids_lists]
            use = [(i, w) for i, w in zip(ids_lists, want) if w is not None]
            got = ours(binary, f.name, [{"ids": i} for i, _ in use], "--decode", *(["--special"] if keep else []))
            for (i, w), g in zip(use, got):
                n += 1
                if g["text"] != w:
                    bad += 1
                    if bad <= shown:
                        print("  %s ids %s keep %s\n    want %r\n    got  %r" % (name, i[:30], keep, w[:120], g["text"][:120]))
        return n, bad


def random_ids(rng, t, n=60):
    top = max(t.get_vocab().values(), default=0) + 3
    return [[rng.randrange(top) for _ in range(rng.randrange(0, 14))] for _ in range(n)]


def cases(rng, scan):
    texts = strings(rng)
    every = scan_strings() if scan else []
    for name, norm, classes in normaliser_cases():
        extra = ["".join(rng.choice(charsmap()[2] + ["a", "\u0301", " "]) for _ in range(8)) for _ in range(60)] if "precompiled" in name else []
        yield name, reveal(norm), texts + extra + (every if classes else []), []
    for name, pre, classes in split_cases():
        yield name, reveal(None, pre), texts + (every if classes else []), []
    for i, rx in enumerate(REGEXES):
        try:
            t = reveal(None, pre_tokenizers.Split(Regex(rx), "isolated", False))
        except BaseException as e:
            yield "regex-%d %s" % (i, rx), str(e), None, None
            continue
        yield "regex-%d %s" % (i, rx), t, texts + (every if i < 3 or rx[:1] in "\\[" and len(rx) < 16 else []), []
    for name, t, more in token_cases(rng):
        yield name, t, texts[:60] + more, random_ids(rng, t)
    for name, t in model_cases():
        yield name, t, texts + ["<s>", "a</s>b", "[CLS] x [SEP]"], random_ids(rng, t)
    for name, t in decoder_cases():
        yield name, t, ["▁the", "a"], random_ids(rng, t, 400)


DUMPED = ("bpe-bytes", "bpe-bytes-missing-fuse", "bpe-words-##-</w>", "bpe-words-fallback-None-None", "bpe-sentencepiece", "unigram-t5", "unigram-no-split", "wordpiece",
          "roberta", "post-twice", "ctc-1", "dec-llama", "dec-bytes-strip", "dec-bpe", "dec-ctc", "dec-wordpiece", "dec-meta-first", "dec-none", "norm-precompiled", "norm-nfkc",
          "norm-bert-11None1", "norm-xlnet", "pre-scripts", "pre-falcon", "pre-whitespace", "pre-bert", "pre-metaspace-after-first-1", "pre-split-merged_with_next-0",
          "pre-split-contiguous-1", "added-lower-none-0", "added-sp-meta-1", "added-none-space-2")


def dump(folder, rng):
    """The committed tokenizers, all made here, with vectors in the form of vectors.h."""
    for name, t, texts, ids in cases(rng, False):
        if name not in DUMPED and not (name.startswith("regex-") and int(name.split()[0][6:]) in (1, 3, 8, 26)):
            continue
        name = name.split()[0].replace("</w>", "w").replace("##", "cont")
        t = Tokenizer.from_str(t.to_str())
        with open(os.path.join(folder, name + ".tokenizer.json"), "w") as f:
            f.write(json.dumps(json.loads(t.to_str()), separators=(",", ":")) + "\n")
        with open(os.path.join(folder, name + ".vectors.jsonl"), "w") as f:
            for s in texts[:40] + texts[40::7]:
                plain = reference(lambda: t.encode(s, add_special_tokens=False).ids)
                if plain is None:
                    continue
                v = {"text": s, "ids": plain, "ids_special": t.encode(s).ids, "decoded": reference(lambda: t.decode(plain, skip_special_tokens=False)),
                     "decoded_skip": reference(lambda: t.decode(plain))}
                if v["decoded"] is not None and v["decoded_skip"] is not None:
                    f.write(json.dumps(v, separators=(",", ":")) + "\n")
            for i in ids[:60]:
                v = {"decode_ids": i, "decoded": reference(lambda: t.decode(i, skip_special_tokens=False)), "decoded_skip": reference(lambda: t.decode(i))}
                if v["decoded"] is not None and v["decoded_skip"] is not None:
                    f.write(json.dumps(v, separators=(",", ":")) + "\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("binary", nargs="?")
    p.add_argument("--dump")
    p.add_argument("--only", default="")
    p.add_argument("--scan", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--shown", type=int, default=2)
    a = p.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rng = random.Random(a.seed)
    if a.dump:
        dump(a.dump, rng)
        return
    total = failed = compared = 0
    for name, t, texts, ids in cases(rng, a.scan):
        if a.only not in name:
            continue
        if isinstance(t, str):
            print("left out: %s: the library refuses it: %s" % (name, t[:100]))
            continue
        total += 1
        try:
            n, bad = compare(a.binary, name, t, texts, ids, a.shown)
        except Failure as e:
            n, bad = 0, 1
            print("  %s: %s" % (name, e))
        compared += n
        if bad:
            failed += 1
            print("FAIL %s: %d of %d differ" % (name, bad, n))
    print("tokenizers %s: %d tokenizers, %d comparisons" % (tokenizers.__version__, total, compared))
    print("%d passed, %d failed" % (total - failed, failed))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
