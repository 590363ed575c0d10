"""The GPUs that gate.py and roofline.py know, as data.  Peak figures are the vendor's data sheets (dense, no sparsity); nothing here was measured.

Limits of an SM: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".  latency_ns: a load from HBM under light load, a round
figure from published microbenchmarks (about 500 to 700 ns); Little's law needs no more.  dp4a: 64 a clock and SM (guide, "Arithmetic Instructions").
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Sm:
    """What one SM of an architecture has."""
    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    shared: int = 228 << 10     # of all its blocks
    shared_block: int = 227 << 10
    reserved: int = 1 << 10     # taken by the system for each block


SM = {80: Sm(shared=164 << 10, shared_block=163 << 10), 90: Sm(), 100: Sm()}


@dataclass(frozen=True)
class Chip:
    name: str
    arch: int
    sms: int
    clock: float        # Hz, the boost clock that the peaks belong to
    memory: float       # bytes/s
    memory_bytes: float
    bf16: float         # tensor cores, operations/s (a multiply-add is two)
    int8: float
    fp8: float          # 0: none
    fp32: float         # CUDA cores
    link: float         # NVLink, bytes/s in one direction
    latency_ns: float = 600

    @property
    def dp4a(self):
        return self.sms * 64 * 8 * self.clock


CHIPS = [
    Chip("A100", 80, 108, 1.41e9, 2.039e12, 80e9, 312e12, 624e12, 0, 19.5e12, 300e9),
    Chip("H100", 90, 132, 1.83e9, 3.35e12, 80e9, 989e12, 1979e12, 1979e12, 67e12, 450e9),
    Chip("H200", 90, 132, 1.83e9, 4.8e12, 141e9, 989e12, 1979e12, 1979e12, 67e12, 450e9),
    Chip("B200", 100, 148, 1.85e9, 8.0e12, 180e9, 2250e12, 4500e12, 4500e12, 75e12, 900e9),
]
REACHABLE = 0.85    # of the memory's peak: what streaming kernels are held to


def occupancy(arch, registers, shared, threads):
    """Blocks an SM of this architecture holds at once, and what each limit alone would allow."""
    sm = SM[arch]
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256              # registers are given to a warp in units of 256 ...
    of_registers = 4 * (sm.registers // 4 // per_warp)      # ... from the file of its quarter of the SM
    block_shared = -(-(shared + sm.reserved) // 128) * 128
    limits = {
        "registers": of_registers // warps,
        "warps": sm.warps // warps,
        "blocks": sm.blocks,
        "shared": sm.shared // block_shared if shared <= sm.shared_block else 0,
    }
    return min(limits.values()), limits
