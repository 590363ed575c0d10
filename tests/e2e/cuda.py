"""The CUDA plugin as users meet it: which device is taken and what is said of it, failures that name their cause, the same answers as the CPU's.

    device   on a machine without a device the plugin loads, says so once, and the CPU computes; the emulation only where it is named
    faults   each CUDA call fails in turn: an error that names it and a remedy, within the deadline
    same     tokens and log-probabilities of a checkpoint against the CPU's
"""
import argparse
import os
import pathlib
import re
import shutil
import tempfile

from run import Failed, Report, generate, run

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
TP_CALLS = ["cudaHostRegister", "cudaHostGetDevicePointer"]


def check_fault(a, report, name, n, ranks):
    args = ("--device", "cuda", *(("--tp", str(ranks)) if ranks > 1 else ()))
    what = f"{name} fails at call {n} on {ranks} rank{'s' if ranks > 1 else ''}"
    try:
        code, _, err = answer_of(a.trireme, a.model, *args, ranks=ranks, env={"CUEMU_FAIL": f"{name}:{n}"})
    except Failed as e:
        report.check(False, f"{what}: {e}")
        return False
    if code == 0 and ranks == 1: # it has fewer calls
        return False
    line = next((x for x in err.splitlines() if "cuda" in x and "error" in x), "")
    # a kernel's failure is seen by the next call that waits
    named = re.search(r"(cuda\w+|k_\w+), .*: .* \(cudaError\w+\); \w+", err) is not None and (name == "kernel" or name in err)
    report.check(code != 0 and named, f"{what}: exit code {code}: {line or err[-500:]}")
    return True


def check_faults(a, report):
    for name in CALLS:
        for n in (1, 2, 3, 5, 8, 13, 30):
            if not check_fault(a, report, name, n, 1):
                break
    for name in TP_CALLS:
        check_fault(a, report, name, 1, 2)


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


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", required=True)
    p.add_argument("--what", required=True, help="device, faults, same")
    p.add_argument("--model", required=True)
    p.add_argument("--plugin", action="store_true", help="backend_cuda.so was built")
    p.add_argument("--emulated", help="the emulated plugin")
    p.add_argument("--splits", default="1x1")
    p.add_argument("--vocab", type=int, default=512)
    p.add_argument("--tokens", type=int, default=4)
    p.add_argument("--compute", default="f32")
    p.add_argument("--tolerance", type=float, default=2e-3)
    a = p.parse_args()
    report = Report()
    if a.emulated:
        os.environ["TRIREME_CUDA_EMULATED"] = a.emulated
    if not pathlib.Path(a.model).exists():
        report.skip(a.what, f"{a.model} is not there; deploy/check fetches it")
    else:
        for what in a.what.split(","):
            {"device": check_device, "faults": check_faults, "same": check_same}[what](a, report)
    report.end()


if __name__ == "__main__":
    main()
