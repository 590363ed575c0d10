#!/usr/bin/env python3
"""The gate itself: what it reads, what it refuses, and that it can fail.

    test_gate.py [--cuda-home DIR]      with a toolkit, occupancy() is held against NVIDIA's cuda_occupancy.h
"""
import contextlib
import copy
import io
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import chips
import gate
import roofline

PTXAS = """ptxas info    : 11 bytes gmem
ptxas info    : Compiling entry function '_Z4goodPf' for 'sm_90'
ptxas info    : Function properties for _Z4goodPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compiling entry function '_Z3badPf' for 'sm_90'
ptxas info    : Function properties for _Z3badPf
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Function properties for _Z6calledPf
    32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""
BOUNDS = """arch = sm_90
.nv.info._Z4goodPf
	Attribute:	EIATTR_REGCOUNT
	Value:	0x1 0x1 0x1
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x80 0x2 0x1 
"""


def sass(*lines):
    """Machine code as cuobjdump prints it.  A line may end in #wN (its result counts on scoreboard N) and #qN (it waits for scoreboard N)."""
    body = ""
    for i, line in enumerate(lines):
        control = int(m[1]) << 5 if (m := re.search(r"#w(\d)", line)) else 7 << 5
        control |= 1 << 11 + int(m[1]) if (m := re.search(r"#q(\d)", line)) else 0
        body += f"        /*{16 * i:04x}*/                   {line.split(' #')[0]} ;    /* 0x{0:016x} */\n{'':40}/* 0x{control << 41:016x} */\n"
    return gate.read_sass("\tcode for sm_90\n\t\tFunction : f\n" + body)["f", 90]


STREAM = sass("LDG.E.128.CONSTANT R4, desc[UR4][R2.64] #w0", "LDG.E.128 R8, desc[UR4][R2.64+0x10] #w1", "FADD R4, R4, R8 #q0", "STG.E desc[UR4][R2.64], R4", "EXIT")


class Reading(unittest.TestCase):
    def test_ptxas(self):
        rows = gate.read_ptxas(PTXAS)
        self.assertEqual(rows["_Z4goodPf", 90], {"registers": 40, "stack": 0, "spill": 0, "shared": 2048})
        self.assertEqual(rows["_Z3badPf", 90], {"registers": 255, "stack": 32, "spill": 12, "shared": 0})

    def test_bounds(self):
        self.assertEqual(gate.read_bounds(BOUNDS), {("_Z4goodPf", 90): 256})

    def test_names(self):
        names = gate.names_of(["_ZN30_GLOBAL__N__17877b9a_4_t_cu_go4anonILi4ELb1EEEv3big", "_Z4statPf", "_Z3tplIiLin2EEvPT_"])
        self.assertEqual(sorted(names.values()), ["anon<4, true>", "stat", "tpl<int, -2>"])

    def test_counts(self):
        code = sass("LDG.E.128.CONSTANT R4, [R2.64]", "@!P0 LDG.E.LTC128B R5, [R2.64]", "LDGSTS.E.BYPASS.LTC128B.128 [R3], [R4.64], !P0", "LDGSTS.E [R3], [R4.64]",
                    "HMMA.16816.F32.BF16 R8, R4, R6, R8", "IMMA.16832.S8.S8 R8, R4.ROW, R6.COL, R8", "STL [R1], R2", "DFMA R2, R2, R2, R2", "RED.E.ADD.F32.FTZ.RN [R2.64], R4",
                    "ATOMG.E.ADD.S32 PT, R2, [R2.64], R4", "NOP")
        self.assertEqual(gate.counts_of(code), {"instructions": 10, "ldg128": 1, "ldg": 1, "cp128": 1, "cp": 1, "hmma": 1, "imma": 1, "local": 1, "f64": 1, "float_atomics": 1})

    def test_flight_of_registers(self):
        self.assertEqual(gate.flight(STREAM), 32)
        one_by_one = sass("LDG.E.128 R4, [R2.64] #w0", "FADD R9, R9, R5 #q0", "LDG.E.128 R4, [R2.64+0x10] #w0", "FADD R9, R9, R6 #q0", "EXIT")
        self.assertEqual(gate.flight(one_by_one), 16)
        # Waiting for a load that a cache answers does not wait for others on another scoreboard, but for all on its own.
        mixed = ["LDG.E.128 R4, [R2.64] #w0", "LDG.E R8, [R2.64] #w{}", "FADD R9, R9, R8 #q{}", "LDG.E.128 R12, [R2.64] #w2", "EXIT"]
        self.assertEqual(gate.flight(sass(*(line.format(1) for line in mixed))), 32)
        self.assertEqual(gate.flight(sass(*(line.format(0) for line in mixed))), 20)

    def test_flight_counts_loops_steady_state(self):
        # Eight loads before the loop, of what stays; one in the loop, used the next time round (a prefetch).
        prologue = [f"LDG.E.128 R{40 + 4 * i}, [R2.64] #w0" for i in range(8)] + ["FADD R9, R9, R40 #q0"]
        loop = ["MOV R20, R4 #q1", "LDG.E.128 R4, [R2.64] #w1", "FADD R9, R20, R9", "BRA 0x90"]
        self.assertEqual(gate.flight(sass(*prologue, *loop, "EXIT")), 16)

    def test_flight_of_cp_async(self):
        load = ["LDGSTS.E.BYPASS.128 [R3], [R4.64]"] * 2 + ["LDGDEPBAR"]
        code = sass(*load, *load, *load, *load, "DEPBAR.LE SB0, 0x3", "LDS R9, [R8]", "@P0 BRA 0x90", "EXIT")     # the last group and the wait, again and again
        self.assertEqual(gate.flight(code), 4 * 32)
        drained = sass(*load, "DEPBAR.LE SB0, 0x0", "LDS R9, [R8]", "@P0 BRA 0x0", "EXIT")
        self.assertEqual(gate.flight(drained), 32)


