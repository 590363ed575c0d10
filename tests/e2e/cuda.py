"""The CUDA plugin as users meet it: which device is taken and what is said of it, failures that name their cause, the same answers as the CPU's.

    device   on a machine without a device the plugin loads, says so once, and the CPU computes; the emulation only where it is named
    faults   each CUDA call fails in turn: an error that names it and a remedy, within the deadline
    same     tokens and log-probabilities of a checkpoint against the CPU's
    ways     sums and hand-overs between devices by each way (one shot, two, NCCL, the host's memory): the same bits, and each way says that it was taken
    gemm     bf16 products by the own kernels and by cuBLASLt's stand-in: close to each other, each the same in any company; a library that does not serve is found out
    storm    many runs, each with a failing call or a killed rank: all end, with a reason
    overlap  steps in two pieces: what is queued between a sum's start and the wait for it, and that no bit differs, of any checkpoint given
    memory   all of it is taken at start-up; what does not fit says how much there is and what to lower
    phases   `trireme bench` tells the device's times, where the host only queues
    bench    `trireme bench comm`
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from run import ENV, Failed, Report, command, generate, run

PROMPT = {"id": 1, "prompt_ids": [3, 4, 5, 6, 7], "max_tokens": 3, "temperature": 0, "ignore_eos": True, "logprobs": 5}
LIMIT = 60  # seconds: the emulation is slow to start


def env_without(name):
    return {**{k: v for k, v in os.environ.items() if k != name}, name: ""}


def answer_of(binary, model, *args, ranks=1, env=None):
    argv = ["generate", "-m", model, "--prompts", "-", "--json", *args]
    return run(binary, argv, ranks, str(PROMPT).replace("'", '"').replace("True", "true") + "\n", env, LIMIT)


def check_device(a, report):
    none = env_without("TRIREME_CUDA_EMULATED")
    code, out, _ = run(a.trireme, ["--version"], env=none)
    first, *rest = out.splitlines()
    report.check(code == 0 and re.fullmatch(r"trireme \S+ \(commit \S+\)", first) is not None and "backends: cpu" in rest[0], f"--version says {out!r}")
    if a.plugin:
        report.check("cuda (CUDA" in out and "EMULATED" not in out, f"--version does not tell of the plugin: {out!r}")
    has = " device" in out and "no CUDA device" not in out
    # auto takes what there is, and tells once what is missing
    for ranks in (1, 2):
        code, _, err = answer_of(a.trireme, a.model, ranks=ranks, env=none)
        told = err.count("no CUDA device")
        report.check(code == 0 and told == (1 if a.plugin and not has else 0), f"auto on {ranks} ranks: exit code {code}, told {told} times: {err[-500:]}")
    code, _, err = answer_of(a.trireme, a.model, "--device", "cpu", env=none)
    report.check(code == 0 and "CUDA" not in err, f"--device cpu: exit code {code}: {err[-500:]}")
    if not has:
        for ranks in (1, 2):
            code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", ranks=ranks, env=none)
            text = "no CUDA device" if a.plugin else "no backend_cuda.so"
            report.check(code not in (0, 77) and err.count(text) == 1 and "--device cpu" in err, f"--device cuda on {ranks} ranks without a device: exit code {code}: {err[-500:]}")
    code, _, err = answer_of(a.trireme, a.model, "--device", "tpu")
    report.check(code == 2 and "auto, cpu or cuda" in err, f"--device tpu: exit code {code}: {err[-500:]}")
    if not a.emulated:
        return
    code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", "--stats")
    report.check(code == 0 and "cuda EMULATED" in err, f"the emulation: exit code {code}: {err[-500:]}")
    code, _, err = answer_of(a.trireme, a.model, "--device", "auto", "--stats")
    report.check(code == 0 and "EMULATED" not in err, f"auto took the emulation: exit code {code}: {err[-500:]}")
    code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", env={"CUEMU_DEVICES": "0"})
    report.check(code == 2 and err.count("no CUDA device") == 1, f"the emulation without devices: exit code {code}: {err[-500:]}")
    with tempfile.TemporaryDirectory() as d: # in the real one's place it is refused
        shutil.copy(a.emulated, pathlib.Path(d) / "backend_cuda.so")
        code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", env={**none, "TRIREME_PLUGIN_DIR": d})
        report.check(code == 2 and "only emulates" in err, f"the emulation in the real plugin's place: exit code {code}: {err[-500:]}")


# Calls of a run, and which of them to let fail; frees and the like may fail unseen.
CALLS = ["cudaSetDevice", "cudaGetDeviceProperties", "cudaMemGetInfo", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaHostAlloc", "cudaMalloc", "cudaMemsetAsync",
         "cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize", "cudaStreamWaitEvent", "cudaStreamSynchronize", "kernel"]
TP_CALLS = ["cudaHostRegister", "cudaHostGetDevicePointer"] # where sums go through the host's memory
# Of the collectives, on two ranks that use nothing but NCCL; NAME of the call that the message names where it is another one.
NCCL_CALLS = {"ncclGetUniqueId": None, "ncclCommInitRankConfig": None, "ncclGroupStart": None, "ncclSend": None, "ncclRecv": None, "ncclGroupEnd": None, "ncclAllGather": None,
              "ncclCommGetAsyncError": None, "ncclAsync": "NCCL: "}


def check_nccl_fault(a, report, name, named, n, split):
    what = f"{name} fails at call {n} on 2 ranks, {split}"
    try:
        code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", split, "2", "--collectives", "one-shot=0,two-shot=0", ranks=2, env={"CUEMU_FAIL": f"{name}:{n}"})
    except Failed as e:
        report.check(False, f"{what}: {e}")
        return
    told = re.search(rf"rank \d.*{named}.*; \w+|through the host's memory: .*{named}", err)
    report.check((told is not None and "exited on signal" not in err) if code != 0 else n > 1, f"{what}: exit code {code}: {err[-700:]}")


def check_fault(a, report, name, n, ranks, before=""):
    args = ("--device", "cuda", *(("--tp", str(ranks)) if ranks > 1 else ()))
    what = f"{name} fails at call {n} on {ranks} rank{'s' if ranks > 1 else ''}"
    try:
        code, _, err = answer_of(a.trireme, a.model, *args, ranks=ranks, env={"CUEMU_FAIL": f"{before}{name}:{n}"})
    except Failed as e:
        report.check(False, f"{what}: {e}")
        return False
    if code == 0 and ranks == 1: # it has fewer calls
        return False
    line = next((x for x in err.splitlines() if "cuda" in x and "error" in x), "")
    # a kernel's failure is seen by the next call that waits
    named = re.search(r"(cuda\w+|k_\w+)[,:] .* \(cudaError\w+\); \w+", err) is not None and (name == "kernel" or name in err)
    report.check(code != 0 and named, f"{what}: exit code {code}: {line or err[-500:]}")
    return True


def check_calls(a, report, name):
    for n in (1, 2, 3, 5, 8, 13, 30):
        if not check_fault(a, report, name, n, 1):
            break


def check_faults(a, report):
    with concurrent.futures.ThreadPoolExecutor(3) as pool: # mpirun sleeps for most of the time in which a job ends
        jobs = [pool.submit(check_calls, a, report, name) for name in CALLS]
        jobs += [pool.submit(check_fault, a, report, name, 1, 2, NO_WAY["CUEMU_FAIL"] + ",") for name in TP_CALLS]
        jobs += [pool.submit(check_nccl_fault, a, report, name, named or name, n, "--tp") for name, named in NCCL_CALLS.items() for n in (1, 2, 5)]
        jobs += [pool.submit(check_nccl_fault, a, report, name, NCCL_CALLS[name] or name, 1, "--pp") for name in ("ncclSend", "ncclRecv", "ncclAsync", "ncclCommInitRankConfig")]
        for job in jobs:
            job.result()


def kill_a_rank(job, plugin, seconds):
    """So many seconds after it has loaded the plugin: while MPI_Init is under way mpirun itself may hang."""
    while job.poll() is None:
        for child in subprocess.run(["pgrep", "-P", str(job.pid), "trireme"], capture_output=True, text=True).stdout.split():
            try:
                if plugin in pathlib.Path(f"/proc/{child}/maps").read_text():
                    time.sleep(seconds)
                    os.kill(int(child), signal.SIGKILL)
                    return
            except OSError:
                pass
        time.sleep(0.05)


def storm_run(a, seed):
    """A run in which one call of one rank fails, or a rank is killed; what is wrong with how it ended, or None, and whether it failed at all."""
    rng = random.Random(seed)
    tp, pp = rng.choice(((1, 1), (2, 1), (1, 2), (2, 2)))
    way = rng.choice(("one-shot=max", "one-shot=0,two-shot=max", "one-shot=0,two-shot=0", "one-shot=2K,two-shot=16K"))
    name, n = rng.choice((*CALLS, *TP_CALLS, *NCCL_CALLS, "cudaIpcGetMemHandle", "cudaIpcOpenMemHandle", "cudaGraphLaunch", "cudaStreamBeginCapture")), int(rng.expovariate(1 / 12)) + 1
    kill = tp * pp > 1 and rng.random() < 0.2
    overlap = rng.choice(("0", "2"))
    what = f"run {seed}, tp {tp} pp {pp}, {way}, --overlap-rows {overlap}, " + ("a rank killed" if kill else f"{name} fails at call {n}")
    env = {**os.environ, **ENV, **({} if kill else {"CUEMU_FAIL": f"{name}:{n}"}), "CUEMU_STREAMS": rng.choice(("eager", f"rand:{seed}"))}
    argv = command(a.trireme, ["generate", "-m", a.model, "--prompts", "-", "--json", "--device", "cuda", "--tp", tp, "--pp", pp, "--collectives", way, "--overlap-rows", overlap, "--timeout", "10"], tp * pp)
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    if kill:
        threading.Thread(target=kill_a_rank, args=(p, a.emulated, rng.uniform(0, 1))).start()
    try:
        _, err = p.communicate((json.dumps({**PROMPT, "max_tokens": 40 if kill else 4}) + "\n") * (1 if tp * pp == 1 else 3), timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        return f"{what}: not over after {LIMIT} s: {p.communicate()[1][-600:]}", True
    told = re.search(r"rank \d.*; \w+|cuda\w+[,:] .*; \w+|k_\w+, .*; \w+|ended without leaving|exited on signal 9", err) is not None
    if p.returncode != 0 and (not told or (not kill and "exited on signal" in err)):
        return f"{what}: exit code {p.returncode}: {err[-900:]}", True
    return None, p.returncode != 0


def check_storm(a, report):
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for wrong, bad in pool.map(lambda seed: storm_run(a, seed), range(a.seed, a.seed + a.runs)):
            report.check(wrong is None, wrong)
            failed += bad
    report.check(failed > a.runs / 4, f"of {a.runs} runs only {failed} met their fault")
    print(f"{a.runs} runs, {failed} met their fault", flush=True)


def check_same(a, report):
    for split in a.splits.split(","):
        tp, pp = map(int, split.split("x"))
        prompts = [[504, 3575, 282, 4649, 314][:n] for n in (5, 2)] if a.vocab > 5000 else [[3, 9, 27, 81, 11], [7, 2]]
        requests = [{"id": i, "prompt_ids": p, "max_tokens": a.tokens, "temperature": 0, "ignore_eos": True, "logprobs": 5, "prompt_logprobs": 5} for i, p in enumerate(prompts)]
        args = ("--ctx", "256", "--compute", a.compute, "--max-seqs", "2")
        cpu = generate(a.trireme, a.model, requests, 1, 1, (*args, "--device", "cpu"))
        cuda = generate(a.trireme, a.model, requests, tp, pp, (*args, "--device", "cuda"), timeout=1500)
        worst = 0.0
        for c, g in zip(cpu, cuda):
            report.check(c["token_ids"] == g["token_ids"], f"{split}: tokens {g['token_ids']} instead of {c['token_ids']}")
            for x, y in zip(c["logprobs"] + c["prompt_logprobs"][1:], g["logprobs"] + g["prompt_logprobs"][1:]):
                d = abs(x["logprob"] - y["logprob"])
                worst = max(worst, d if d == d else float("inf"))
        report.check(worst < a.tolerance, f"{split}: log-probabilities differ by {worst:.1e}")
        print(f"{pathlib.Path(a.model).name} tp {tp} pp {pp}, --compute {a.compute}: log-probabilities differ by at most {worst:.1e}", flush=True)


# No way between devices: sums go through the host's memory.
NO_WAY = {"CUEMU_FAIL": "ncclGetVersion:1+,cudaIpcGetMemHandle:1+"}
NO_IPC = {"CUEMU_FAIL": "cudaIpcGetMemHandle:1+"}
NO_NCCL = {"CUEMU_FAIL": "ncclGetVersion:1+"}
WAYS = [("one shot", ("--collectives", "one-shot=max"), {}, "one-shot=max"),
        ("two shots", ("--collectives", "one-shot=0,two-shot=max"), {}, "one-shot=0,two-shot=max"),
        ("NCCL", ("--collectives", "one-shot=0,two-shot=0"), {}, "one-shot=0,two-shot=0, NCCL"),
        ("by size", ("--collectives", "one-shot=2K,two-shot=16K"), {"CUEMU_STREAMS": "rand:7"}, "one-shot=2K,two-shot=16K, NCCL"),
        ("one shot in pieces", ("--collectives", "one-shot=max", "--overlap-rows", "2"), {"CUEMU_STREAMS": "lazy"}, "one-shot=max"),
        ("two shots in pieces", ("--collectives", "one-shot=0,two-shot=max", "--overlap-rows", "2"), {"CUEMU_STREAMS": "rand:5"}, "one-shot=0,two-shot=max"),
        ("NCCL in pieces", ("--collectives", "one-shot=0,two-shot=0", "--overlap-rows", "2"), {"CUEMU_STREAMS": "rand:6"}, "one-shot=0,two-shot=0, NCCL"),
        ("by size in pieces", ("--collectives", "one-shot=2K,two-shot=16K", "--overlap-rows", "2"), {"CUEMU_STREAMS": "lazy"}, "one-shot=2K,two-shot=16K, NCCL"),
        ("no CUDA IPC, in pieces", ("--overlap-rows", "3"), {**NO_IPC, "CUEMU_STREAMS": "rand:8"}, "devices: NCCL"),
        ("the host, nothing in pieces", ("--overlap-rows", "2"), NO_WAY, "through the host's memory"),
        ("no CUDA IPC", (), NO_IPC, "devices: NCCL"),
        ("no NCCL", (), NO_NCCL, "no NCCL"),
        ("the host", (), NO_WAY, "through the host's memory")]


def check_ways(a, report):
    def prompt(n):
        return [(7 * i + 3 * n) % a.vocab for i in range(n)]
    # Five sequences decode when a step is recorded; two more come when the long one's blocks are free, and the recording serves seven.
    shapes = [(1, 2), (2, 24), (3, 24), (4, 24), (5, 24), (100, 9), (60, 8), (61, 8)]
    requests = [{"id": i, "prompt_ids": prompt(n), "max_tokens": m, "temperature": 0, "ignore_eos": True} for i, (n, m) in enumerate(shapes)]
    for split in a.splits.split(","):
        tp, pp = map(int, split.split("x"))
        # each alone, through the host's memory
        alone = ("--device", "cuda", "--max-seqs", "1", "--compute", a.compute)
        first = [(x["token_ids"], x["logits_hash"]) for x in generate(a.trireme, a.model, requests, tp, pp, alone, NO_WAY, 300)]
        for name, args, env, told in WAYS:
            said = []
            got = generate(a.trireme, a.model, requests, tp, pp, ("--device", "cuda", "--max-seqs", "8", "--kv-blocks", "14", "--compute", a.compute, *args), env, 300, said)
            if tp > 1:
                report.check(f"sums between its {tp} devices" in said[0] and told in said[0], f"{split}, {name}: nothing told of {told!r}: {said[0][-600:]}")
            if pp > 1:
                by_host = "ncclGetVersion" in env.get("CUEMU_FAIL", "")
                report.check(("the residual stream goes through the host's memory" in said[0]) == by_host, f"{split}, {name}: hand-over: {said[0][-600:]}")
            got = [(x["token_ids"], x["logits_hash"]) for x in got]
            report.check(got == first, f"{split}, {name}: {got} instead of {first}")


# What the stand-in may be told to be (tests/cuda_on_host/cublaslt_emu.c), and what is said of it.
LIBRARIES = {"none": "does not cut sums", "cut": "does not cut sums", "stream": "CUBLAS_STATUS_NOT_SUPPORTED", "rows": "other bits in another batch", "place": "other bits in another batch"}
BF16_TOLERANCE = 0.05  # of a log-probability: another order of sums rounds an activation to bf16's other neighbour (2^-9) here and there


def check_gemm(a, report):
    prompts = [[(7 * i + 3 * n) % a.vocab for i in range(n)] for n in (1, 2, 3, 4, 5, 100, 60, 61)]
    requests = [{"id": i, "prompt_ids": p, "max_tokens": 24 if len(p) < 6 else 8, "temperature": 0, "ignore_eos": True, "logprobs": 1} for i, p in enumerate(prompts)]
    base = ("--device", "cuda", "--compute", "auto", "--stats")
    alone, company = ("--max-seqs", "1"), ("--max-seqs", "8", "--kv-blocks", "14")

    def answers(tp, pp, gemm, args, env=None):
        said = []
        got = generate(a.trireme, a.model, requests, tp, pp, (*base, *args, *(("--gemm", gemm) if gemm else ())), env, 300, said)
        return got, [(x["token_ids"], x["logits_hash"]) for x in got], said[0]
    for split in a.splits.split(","):
        tp, pp = map(int, split.split("x"))
        own, own_bits, said = answers(tp, pp, "own", alone)
        report.check("cuBLASLt" not in said, f"{split}, own kernels: {said[-600:]}")
        lt, lt_bits, said = answers(tp, pp, "cublaslt", alone)
        told = re.search(r"cuBLASLt [0-9.]+ for (\d+) of (\d+) shapes", said)
        report.check(told is not None and told[1] == told[2] != "0", f"{split}, cuBLASLt: {said[-600:]}")
        report.check(lt_bits != own_bits, f"{split}: cuBLASLt's stand-in gives the own kernels' bits, so that this test sees nothing")
        worst = max(abs(x["logprob"] - y["logprob"]) for o, c in zip(own, lt) for x, y in zip(o["logprobs"][:1], c["logprobs"][:1]))
        report.check(worst < BF16_TOLERANCE, f"{split}: first log-probabilities differ by {worst:.1e}")
        for env in ({}, {"CUEMU_STREAMS": "rand:5"}, {"CUEMU_STREAMS": "lazy"}):
            _, bits, _ = answers(tp, pp, "cublaslt", company, env)
            report.check(bits == lt_bits, f"{split}, cuBLASLt in company, {env}: {bits} instead of {lt_bits}")
        for library, text in LIBRARIES.items():
            _, bits, said = answers(tp, pp, "cublaslt", company, {"CUBLASLT_EMU": library})
            lines = [x for x in said.splitlines() if "by the own kernels" in x]
            report.check(bits == own_bits and len(lines) > 0 and all(text in x for x in lines), f"{split}, cuBLASLt {library}: {bits == own_bits} {said[-600:]}")
        _, bits, said = answers(tp, pp, None, company, {"CUBLASLT_EMU": "missing"})
        report.check(bits == own_bits and said.count("no cuBLASLt") == tp * pp, f"{split}, no cuBLASLt: {bits == own_bits} {said[-600:]}")
        print(f"{split}: first log-probabilities of own kernels and cuBLASLt's stand-in differ by at most {worst:.1e}", flush=True)
    code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", "--gemm", "cublaslt", env={"CUBLASLT_EMU": "missing"})
    report.check(code != 0 and "--gemm own" in err, f"--gemm cublaslt without it: exit code {code}: {err[-500:]}")
    code, _, err = answer_of(a.trireme, a.model, "--gemm", "mkl")
    report.check(code == 2 and "auto, own or cublaslt" in err, f"--gemm mkl: exit code {code}: {err[-500:]}")
    for n in (1, 20, 80): # while the first shape is checked, another one, and in a step
        code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", "--gemm", "cublaslt", env={"CUEMU_FAIL": f"cublasLtMatmul:{n}+"})
        told = "cublasLtMatmul, [" in err and "--gemm own" in err if code != 0 else "cublasLtMatmul fails" in err
        report.check(told, f"cublasLtMatmul fails from call {n} on: exit code {code}: {err[-500:]}")


def between(trace):
    """For each sum on a stream of its own: the kernels queued on the stream of the operations between its start and the wait for it."""
    lines = [line.split(" ", 2) for line in trace.read_text().splitlines()]
    side = {s for s, what, which in lines if what == "kernel" and which.startswith("comm_")}
    main = next(s for s, what, which in lines if what == "kernel" and "embed" in which)
    started, sums, n = {}, [], 0
    for stream, what, which in lines:
        n += stream == main and what == "kernel"
        if what == "record" and stream in side - {main}:
            started[which] = n
        elif what == "wait" and stream == main and which in started:
            sums.append(n - started.pop(which))
    return sums


def check_overlap(a, report):
    shapes = [(90, 3), (1, 4), (37, 2), (2, 5), (19, 1)]
    requests = [{"id": i, "prompt_ids": [(7 * k + 3 * n) % a.vocab for k in range(n)], "max_tokens": m, "temperature": 0, "ignore_eos": True, "logprobs": 3, "prompt_logprobs": 3}
                for i, (n, m) in enumerate(shapes)]
    for folder in sorted(pathlib.Path(a.model).iterdir()) if a.only else [pathlib.Path(a.model)]:
        if a.only and folder.name not in a.only.split(","):
            continue
        args = ("--device", "cuda", "--max-seqs", "3", "--max-batched-tokens", "48", "--compute", a.compute)
        for split in a.splits.split(","):
            tp, pp = map(int, split.split("x"))
            what = f"{folder.name} {split}"
            want = generate(a.trireme, folder, requests, tp, pp, (*args, "--overlap-rows", "0"), {}, 300)
            for env in ({"CUEMU_STREAMS": "rand:1"}, {"CUEMU_STREAMS": "lazy"}):
                with tempfile.TemporaryDirectory() as d:
                    got = generate(a.trireme, folder, requests, tp, pp, (*args, "--overlap-rows", "2"), {**env, "CUEMU_TRACE": f"{d}/trace"}, 300)
                    sums = [between(t) for t in pathlib.Path(d).iterdir()] if pp == 1 else []
                report.check(got == want, f"{what}: {got} instead of {want}")
                # All but the sums of the embedding and the last one have the other piece's attention or MLP, three kernels or more, to travel under.
                for s in sums:
                    report.check(len(s) >= 20 and sum(n >= 3 for n in s) > 0.45 * len(s), f"{what}: kernels under each sum: {s}")
            if pp == 1: # off: no sum has a stream of its own
                with tempfile.TemporaryDirectory() as d:
                    generate(a.trireme, folder, requests, tp, pp, (*args, "--overlap-rows", "0"), {"CUEMU_TRACE": f"{d}/trace"}, 300)
                    report.check(all(between(t) == [] for t in pathlib.Path(d).iterdir()), f"{what}: --overlap-rows 0 overlaps")


def check_memory(a, report):
    shapes = [(90, 30), (1, 40), (137, 20), (2, 25), (19, 60), (64, 9), (3, 8), (5, 7), (7, 6), (11, 5)]
    kinds = [{"temperature": 0}, {"temperature": 1, "top_p": 0.9, "seed": 3}, {"temperature": 0.7, "top_k": 20, "seed": 4, "presence_penalty": 0.5}, {"temperature": 0, "prompt_logprobs": 5}]
    requests = [{"id": i, "prompt_ids": [(7 * k + 3 * n) % a.vocab for k in range(n)], "max_tokens": m, "ignore_eos": True, "logprobs": 5, **kinds[i % len(kinds)]}
                for i, (n, m) in enumerate(shapes)]
    args = ("--device", "cuda", "--max-seqs", "8", "--max-batched-tokens", "100", "--compute", a.compute)
    for split in a.splits.split(","):
        tp, pp = map(int, split.split("x"))
        for more in ((), ("--overlap-rows", "20")) if tp > 1 else ((),):
            with tempfile.TemporaryDirectory() as d:
                generate(a.trireme, a.model, requests, tp, pp, (*args, *more), {"CUEMU_TRACE": f"{d}/trace"}, 300)
                traces = [t.read_text().splitlines() for t in pathlib.Path(d).iterdir()]
            report.check(len(traces) == tp * pp, f"{split}: {len(traces)} traces")
            for lines in traces:
                first = next(i for i, line in enumerate(lines) if line.split()[1] == "kernel" and "copy" not in line)
                late = [line for line in lines[first:] if line.split()[1] in ("malloc", "pin")]
                taken = [line for line in lines[:first] if line.split()[1] == "malloc"]
                report.check(late == [] and len(taken) > 5, f"{split} {more}: allocated after the first kernel: {late}")
    told = 0
    for mib in range(1, 16): # the plan refuses the smallest; then something at start-up has no room; then all has
        code, _, err = answer_of(a.trireme, a.model, "--device", "cuda", "--max-seqs", "2", env={"CUEMU_MEMORY": str(mib)})
        if code == 0:
            break
        short = re.search(rf"cudaMalloc, \d+ bytes for .* \(cudaErrorMemoryAllocation\); of the device's {mib} MiB \d+ are free; give a smaller --memory", err)
        told += short is not None
        report.check(short is not None or "needs" in err, f"a device of {mib} MiB: exit code {code}: {err[-600:]}")
    report.check(told > 0 and code == 0, f"devices of {mib} MiB and less: {told} say what is free; the last exit code is {code}: {err[-600:]}")


def check_phases(a, report):
    """The emulation puts all work off until the host waits: what the host's calls take is next to nothing of the step then, and what the device's take nearly all."""
    for split in a.splits.split(","):
        tp, pp = map(int, split.split("x"))
        argv = ["bench", "-m", a.model, "-p", "96", "-n", "12", "-b", "1,3", "-r", "2", "--json", "--device", "cuda", "--tp", tp, "--pp", pp, "--compute", a.compute]
        shares = {}
        for more in ((), ("--overlap-rows", "8"), ("--no-phases",)):
            code, out, err = run(a.trireme, [*argv, *more], tp * pp, env={"CUEMU_STREAMS": "lazy"}, timeout=LIMIT)
            rows = [json.loads(x) for x in out.splitlines()] if code == 0 else []
            report.check(len(rows) == 4 and all("EMULATED" in json.dumps(r) for r in rows), f"bench {split} {more}: exit code {code}: {err[-600:]}")
            for r in rows:
                t, what = r["rank0_step_ms"], f"bench {split} {more}, {r['test']} of {r['batch']}: {r['rank0_step_ms']} of {r['step_ms']} ms"
                shares[(more, r["test"], r["batch"])] = (t["attention"] + t["mlp"]) / r["step_ms"]
                if more != ("--no-phases",):
                    report.check(all(t[k] > 0 for k in ("attention", "mlp", "embed", "head")) and (t["exchange"] > 0) == (tp > 1) and sum(t.values()) < 1.3 * r["step_ms"], what)
        for (more, test, batch), share in shares.items(): # a recorded step's are no part of the host's at all
            report.check(more == ("--no-phases",) or share > 3 * shares[(("--no-phases",), test, batch)], f"bench {split} {more}, {test} of {batch}: {share} of the step in layers: {shares}")


def check_bench(a, report):
    for device, ranks in (("cpu", 1), ("cpu", 2), ("cuda", 2), ("cuda", 3)):
        code, out, err = run(a.trireme, ["bench", "comm", "--device", device, "--sizes", "1K,64K", "--hidden", "64", "-r", "2", "--json"], ranks, timeout=LIMIT)
        rows = [json.loads(x) for x in out.splitlines()] if code == 0 else []
        paths = [(r["test"], r["path"], r["bytes"]) for r in rows if "path" in r]
        sums = [("sum", p, n) for n in (1024, 65536) for p in (["one-shot", "two-shot", "NCCL"] if device == "cuda" else ["host"])]
        report.check(code == 0 and [x for x in paths if x[0] == "sum"] == sums and all(r.get("seconds", 1) > 0 for r in rows), f"bench comm on {ranks} ranks, {device}: exit code {code}: {out[-500:]}{err[-500:]}")
        report.check(sum(x[0] == "message" for x in paths) == (2 if ranks > 1 else 0), f"bench comm on {ranks} ranks, {device}: messages {paths}")
        if device == "cuda":
            report.check("EMULATED" in rows[0]["backend"] and re.fullmatch(r"one-shot=\w+,two-shot=\w+", rows[-1]["collectives"]) is not None, f"bench comm: {rows}")
    code, _, err = run(a.trireme, ["bench", "comm", "--sizes", "0"])
    report.check(code == 2 and "--sizes 0" in err, f"bench comm --sizes 0: exit code {code}: {err}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", required=True)
    p.add_argument("--what", required=True, help="device, faults, same, ways, gemm, overlap, memory, phases, storm, bench")
    p.add_argument("--model", required=True)
    p.add_argument("--only", help="of the folders in --model")
    p.add_argument("--plugin", action="store_true", help="backend_cuda.so was built")
    p.add_argument("--emulated", help="the emulated plugin")
    p.add_argument("--runs", type=int, default=60)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--splits", default="1x1")
    p.add_argument("--vocab", type=int, default=512)
    p.add_argument("--tokens", type=int, default=4)
    p.add_argument("--compute", default="f32")
    p.add_argument("--tolerance", type=float, default=2e-3)
    a = p.parse_args()
    report = Report()
    if a.emulated:
        os.environ["TRIREME_CUDA_EMULATED"] = a.emulated = str(pathlib.Path(a.emulated).resolve())
    if not pathlib.Path(a.model).exists():
        report.skip(a.what, f"{a.model} is not there; deploy/check fetches it")
    else:
        for what in a.what.split(","):
            {"device": check_device, "faults": check_faults, "same": check_same, "ways": check_ways, "gemm": check_gemm, "overlap": check_overlap, "memory": check_memory, "phases": check_phases, "storm": check_storm, "bench": check_bench}[what](a, report)
    report.end()


if __name__ == "__main__":
    main()
