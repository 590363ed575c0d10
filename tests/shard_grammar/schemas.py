"""JSON schemas for checks: those of the test suite in the source package of Python's jsonschema, and the program that judges texts by grammars.

Without jsonschema, importing this ends the program with 77.
"""
import json
import pathlib
import random
import subprocess
import sys
import tarfile

try:
    import jsonschema
except ImportError:
    print("skipped: Python's jsonschema is not installed")
    sys.exit(77)

DRAFTS = {"draft4": jsonschema.Draft4Validator, "draft6": jsonschema.Draft6Validator, "draft7": jsonschema.Draft7Validator,
          "draft2019-09": jsonschema.Draft201909Validator, "draft2020-12": jsonschema.Draft202012Validator}


def suite_folder(folder):
    """The suite's tests, unpacked from the source package that deploy/check puts into the folder; ends with 77 where it is not."""
    folder = pathlib.Path(folder)
    for found in folder.glob("jsonschema-*/json/tests"):
        return found
    package = next(folder.glob("jsonschema-*.tar.gz"), None)
    if package is None:
        print(f"skipped: the source package of jsonschema is not in {folder}")
        sys.exit(77)
    with tarfile.open(package) as tar:
        tar.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(folder)
    return next(folder.glob("jsonschema-*/json/tests"))


def groups(suite):
    for draft, cls in DRAFTS.items():
        for path in sorted((suite / draft).glob("*.json")):
            for group in json.loads(path.read_text()):
                yield draft, cls, path.stem, group


def schema_of(draft, cls, group):
    schema = group["schema"]
    if isinstance(schema, dict) and "$schema" not in schema:
        schema = {"$schema": cls.META_SCHEMA.get("$schema", cls.META_SCHEMA.get("$id")), **schema}
    return schema


def chosen(folder, n=None, seed=1):
    """[(where, validator's class, schema, group)]: all of the suite, or n of it drawn with the seed."""
    found = list(groups(suite_folder(folder)))
    if n is not None:
        random.Random(seed).shuffle(found)
        found = found[:n]
    return [(f"{draft}/{name}: {group['description']}", cls, schema_of(draft, cls, group), group) for draft, cls, name, group in found]


class Lines:
    """A grammar_lines at work: see the file of that name."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **line):
        self.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())