class Promises(unittest.TestCase):
    def row(self, code=STREAM, **changes):
        row = {"registers": 40, "stack": 0, "spill": 0, "shared": 0, "dynamic": 0, "threads": 256, "blocks": 6, "limit": "registers", "flight": gate.flight(code),
               "mix": gate.counts_of(code)}
        return {**row, **changes}

    def problems(self, words="", **changes):
        return list(gate.broken(self.row(**changes), gate.Promise("f", None, 0, words.split(), 1), 90))

    def test_kept(self):
        self.assertEqual(self.problems("stream blocks=6 flight"), [])

    def test_broken(self):
        for words, changes, why in (
                ("", {"stack": 8}, "8 bytes of stack"), ("", {"spill": 4}, "4 of spills"), ("", {"code": sass("LDL R2, [R1]")}, "1 LDL or STL"),
                ("", {"code": sass("RED.E.ADD.F32.FTZ.RN [R2.64], R4")}, "atomics"), ("", {"code": sass("DADD R2, R2, R4")}, "double-precision"), ("", {"blocks": 0}, "no block fits"),
                ("stream", {"code": sass("LDG.E R4, [R2.64]")}, "no 128-bit"), ("stream", {"code": sass("LDG.E.128 R4, [R2.64]", *["LDG.E R9, [R2.64]"] * 5)}, "5 narrow"),
                ("tensor", {}, "no tensor-core"), ("async", {}, "no cp.async"), ("dp4a", {}, "dp4a"), ("blocks=7", {}, "6 fit"), ("flight", {"blocks": 1}, "H100 needs")):
            with self.subTest(words=words, why=why):
                found = self.problems(words, **changes)
                self.assertTrue(found and why in found[0], found)

    def test_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "p.txt")
            path.write_text("# comment\nk<*, 128>  -  4096  stream flight  # why\nother  64  0\n")
            p = gate.read_promises(path)
            self.assertEqual([(q.pattern, q.threads, q.dynamic, q.words) for q in p], [("k<*, 128>", None, 4096, ["stream", "flight"]), ("other", 64, 0, [])])
            self.assertIs(gate.match(p, "k<1, 128>"), p[0])
            self.assertIsNone(gate.match(p, "k<1, 64>"))
            for bad in ("k - 0", "k  -  0  fast"):
                path.write_text(bad)
                with self.assertRaises(gate.Gate):
                    gate.read_promises(path)

    def test_the_committed_file_reads(self):
        self.assertTrue(gate.read_promises(gate.HERE / "promises.txt"))


class Drift(unittest.TestCase):
    TABLE = {"a.cu": {"k<1>": {"sm_90": {"registers": 40, "mix": {"instructions": 9, "ldg": 1}}}, "k<2>": {"sm_90": {"registers": 1, "mix": {}}}}}

    def test_none(self):
        self.assertEqual(list(gate.drift(self.TABLE, copy.deepcopy(self.TABLE))), [])

    def test_some(self):
        new = copy.deepcopy(self.TABLE)
        new["a.cu"]["k<1>"]["sm_90"] = {"registers": 48, "mix": {"instructions": 9, "ldg128": 1}}
        new["a.cu"]["k<3>"] = new["a.cu"].pop("k<2>")
        self.assertEqual(list(gate.drift(self.TABLE, new)), ["a.cu k<1> sm_90: mix.ldg 1 -> 0, mix.ldg128 0 -> 1, registers 40 -> 48", "a.cu k<2> sm_90: gone", "a.cu k<3> sm_90: new"])

    def run_gate(self, folder, *args):
        """main() on one kernel of invented output; its exit code and what it printed."""
        files = {"k.cu.o": "", "k.cu.ptxas": PTXAS.split("ptxas info    : Compiling entry function '_Z3bad")[0], "p.txt": "good  -  0  stream\n"}
        for name, text in files.items():
            pathlib.Path(folder, name).write_text(text)
        pathlib.Path(folder, "bin").mkdir(exist_ok=True)
        pathlib.Path(folder, "bin/cuobjdump").touch()
        code = "\tcode for sm_90\n\t\tFunction : _Z4goodPf\n        /*0000*/   LDG.E.128 R4, [R2.64] ;\n"
        said = {"--version": "release 13.0, V13.0.88\n", "-sass": code, "-elf": BOUNDS}
        out = io.StringIO()
        argv = ["gate.py", "--cuda-home", folder, "--table", f"{folder}/t.json", "--promises", f"{folder}/p.txt", *args, f"{folder}/k.cu.o"]
        with mock.patch.object(gate, "run", lambda *c: said[c[1]]), mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out):
            try:
                gate.main()
                return 0, out.getvalue()
            except SystemExit as e:
                return e.code, out.getvalue()

    def test_table_is_written_kept_and_drifts(self):
        with tempfile.TemporaryDirectory() as folder:
            code, out = self.run_gate(folder)
            self.assertEqual((code, "no table for nvcc 13.0.88" in out), (0, True), out)
            code, out = self.run_gate(folder, "--update")
            self.assertEqual(code, 0, out)
            code, out = self.run_gate(folder)
            self.assertEqual((code, "1 kernels x architectures keep" in out), (0, True), out)
            table = pathlib.Path(folder, "t.json")
            table.write_text(table.read_text().replace('"registers": 40', '"registers": 41'))
            code, out = self.run_gate(folder)
            self.assertEqual((code, "drift: k.cu good sm_90: registers 41 -> 40" in out), (1, True), out)


PROGRAM = r"""
#include <cstdio>
#include <cuda_runtime_api.h>
#include <cuda_occupancy.h>
int main()
{
    int arch, regs, shared, threads;
    while (scanf("%d %d %d %d", &arch, &regs, &shared, &threads) == 4) {
        cudaOccDeviceProp p;
        p.computeMajor = arch / 10, p.computeMinor = arch % 10;
        p.maxThreadsPerBlock = 1024, p.maxThreadsPerMultiprocessor = 2048, p.regsPerBlock = 65536, p.regsPerMultiprocessor = 65536, p.warpSize = 32;
        p.sharedMemPerBlock = 48 << 10, p.sharedMemPerMultiprocessor = (arch == 80 ? 164 : 228) << 10, p.numSms = 100;
        p.sharedMemPerBlockOptin = (arch == 80 ? 163 : 227) << 10, p.reservedSharedMemPerBlock = 1024;
        cudaOccFuncAttributes a;
        a.maxThreadsPerBlock = 1024, a.numRegs = regs, a.sharedSizeBytes = 0, a.partitionedGCConfig = PARTITIONED_GC_OFF;
        a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, a.maxDynamicSharedSizeBytes = p.sharedMemPerBlockOptin, a.numBlockBarriers = 1;
        cudaOccDeviceState s;
        s.carveoutConfig = 100;
        cudaOccResult r;
        cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, shared);
        printf("%d\n", r.activeBlocksPerMultiprocessor);
    }
}
"""
CUDA_HOME = None


class Occupancy(unittest.TestCase):
    def test_known(self):
        # The figures of the programming guide's limits, by hand: 64 warps; 40 registers are 1280 a warp, 12 warps a quarter.
        self.assertEqual(chips.occupancy(90, 32, 0, 256)[0], 8)
        self.assertEqual(chips.occupancy(90, 40, 0, 256)[0], 6)
        self.assertEqual(chips.occupancy(80, 32, 80 << 10, 256)[0], 2)
        self.assertEqual(chips.occupancy(80, 32, 164 << 10, 256)[0], 0)

    def test_as_nvidia_says(self):
        if CUDA_HOME is None or not (CUDA_HOME / "include/cuda_occupancy.h").exists():
            self.skipTest("no cuda_occupancy.h")
        cases = list(itertools.product((80, 90, 100), (16, 32, 33, 40, 64, 72, 96, 128, 168, 181, 255), (0, 1, 4096, 16640, 33280, 51200, 101376, 166912), (32, 64, 96, 128, 192, 256, 512, 1024)))
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder, "occ")
            subprocess.run(["g++", "-w", "-x", "c++", "-", "-I", str(CUDA_HOME / "include"), "-o", str(program)], input=PROGRAM, text=True, check=True)
            said = subprocess.run([str(program)], input="\n".join(" ".join(map(str, c)) for c in cases), text=True, capture_output=True, check=True).stdout.split()
        ours = [chips.occupancy(a, r, s, t)[0] for a, r, s, t in cases]
        wrong = [(c, o, int(n)) for c, o, n in zip(cases, ours, said) if o != int(n)]
        self.assertEqual((len(said), wrong[:5]), (len(cases), []), f"{len(wrong)} of {len(cases)} differ")


class Floors(unittest.TestCase):
    def total(self, m, f, rows_of, contexts, chip):
        return sum(w.floor(chip)[0] * w.times for w in roofline.step(m, f, rows_of, contexts, chip))

    def test_weights_are_what_decode_reads(self):
        h100 = next(c for c in chips.CHIPS if c.name == "H100")
        m = roofline.MODELS[0]
        self.assertAlmostEqual(m.parameters() / 1e9, 8.03, delta=0.01)
        self.assertAlmostEqual(roofline.MODELS[1].parameters() / 1e9, 70.6, delta=0.1)
        self.assertAlmostEqual(roofline.MODELS[2].parameters() / 1e9, 405.8, delta=0.2)
        least = 2 * (m.parameters() - m.dim * m.vocab) / (0.85 * 3.35e12)       # by hand: every weight but the embedding's once
        self.assertAlmostEqual(self.total(m, roofline.FORMATS[0], [1], [1], h100) / least, 1, delta=0.01)

    def test_what_binds(self):
        h100 = next(c for c in chips.CHIPS if c.name == "H100")
        self.assertEqual(roofline.linear("x", roofline.FORMATS[0], 1, 4096, 4096).floor(h100)[1], "memory")
        self.assertEqual(roofline.linear("x", roofline.FORMATS[0], 4096, 4096, 4096).floor(h100)[1], "tensor")
        self.assertEqual(roofline.linear("x", roofline.FORMATS[2], 4096, 4096, 4096).floor(h100)[1], "cores")
        reduce = next(w for w in roofline.step(roofline.MODELS[1], roofline.FORMATS[0], [2048], [2048], h100) if w.kernel == "all-reduce")
        self.assertEqual(reduce.floor(h100)[1], "link")
        self.assertAlmostEqual(reduce.link, 2 * 7 / 8 * 4 * 2048 * 8192 / 450e9)


if __name__ == "__main__":
    if "--cuda-home" in sys.argv:
        i = sys.argv.index("--cuda-home")
        CUDA_HOME = pathlib.Path(sys.argv[i + 1])
        del sys.argv[i:i + 2]
    unittest.main()
