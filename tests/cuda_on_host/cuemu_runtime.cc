/* tests/cuda_on_host/cuemu_runtime.cc - CUDA's runtime functions over the host: memory, streams, events, graphs, errors.  For tests only.
 *
 * Device memory is one memory file, mapped once: each allocation ends (to 256 bytes) at a page that stays inaccessible, is filled with 0xff (NaN, -1), has
 * marks around it that are looked at after every kernel, and becomes inaccessible when freed.  Freeing waits for nothing, which devices do but nobody
 * promises: what is still queued then faults.  Other processes map the file for cudaIpc.
 *
 * A stream is a queue of operations.  When they run is a switch (cuemu_api.h): correct programs cannot tell.  Whoever enqueues, queries or waits runs them;
 * there is no thread behind.  One lock covers everything; only operations that wait for other ranks run without it.
 *
 * A capture builds nodes with their dependencies, so that a replay may run them in any order the graph allows. */
#include "tests/cuda_on_host/cuemu_internal.h"
#include <condition_variable>
#include <deque>
#include <errno.h>
#include <fcntl.h>
#include <functional>
#include <linux/falloc.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <signal.h>
#include <stdlib.h>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <time.h>
#include <unistd.h>
#include <vector>
#include <wchar.h>

#ifdef CUEMU_ASAN
extern "C" {
void __asan_poison_memory_region(void const volatile *, size_t);
void __asan_unpoison_memory_region(void const volatile *, size_t);
}
#endif

enum { MAX_DEVICES = 16, PAGE = 4096, ALIGN = 256, MARK = 0xa5 };
enum memory_kind { FOREIGN, DEVICE, PINNED, REGISTERED, OPENED };

struct allocation {
    size_t bytes;
    memory_kind kind;
    int device;
    char *pages; /* first and number of bytes mapped, without the guard page */
    size_t pages_bytes;
};
struct capture;
struct cuemu_stream;
struct event_state {
    int device;
    bool timed;
    uint64_t number; /* in order of creation */
    uint64_t issued, done;
    cuemu_stream *stream;
    double at_ms;
    std::shared_ptr<capture> within; /* recorded while captured */
    std::vector<int> nodes;
};
typedef std::shared_ptr<event_state> event_ref;
struct cuemu_event {
    event_ref state;
};
struct action {
    std::function<void()> run;
    bool waits;
};
struct operation {
    action act;
    event_ref wait, record;
    uint64_t version;
};
struct node {
    action act;
    std::vector<int> after;
};
struct cuemu_graph {
    std::vector<node> nodes;
};
struct cuemu_exec {
    std::shared_ptr<cuemu_graph> graph;
};
struct capture {
    std::unique_ptr<cuemu_graph> graph;
    cuemu_stream *origin;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool open, broken;
};
struct cuemu_stream {
    uint64_t number; /* in order of creation: a random order is the same at every run, where addresses are not */
    int device;
    std::deque<operation> queue;
    std::shared_ptr<capture> cap;
    std::vector<int> tail; /* nodes the next captured one comes after */
    bool busy;
    std::thread::id busy_thread;
};
struct device_state {
    size_t used;
    cudaError_t sticky;
    bool peers[MAX_DEVICES];
    cuemu_stream null_stream;
};
enum stream_mode { EAGER, LAZY, RANDOM };
struct injection {
    std::string name;
    long n;
    bool onwards;
    int code;
};

static std::mutex lock;
static std::condition_variable changed;
static std::map<uintptr_t, allocation> memory;
static std::map<uint64_t, cuemu_stream *> streams_made; /* by number */
static std::set<cuemu_stream *> streams;
static std::set<cuemu_event *> events;
static std::set<cuemu_graph *> graphs;
static std::set<cuemu_exec *> execs;
static std::set<std::shared_ptr<capture>> captures;
static std::mutex counting; /* of the two below: threads that watch others are counted too, while a kernel holds the lock */
static std::map<std::string, uint64_t> calls;
static std::map<const void *, size_t> allowed_smem;
static std::vector<injection> injections;
static device_state devices[MAX_DEVICES];
static stream_mode mode;
static uint64_t stream_random = 88172645463325252u;
static int n_devices = 1, capability = 80, multiprocessors = 4;
static bool guard;
static FILE *trace;
static size_t device_bytes = (size_t)1 << 30;
static char *arena;
static size_t arena_top;
static const size_t arena_bytes = (size_t)1 << 38;
static int arena_file = -1;
static int open_count; /* of those at work on device memory */
static thread_local int this_device;
static thread_local cudaError_t last_error;

/* ---- switches ---- */

static void set_one(const std::string &name, const std::string &v)
{
    auto number = [&](const std::string &from) {
        char *end;
        errno = 0;
        long long x = strtoll(from.c_str(), &end, 0);
        if (from.empty() || *end != 0 || errno != 0)
            cuemu_fault("%s=%s: no number", name.c_str(), v.c_str());
        return x;
    };
    bool random = v == "rand" || v.rfind("rand:", 0) == 0;
    uint64_t seed = random && v.size() > 5 ? (uint64_t)number(v.substr(5)) : 1;
    if (name == "CUEMU_ORDER" && (v == "fwd" || v == "rev" || random)) {
        cuemu_options.order = v == "fwd" ? CUEMU_FORWARD : v == "rev" ? CUEMU_REVERSE : CUEMU_RANDOM;
        cuemu_options.seed = seed;
    } else if (name == "CUEMU_STREAMS" && (v == "eager" || v == "lazy" || random)) {
        mode = v == "eager" ? EAGER : v == "lazy" ? LAZY : RANDOM;
        stream_random = seed * 0x9e3779b97f4a7c15u + 1;
    } else if (name == "CUEMU_CPASYNC" && (v == "late" || v == "early")) {
        cuemu_options.copies_early = v == "early";
    } else if (name == "CUEMU_GUARD" && (v == "0" || v == "1")) {
        guard = v == "1";
        if (arena != NULL && open_count == 0)
            mprotect(arena, arena_top, guard ? PROT_NONE : PROT_READ | PROT_WRITE);
    } else if (name == "CUEMU_TRACE") {
        if (trace != NULL)
            fclose(trace);
        trace = v.empty() ? NULL : fopen((v + "." + std::to_string(getpid())).c_str(), "we");
        if (trace == NULL && !v.empty())
            cuemu_fault("CUEMU_TRACE=%s: %s", v.c_str(), strerror(errno));
    } else if (name == "CUEMU_DEVICES") {
        n_devices = (int)number(v);
        if (n_devices < -2 || n_devices > MAX_DEVICES)
            cuemu_fault("CUEMU_DEVICES=%d: -2 to %d", n_devices, (int)MAX_DEVICES);
    } else if (name == "CUEMU_MEMORY") {
        device_bytes = (size_t)number(v) << 20;
    } else if (name == "CUEMU_CC" && (v == "80" || v == "89" || v == "90" || v == "100")) {
        capability = (int)number(v);
        cuemu_options.block_smem = (size_t)(capability == 80 ? 163 : capability == 89 ? 99 : 227) << 10;
    } else if (name == "CUEMU_SMS") {
        multiprocessors = (int)number(v);
    } else if (name == "CUEMU_FAIL") {
        std::lock_guard<std::mutex> count(counting);
        injections.clear();
        for (size_t at = 0; at < v.size();) {
            size_t end = v.find(',', at), colon = v.find(':', at);
            if (end == std::string::npos)
                end = v.size();
            if (colon == std::string::npos || colon > end)
                cuemu_fault("CUEMU_FAIL=%s: name:N expected", v.c_str());
            injection i = {v.substr(at, colon - at), 0, false, 0};
            std::string rest = v.substr(colon + 1, end - colon - 1);
            size_t code = rest.find('=');
            if (code != std::string::npos) {
                i.code = (int)number(rest.substr(code + 1));
                rest.resize(code);
            }
            if (!rest.empty() && rest.back() == '+') {
                i.onwards = true;
                rest.pop_back();
            }
            i.n = (long)number(rest);
            injections.push_back(i);
            at = end + 1;
        }
    } else {
        cuemu_fault("%s=%s: unknown", name.c_str(), v.c_str());
    }
}

static size_t live(void) /* with the lock */
{
    return memory.size() + streams.size() + events.size() + graphs.size() + execs.size();
}

static void start(void) /* with the lock */
{
    static bool started;
    if (started)
        return;
    started = true;
    for (int i = 0; i < MAX_DEVICES; i++)
        devices[i].null_stream.device = i;
    for (const char *name : {"CUEMU_ORDER", "CUEMU_STREAMS", "CUEMU_CPASYNC", "CUEMU_GUARD", "CUEMU_FAIL", "CUEMU_DEVICES", "CUEMU_MEMORY", "CUEMU_CC",
                             "CUEMU_SMS", "CUEMU_TRACE"}) {
        const char *v = getenv(name);
        if (v != NULL && v[0] != 0)
            set_one(name, v);
    }
    const char *leaks = getenv("CUEMU_LEAKS");
    if (leaks != NULL && strcmp(leaks, "1") == 0)
        atexit([] { /* nothing else runs any more; the lock may have been taken for good */
            if (live() == 0)
                return;
            fprintf(stderr, "cuemu: %zu allocations, streams, events or graphs are left\n", live());
            fflush(NULL);
            _exit(98);
        });
    fprintf(stderr, "cuemu (EMULATED): CUDA calls run on the host's processor, for tests\n");
}

void cuemu_set(const char *name, const char *value)
{
    std::lock_guard<std::mutex> hold(lock);
    start();
    set_one(name, value);
}

uint64_t cuemu_calls(const char *name)
{
    std::lock_guard<std::mutex> count(counting);
    auto at = calls.find(name);
    return at != calls.end() ? at->second : 0;
}

static bool injected(const char *name, int *code)
{
    std::lock_guard<std::mutex> count(counting);
    calls[name]++;
    bool fails = false;
    for (injection &i : injections)
        if (i.name == name && (--i.n == 0 || (i.n < 0 && i.onwards))) {
            fails = true;
            if (i.code != 0)
                *code = i.code;
        }
    return fails;
}

bool cuemu_injected(const char *name, int *code)
{
    static std::once_flag once;
    std::call_once(once, [] {
        std::lock_guard<std::mutex> hold(lock);
        start();
    });
    return injected(name, code);
}

void cuemu_forget_error(void)
{
    std::lock_guard<std::mutex> hold(lock);
    for (device_state &d : devices)
        d.sticky = cudaSuccess;
    last_error = cudaSuccess;
}

/* In the order of the calls, whatever runs when. */
static void traced(const cuemu_stream *s, const char *what, const std::string &which)
{
    if (trace == NULL)
        return;
    fprintf(trace, "%llu %s %s\n", (unsigned long long)(s != NULL ? s->number : 0), what, which.c_str());
    fflush(trace);
}

/* ---- every call begins here ---- */

static cudaError_t failed(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

static cudaError_t begin(const char *name)
{
    start();
    bool allocates = strcmp(name, "cudaMalloc") == 0 || strcmp(name, "cudaHostAlloc") == 0 || strcmp(name, "cudaMallocHost") == 0;
    int code = allocates ? (int)cudaErrorMemoryAllocation : (int)cudaErrorUnknown;
    if (injected(name, &code))
        return failed((cudaError_t)code);
    if (n_devices <= 0)
        return failed(n_devices == 0 ? cudaErrorNoDevice : cudaErrorInsufficientDriver);
    return devices[this_device].sticky != cudaSuccess ? failed(devices[this_device].sticky) : cudaSuccess;
}

#define API extern "C" cudaError_t CUDARTAPI
#define BEGIN()                                                                                                                                      \
    std::unique_lock<std::mutex> hold(lock);                                                                                                         \
    do {                                                                                                                                             \
        cudaError_t e_ = begin(__func__);                                                                                                            \
        if (e_ != cudaSuccess)                                                                                                                       \
            return e_;                                                                                                                               \
    } while (0)

/* Calls that allocate, free or wait are not for a thread that captures; they break the capture. */
static cudaError_t not_captured(void)
{
    bool broke = false;
    for (const auto &c : captures)
        if (c->open && (c->mode == cudaStreamCaptureModeGlobal || (c->mode == cudaStreamCaptureModeThreadLocal && c->thread == std::this_thread::get_id())))
            c->broken = broke = true;
    return broke ? failed(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
#define NOT_CAPTURED()                                                                                                                               \
    do {                                                                                                                                             \
        cudaError_t e_ = not_captured();                                                                                                             \
        if (e_ != cudaSuccess)                                                                                                                       \
            return e_;                                                                                                                               \
    } while (0)

/* ---- memory ---- */

#if !defined(CUEMU_ASAN) && !defined(CUEMU_TSAN)
static void report_fault(int sig, siginfo_t *info, void *)
{
    const char *at = (const char *)info->si_addr, *kernel = cuemu_running_kernel();
    char text[300];
    int n = 0;
    if (cuemu_in_fiber_stack(at)) {
        n = snprintf(text, sizeof(text), "cuemu (EMULATED): kernel %s: a thread's stack overflows\n", kernel);
    } else if (arena != NULL && at >= arena && at < arena + arena_bytes) {
        auto it = memory.upper_bound((uintptr_t)at);
        if (kernel == NULL && open_count == 0 && it != memory.begin())
            n = snprintf(text, sizeof(text), "cuemu (EMULATED): host code touches device memory at %p\n", (const void *)at);
        else if (it != memory.begin() && (--it, it->second.kind == DEVICE))
            n = snprintf(text, sizeof(text), "cuemu (EMULATED): kernel %s touches %p, byte %zu of an allocation of %zu (or freed memory)\n", kernel,
                         (const void *)at, (size_t)((uintptr_t)at - it->first), it->second.bytes);
        else
            n = snprintf(text, sizeof(text), "cuemu (EMULATED): kernel %s touches device memory %p that is not allocated\n", kernel, (const void *)at);
    } else if (kernel != NULL) {
        n = snprintf(text, sizeof(text), "cuemu (EMULATED): kernel %s block (%u,%u,%u) touches %p, which is nowhere\n", kernel, cuemu_this_block.bid.x,
                     cuemu_this_block.bid.y, cuemu_this_block.bid.z, (const void *)at);
    }
    if (n > 0 && write(2, text, (size_t)n) < 0)
        n = 0;
    signal(sig, SIG_DFL);
}

#endif

/* A fault in the arena or in a kernel says which; then the process dies of it as ever. */
static void catch_faults(void)
{
#if !defined(CUEMU_ASAN) && !defined(CUEMU_TSAN)
    static thread_local bool has_stack;
    if (!has_stack) {
        has_stack = true;
        stack_t alt = {};
        alt.ss_size = 32 << 10;
        alt.ss_sp = mmap(NULL, alt.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        sigaltstack(&alt, NULL);
    }
    struct sigaction act = {};
    if (sigaction(SIGSEGV, NULL, &act) == 0 && (act.sa_flags & SA_SIGINFO) != 0 && act.sa_sigaction == report_fault)
        return; /* asked every time: test runners set their own */
    act = {};
    act.sa_sigaction = report_fault;
    act.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &act, NULL);
    sigaction(SIGBUS, &act, NULL);
#endif
}

static void arena_make(void)
{
    if (arena != NULL)
        return;
    arena_file = memfd_create("cuemu", MFD_CLOEXEC);
    if (arena_file < 0 || ftruncate(arena_file, (off_t)arena_bytes) != 0)
        cuemu_fault("no memory file: %s", strerror(errno));
    /* The system call itself: the sanitizers' wrappers would walk over all of it. */
    long p = syscall(SYS_mmap, NULL, arena_bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, arena_file, 0L);
    if (p == -1)
        cuemu_fault("no address space for device memory: %s", strerror(errno));
    arena = (char *)p;
}

/* Device memory is open while these live. */
struct device_access {
    device_access()
    {
        if (open_count++ == 0 && guard)
            protect(PROT_READ | PROT_WRITE);
    }
    ~device_access()
    {
        if (--open_count == 0 && guard)
            protect(PROT_NONE);
    }
    static void protect(int how)
    {
        for (const auto &[at, a] : memory)
            if (a.kind == DEVICE || a.kind == OPENED)
                mprotect(a.pages, a.pages_bytes, how);
    }
};

static std::map<uintptr_t, allocation>::iterator find(const void *p)
{
    auto it = memory.upper_bound((uintptr_t)p);
    if (it == memory.begin())
        return memory.end();
    --it;
    return (uintptr_t)p < it->first + (it->second.bytes != 0 ? it->second.bytes : 1) ? it : memory.end();
}

static memory_kind kind_of(const void *p)
{
    auto it = find(p);
    return it != memory.end() ? it->second.kind : FOREIGN;
}

int cuemu_memory_kind(const void *p)
{
    std::lock_guard<std::mutex> hold(lock);
    memory_kind k = kind_of(p);
    return k == DEVICE || k == OPENED ? 1 : k != FOREIGN ? 2 : 0;
}

#ifndef CUEMU_ASAN /* which sees the write itself */
static bool marks_intact(uintptr_t at, const allocation &a)
{
    const unsigned char *p = (const unsigned char *)at, *begin = (const unsigned char *)a.pages, *end = begin + a.pages_bytes;
    for (const unsigned char *q = p - begin > 64 ? p - 64 : begin; q < p; q++)
        if (*q != MARK)
            return false;
    for (const unsigned char *q = p + a.bytes; q < end; q++)
        if (*q != MARK)
            return false;
    return true;
}

#endif

static void check_marks(const char *after)
{
#ifndef CUEMU_ASAN
    for (const auto &[at, a] : memory)
        if (a.kind == DEVICE && !marks_intact(at, a))
            cuemu_fault("something wrote beside an allocation of %zu bytes; seen after %s", a.bytes, after);
#else
    (void)after;
#endif
}

static void *device_alloc(size_t n, allocation *a)
{
    arena_make();
    size_t body = (n + PAGE - 1) / PAGE * PAGE;
    if (body == 0)
        body = PAGE;
    if (arena_top + body + PAGE > arena_bytes)
        return NULL;
    a->pages = arena + arena_top;
    a->pages_bytes = body;
    arena_top += body + PAGE;
    mprotect(a->pages, body, PROT_READ | PROT_WRITE);
    char *p = a->pages + (body - n) / ALIGN * ALIGN;
    memset(a->pages, MARK, (size_t)(p - a->pages));
    memset(p, 0xff, n);
    memset(p + n, MARK, (size_t)(a->pages + body - p) - n);
#ifdef CUEMU_ASAN
    __asan_poison_memory_region(a->pages, (size_t)(p - a->pages));
    __asan_poison_memory_region(p + n, (size_t)(a->pages + body - p) - n);
#endif
    if (guard && open_count == 0)
        mprotect(a->pages, body, PROT_NONE);
    return p;
}

API cudaMalloc(void **out, size_t n)
{
    BEGIN();
    NOT_CAPTURED();
    allocation a = {n, DEVICE, this_device, NULL, 0};
    if (out == NULL)
        return failed(cudaErrorInvalidValue);
    *out = NULL;
    if (n == 0)
        return cudaSuccess;
    if (n > device_bytes - devices[this_device].used)
        return failed(cudaErrorMemoryAllocation);
    void *p = device_alloc(n, &a);
    if (p == NULL)
        return failed(cudaErrorMemoryAllocation);
    devices[this_device].used += n;
    memory[(uintptr_t)p] = a;
    traced(NULL, "malloc", std::to_string(n));
    catch_faults();
    *out = p;
    return cudaSuccess;
}

API cudaFree(void *p)
{
    BEGIN();
    NOT_CAPTURED();
    if (p == NULL)
        return cudaSuccess;
    auto it = memory.find((uintptr_t)p);
    if (it == memory.end() || it->second.kind != DEVICE)
        return failed(cudaErrorInvalidValue);
    {
        device_access open;
        check_marks("its last use");
    }
    allocation a = it->second;
    devices[a.device].used -= a.bytes;
    memory.erase(it);
    mprotect(a.pages, a.pages_bytes, PROT_NONE);
    if (fallocate(arena_file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, a.pages - arena, (off_t)a.pages_bytes) != 0)
        cuemu_fault("giving back memory: %s", strerror(errno));
    return cudaSuccess;
}

static cudaError_t host_alloc(void **out, size_t n)
{
    if (out == NULL)
        return failed(cudaErrorInvalidValue);
    *out = NULL;
    if (n == 0)
        return cudaSuccess;
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return failed(cudaErrorMemoryAllocation);
    wmemset((wchar_t *)p, (wchar_t)0xffffa5a5, (n + 3) / 4); /* to its pages' end; as a float no number, and unlike the device's as an integer */
    memory[(uintptr_t)p] = {n, PINNED, this_device, NULL, 0};
    traced(NULL, "pin", std::to_string(n));
    *out = p;
    return cudaSuccess;
}

API cudaHostAlloc(void **out, size_t n, unsigned)
{
    BEGIN();
    NOT_CAPTURED();
    return host_alloc(out, n);
}

API cudaMallocHost(void **out, size_t n)
{
    BEGIN();
    NOT_CAPTURED();
    return host_alloc(out, n);
}

API cudaFreeHost(void *p)
{
    BEGIN();
    NOT_CAPTURED();
    if (p == NULL)
        return cudaSuccess;
    auto it = memory.find((uintptr_t)p);
    if (it == memory.end() || it->second.kind != PINNED)
        return failed(cudaErrorInvalidValue);
    munmap(p, it->second.bytes);
    memory.erase(it);
    return cudaSuccess;
}

API cudaHostRegister(void *p, size_t n, unsigned)
{
    BEGIN();
    NOT_CAPTURED();
    if (p == NULL || n == 0)
        return failed(cudaErrorInvalidValue);
    auto next = memory.upper_bound((uintptr_t)p);
    if (find(p) != memory.end() || (next != memory.end() && next->first < (uintptr_t)p + n))
        return failed(cudaErrorHostMemoryAlreadyRegistered);
    memory[(uintptr_t)p] = {n, REGISTERED, this_device, NULL, 0};
    return cudaSuccess;
}

API cudaHostUnregister(void *p)
{
    BEGIN();
    NOT_CAPTURED();
    auto it = memory.find((uintptr_t)p);
    if (it == memory.end() || it->second.kind != REGISTERED)
        return failed(cudaErrorHostMemoryNotRegistered);
    memory.erase(it);
    return cudaSuccess;
}

API cudaHostGetDevicePointer(void **out, void *p, unsigned)
{
    BEGIN();
    memory_kind k = kind_of(p);
    if (k != PINNED && k != REGISTERED)
        return failed(cudaErrorInvalidValue);
    *out = p;
    return cudaSuccess;
}

API cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    BEGIN();
    *total = device_bytes;
    *free_bytes = device_bytes - devices[this_device].used;
    return cudaSuccess;
}

API cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p)
{
    BEGIN();
    auto it = find(p);
    memset(out, 0, sizeof(*out));
    out->type = cudaMemoryTypeUnregistered;
    out->device = -1;
    if (it != memory.end()) {
        bool on_device = it->second.kind == DEVICE || it->second.kind == OPENED;
        out->type = on_device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
        out->device = it->second.device;
        out->devicePointer = (void *)p;
        out->hostPointer = on_device ? NULL : (void *)p;
    }
    return cudaSuccess;
}

/* ---- device memory of other processes ---- */

struct ipc_handle {
    int pid, file;
    size_t offset, bytes;
};
static_assert(sizeof(ipc_handle) <= sizeof(cudaIpcMemHandle_t), "a handle holds it");

API cudaIpcGetMemHandle(cudaIpcMemHandle_t *out, void *p)
{
    BEGIN();
    auto it = memory.find((uintptr_t)p);
    if (it == memory.end() || it->second.kind != DEVICE)
        return failed(cudaErrorInvalidValue);
    ipc_handle h = {getpid(), arena_file, (size_t)((char *)p - arena), it->second.bytes};
    memset(out, 0, sizeof(*out));
    memcpy(out, &h, sizeof(h));
    return cudaSuccess;
}

API cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t handle, unsigned)
{
    BEGIN();
    NOT_CAPTURED();
    ipc_handle h;
    memcpy(&h, &handle, sizeof(h));
    if (h.pid == getpid())
        return failed(cudaErrorDeviceUninitialized);
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", h.pid, h.file);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return failed(cudaErrorInvalidResourceHandle);
    size_t first = h.offset / PAGE * PAGE, end = (h.offset + h.bytes + PAGE - 1) / PAGE * PAGE;
    void *m = mmap(NULL, end - first, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)first);
    close(fd);
    if (m == MAP_FAILED)
        return failed(cudaErrorMapBufferObjectFailed);
    *out = (char *)m + (h.offset - first);
    memory[(uintptr_t)*out] = {h.bytes, OPENED, this_device, (char *)m, end - first};
    if (guard && open_count == 0)
        mprotect(m, end - first, PROT_NONE);
    return cudaSuccess;
}

API cudaIpcCloseMemHandle(void *p)
{
    BEGIN();
    NOT_CAPTURED();
    auto it = memory.find((uintptr_t)p);
    if (it == memory.end() || it->second.kind != OPENED)
        return failed(cudaErrorInvalidValue);
    allocation a = it->second;
    memory.erase(it);
    munmap(a.pages, a.pages_bytes);
    return cudaSuccess;
}

/* ---- streams ---- */

static cuemu_stream *stream_of(cudaStream_t s)
{
    if (s == NULL || s == cudaStreamLegacy || s == cudaStreamPerThread)
        return &devices[this_device].null_stream;
    cuemu_stream *x = (cuemu_stream *)s;
    if (streams.count(x) == 0)
        cuemu_fault("a stream that does not exist (destroyed?)");
    return x;
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* What waits for others gives up the lock; its stream stays its own meanwhile. */
static void act(std::unique_lock<std::mutex> &hold, const action &a, int device)
{
    if (devices[device].sticky != cudaSuccess)
        return; /* nothing runs on a device after an error */
    device_access open;
    if (!a.waits) {
        a.run();
        return;
    }
    hold.unlock();
    a.run();
    hold.lock();
}

static void step(std::unique_lock<std::mutex> &hold, cuemu_stream *s)
{
    if (s->busy && s->busy_thread == std::this_thread::get_id())
        cuemu_fault("a stream waits for itself");
    if (s->busy) { /* until something has changed: it may be at a wait for the caller's own stream, with what the caller waits for behind it */
        changed.wait(hold);
        return;
    }
    if (s->queue.empty())
        return;
    operation o = std::move(s->queue.front());
    s->queue.pop_front();
    s->busy = true;
    s->busy_thread = std::this_thread::get_id();
    if (o.wait != NULL) {
        while (o.wait->done < o.version) {
            if (o.wait->stream == NULL || (o.wait->stream->queue.empty() && !o.wait->stream->busy))
                cuemu_fault("a stream waits for an event that nothing will record");
            step(hold, o.wait->stream);
        }
    } else if (o.record != NULL) {
        if (o.record->done < o.version) {
            o.record->done = o.version;
            o.record->at_ms = now_ms();
        }
    } else {
        act(hold, o.act, s->device);
    }
    s->busy = false;
    changed.notify_all();
}

static void drain(std::unique_lock<std::mutex> &hold, cuemu_stream *s)
{
    while (!s->queue.empty() || s->busy)
        step(hold, s);
}

static std::vector<cuemu_stream *> with_work(int device)
{
    std::vector<cuemu_stream *> r;
    if (!devices[device].null_stream.queue.empty())
        r.push_back(&devices[device].null_stream);
    for (const auto &[number, s] : streams_made)
        if (s->device == device && !s->queue.empty())
            r.push_back(s);
    return r;
}

static void drain_device(std::unique_lock<std::mutex> &hold, int device)
{
    for (;;) {
        std::vector<cuemu_stream *> w = with_work(device);
        if (w.empty())
            break;
        if (mode == RANDOM)
            step(hold, w[cuemu_random(&stream_random) % w.size()]);
        else
            drain(hold, w.back());
    }
    for (cuemu_stream *s : std::vector<cuemu_stream *>(streams.begin(), streams.end()))
        if (streams.count(s) != 0 && s->device == device && s->busy && s->busy_thread != std::this_thread::get_id())
            drain(hold, s);
}

/* A device goes on by itself while its host does something else: where work is put off, what has lain for a while is done by a thread of its own. */
#define IDLE_MS 100
static double pushed_at;
static bool over; /* the process ends */

static void go_on(void)
{
    for (;;) {
        struct timespec t = {0, 20000000};
        nanosleep(&t, NULL);
        std::unique_lock<std::mutex> hold(lock);
        if (over)
            return;
        for (int d = 0; d < MAX_DEVICES && mode != EAGER && now_ms() - pushed_at > IDLE_MS; d++)
            drain_device(hold, d);
    }
}

static void go_on_from_now(void) /* with the lock */
{
    static bool goes;
    pushed_at = now_ms();
    if (goes)
        return;
    goes = true;
    std::thread(go_on).detach();
    atexit([] {
        lock.lock(); /* for good: nothing runs while what it needs is taken down */
        over = true;
    });
}

static void push(std::unique_lock<std::mutex> &hold, cuemu_stream *s, operation o)
{
    bool legacy = s == &devices[s->device].null_stream;
    if (mode != EAGER)
        go_on_from_now();
    if (legacy)
        drain_device(hold, s->device);
    s->queue.push_back(std::move(o));
    if (mode == EAGER || legacy) {
        drain(hold, s);
    } else if (mode == RANDOM) {
        for (int k = 0; k < 2; k++) {
            std::vector<cuemu_stream *> w = with_work(s->device);
            uint64_t r = cuemu_random(&stream_random);
            if (!w.empty() && (r >> 40 & 1) != 0) {
                cuemu_stream *x = w[r % w.size()];
                if (!x->busy)
                    step(hold, x);
            }
        }
    }
}

static int capture_node(cuemu_stream *s, action a)
{
    cuemu_graph *g = s->cap->graph.get();
    g->nodes.push_back({std::move(a), s->tail});
    int index = (int)g->nodes.size() - 1;
    s->tail.assign(1, index);
    return index;
}

static cudaError_t submit(std::unique_lock<std::mutex> &hold, cuemu_stream *s, action a)
{
    if (s->cap != NULL) {
        if (s->cap->broken)
            return failed(cudaErrorStreamCaptureInvalidated);
        capture_node(s, std::move(a));
        return cudaSuccess;
    }
    push(hold, s, operation{std::move(a), NULL, NULL, 0});
    return cudaSuccess;
}

void cuemu_stream_call(void *stream, void (*fn)(void *), void *arg, void (*free_arg)(void *), bool waits)
{
    std::unique_lock<std::mutex> hold(lock);
    start();
    std::shared_ptr<void> keep(arg, free_arg != NULL ? free_arg : [](void *) {});
    traced(stream_of((cudaStream_t)stream), "call", waits ? "waits" : "");
    submit(hold, stream_of((cudaStream_t)stream), {[fn, keep] { fn(keep.get()); }, waits});
}

static cudaError_t stream_make(cudaStream_t *out)
{
    static uint64_t made;
    cuemu_stream *s = new cuemu_stream();
    s->number = ++made;
    s->device = this_device;
    streams.insert(s);
    streams_made[s->number] = s;
    *out = (cudaStream_t)s;
    return cudaSuccess;
}

API cudaStreamCreate(cudaStream_t *out)
{
    BEGIN();
    return stream_make(out);
}

API cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    BEGIN();
    return stream_make(out);
}

API cudaStreamCreateWithPriority(cudaStream_t *out, unsigned, int)
{
    BEGIN();
    return stream_make(out);
}

API cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    BEGIN();
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

API cudaStreamDestroy(cudaStream_t stream)
{
    BEGIN();
    cuemu_stream *s = stream_of(stream);
    if (streams.count(s) == 0)
        return failed(cudaErrorInvalidResourceHandle);
    drain(hold, s);
    if (s->cap != NULL)
        s->cap->broken = true;
    for (cuemu_event *e : events)
        if (e->state->stream == s)
            e->state->stream = NULL;
    streams.erase(s);
    streams_made.erase(s->number);
    delete s;
    return cudaSuccess;
}

static cudaError_t device_result(int device)
{
    return failed(devices[device].sticky);
}

API cudaStreamSynchronize(cudaStream_t stream)
{
    BEGIN();
    cuemu_stream *s = stream_of(stream);
    NOT_CAPTURED();
    if (s->cap != NULL) {
        s->cap->broken = true;
        return failed(cudaErrorStreamCaptureUnsupported);
    }
    drain(hold, s);
    return device_result(s->device);
}

API cudaStreamQuery(cudaStream_t stream)
{
    BEGIN();
    cuemu_stream *s = stream_of(stream);
    NOT_CAPTURED();
    if (s->busy)
        return cudaErrorNotReady;
    if (!s->queue.empty()) { /* one step a query, so that polling comes to an end */
        step(hold, s);
        return cudaErrorNotReady;
    }
    return device_result(s->device);
}

API cudaDeviceSynchronize(void)
{
    BEGIN();
    NOT_CAPTURED();
    drain_device(hold, this_device);
    return device_result(this_device);
}

API cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    BEGIN();
    return submit(hold, stream_of(stream), {[fn, arg] { fn(arg); }, true});
}

/* ---- events ---- */

static cuemu_event *event_of(cudaEvent_t e)
{
    cuemu_event *x = (cuemu_event *)e;
    if (events.count(x) == 0)
        cuemu_fault("an event that does not exist (destroyed?)");
    return x;
}

static cudaError_t event_make(cudaEvent_t *out, unsigned flags)
{
    cuemu_event *e = new cuemu_event{std::make_shared<event_state>()};
    static uint64_t made;
    e->state->number = ++made;
    e->state->device = this_device;
    e->state->timed = (flags & cudaEventDisableTiming) == 0;
    events.insert(e);
    *out = (cudaEvent_t)e;
    return cudaSuccess;
}

API cudaEventCreate(cudaEvent_t *out)
{
    BEGIN();
    return event_make(out, 0);
}

API cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    BEGIN();
    return event_make(out, flags);
}

API cudaEventDestroy(cudaEvent_t event)
{
    BEGIN();
    cuemu_event *e = event_of(event);
    events.erase(e);
    delete e;
    return cudaSuccess;
}

static cudaError_t event_record(std::unique_lock<std::mutex> &hold, cudaEvent_t event, cudaStream_t stream, unsigned flags = 0)
{
    event_ref e = event_of(event)->state;
    cuemu_stream *s = stream_of(stream);
    if (e->device != s->device)
        return failed(cudaErrorInvalidResourceHandle);
    traced(s, "record", std::to_string(e->number));
    if (s->cap != NULL && (flags & cudaEventRecordExternal) != 0) { /* a node that records whenever it is played */
        e->within = NULL;
        capture_node(s, {[e] {
                             e->done = ++e->issued;
                             e->at_ms = now_ms();
                         },
                         false});
        return cudaSuccess;
    }
    if (s->cap != NULL) {
        e->within = s->cap;
        e->nodes = s->tail;
        return cudaSuccess;
    }
    e->within = NULL;
    e->stream = s;
    e->issued++;
    push(hold, s, operation{{}, NULL, e, e->issued});
    return cudaSuccess;
}

API cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    BEGIN();
    return event_record(hold, event, stream);
}

API cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    BEGIN();
    return event_record(hold, event, stream, flags);
}

API cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    BEGIN();
    event_ref e = event_of(event)->state;
    cuemu_stream *s = stream_of(stream);
    traced(s, "wait", std::to_string(e->number));
    if (e->within != NULL) {
        if (!e->within->open)
            return failed(cudaErrorCapturedEvent);
        if (s->cap != NULL && s->cap != e->within) {
            s->cap->broken = e->within->broken = true;
            return failed(cudaErrorStreamCaptureMerge);
        }
        s->cap = e->within; /* a stream that was not captured joins here */
        for (int n : e->nodes)
            s->tail.push_back(n);
        return cudaSuccess;
    }
    if (s->cap != NULL) {
        s->cap->broken = true;
        return failed(cudaErrorStreamCaptureIsolation);
    }
    if (e->issued > 0)
        push(hold, s, operation{{}, e, NULL, e->issued});
    return cudaSuccess;
}

API cudaEventQuery(cudaEvent_t event)
{
    BEGIN();
    event_ref e = event_of(event)->state;
    if (e->within != NULL)
        return failed(cudaErrorCapturedEvent);
    if (e->done < e->issued && e->stream != NULL && !e->stream->busy)
        step(hold, e->stream);
    return e->done < e->issued ? cudaErrorNotReady : device_result(e->device);
}

API cudaEventSynchronize(cudaEvent_t event)
{
    BEGIN();
    NOT_CAPTURED();
    event_ref e = event_of(event)->state;
    if (e->within != NULL)
        return failed(cudaErrorCapturedEvent);
    while (e->done < e->issued && e->stream != NULL)
        step(hold, e->stream);
    return device_result(e->device);
}

API cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    BEGIN();
    event_ref a = event_of(from)->state, b = event_of(to)->state;
    if (!a->timed || !b->timed || a->issued == 0 || b->issued == 0)
        return failed(cudaErrorInvalidResourceHandle);
    if (a->done < a->issued || b->done < b->issued)
        return failed(cudaErrorNotReady);
    *ms = (float)(b->at_ms - a->at_ms);
    return cudaSuccess;
}

/* ---- graphs ---- */

API cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode capture_mode)
{
    BEGIN();
    cuemu_stream *s = stream_of(stream);
    if (streams.count(s) == 0)
        return failed(cudaErrorStreamCaptureUnsupported);
    if (s->cap != NULL)
        return failed(cudaErrorIllegalState);
    auto c = std::make_shared<capture>();
    c->graph.reset(new cuemu_graph());
    c->origin = s;
    c->mode = capture_mode;
    c->thread = std::this_thread::get_id();
    c->open = true;
    s->cap = c;
    s->tail.clear();
    captures.insert(c);
    return cudaSuccess;
}

/* All that was captured has to lie before the origin's end: another stream was forked and never joined otherwise. */
static bool all_joined(const cuemu_graph *g, const std::vector<int> &tail)
{
    std::vector<bool> seen(g->nodes.size(), false);
    std::vector<int> todo = tail;
    while (!todo.empty()) {
        int n = todo.back();
        todo.pop_back();
        if (!seen[(size_t)n]) {
            seen[(size_t)n] = true;
            for (int before : g->nodes[(size_t)n].after)
                todo.push_back(before);
        }
    }
    for (bool s : seen)
        if (!s)
            return false;
    return true;
}

API cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    BEGIN();
    cuemu_stream *s = stream_of(stream);
    std::shared_ptr<capture> c = s->cap;
    *out = NULL;
    if (c == NULL)
        return failed(cudaErrorIllegalState);
    if (c->origin != s) {
        c->broken = true;
        return failed(cudaErrorStreamCaptureUnmatched);
    }
    if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id()) {
        c->broken = true;
        return failed(cudaErrorStreamCaptureWrongThread);
    }
    bool joined = all_joined(c->graph.get(), s->tail);
    for (cuemu_stream *x : streams)
        if (x->cap == c) {
            x->cap = NULL;
            x->tail.clear();
        }
    c->open = false;
    captures.erase(c);
    if (c->broken)
        return failed(cudaErrorStreamCaptureInvalidated);
    if (!joined)
        return failed(cudaErrorStreamCaptureUnjoined);
    cuemu_graph *g = c->graph.release();
    graphs.insert(g);
    *out = (cudaGraph_t)g;
    return cudaSuccess;
}

API cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *out)
{
    BEGIN();
    const cuemu_stream *s = stream_of(stream);
    *out = s->cap == NULL ? cudaStreamCaptureStatusNone : s->cap->broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

static cuemu_graph *graph_of(cudaGraph_t g)
{
    if (graphs.count((cuemu_graph *)g) == 0)
        cuemu_fault("a graph that does not exist (destroyed?)");
    return (cuemu_graph *)g;
}

static cuemu_exec *exec_of(cudaGraphExec_t x)
{
    if (execs.count((cuemu_exec *)x) == 0)
        cuemu_fault("an executable graph that does not exist (destroyed?)");
    return (cuemu_exec *)x;
}

API cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *, size_t *n)
{
    BEGIN();
    *n = graph_of(g)->nodes.size(); /* how many; not which */
    return cudaSuccess;
}

API cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long)
{
    BEGIN();
    cuemu_exec *x = new cuemu_exec{std::make_shared<cuemu_graph>(*graph_of(g))};
    execs.insert(x);
    *out = (cudaGraphExec_t)x;
    return cudaSuccess;
}

API cudaGraphUpload(cudaGraphExec_t x, cudaStream_t)
{
    BEGIN();
    exec_of(x);
    return cudaSuccess;
}

API cudaGraphExecUpdate(cudaGraphExec_t x, cudaGraph_t g, cudaGraphExecUpdateResultInfo *info)
{
    BEGIN();
    cuemu_exec *e = exec_of(x);
    const cuemu_graph *now = graph_of(g);
    memset(info, 0, sizeof(*info));
    bool same = now->nodes.size() == e->graph->nodes.size();
    for (size_t i = 0; same && i < now->nodes.size(); i++)
        same = now->nodes[i].after == e->graph->nodes[i].after;
    info->result = same ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
    if (!same)
        return failed(cudaErrorGraphExecUpdateFailure);
    e->graph = std::make_shared<cuemu_graph>(*now); /* launches under way keep theirs */
    return cudaSuccess;
}

/* Eager: as captured. Lazy: the node captured last of those that may run. Random: any. */
static void run_graph(std::unique_lock<std::mutex> &hold, const cuemu_graph *g, int device)
{
    size_t n = g->nodes.size();
    std::vector<int> missing(n);
    std::vector<std::vector<int>> next(n);
    std::vector<int> ready;
    for (size_t i = 0; i < n; i++) {
        missing[i] = (int)g->nodes[i].after.size();
        for (int before : g->nodes[i].after)
            next[(size_t)before].push_back((int)i);
        if (missing[i] == 0)
            ready.push_back((int)i);
    }
    while (!ready.empty()) {
        size_t best = 0;
        for (size_t i = 1; i < ready.size(); i++)
            if ((ready[i] < ready[best]) != (mode == LAZY))
                best = i;
        if (mode == RANDOM)
            best = cuemu_random(&stream_random) % ready.size();
        int now = ready[best];
        ready.erase(ready.begin() + (long)best);
        act(hold, g->nodes[(size_t)now].act, device);
        for (int after : next[(size_t)now])
            if (--missing[(size_t)after] == 0)
                ready.push_back(after);
    }
}

API cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t stream)
{
    BEGIN();
    std::shared_ptr<cuemu_graph> g = exec_of(x)->graph;
    cuemu_stream *s = stream_of(stream);
    if (s->cap != NULL) {
        s->cap->broken = true;
        return failed(cudaErrorStreamCaptureUnsupported);
    }
    int device = s->device;
    return submit(hold, s, {[g, device] {
                                std::unique_lock<std::mutex> again(lock);
                                run_graph(again, g.get(), device);
                            },
                            true});
}

API cudaGraphDestroy(cudaGraph_t g)
{
    BEGIN();
    graphs.erase(graph_of(g));
    delete (cuemu_graph *)g;
    return cudaSuccess;
}

API cudaGraphExecDestroy(cudaGraphExec_t x)
{
    BEGIN();
    execs.erase(exec_of(x));
    delete (cuemu_exec *)x;
    return cudaSuccess;
}

size_t cuemu_live(void)
{
    std::lock_guard<std::mutex> hold(lock);
    return live();
}

/* ---- launches ---- */

cudaError_t cuemu_launch_kernel(const cuemu_launch *l, cudaStream_t stream)
{
    std::unique_lock<std::mutex> hold(lock);
    std::shared_ptr<void> args(l->args, l->args_free);
    cudaError_t e = begin("cudaLaunchKernel");
    if (e != cudaSuccess)
        return e;
    const dim3 g = l->grid, b = l->block;
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 2147483647u || g.y > 65535 || g.z > 65535 || threads == 0 || threads > 1024 || b.z > 64)
        return failed(cudaErrorInvalidConfiguration);
    auto allowed = allowed_smem.find(l->fn);
    if (l->dynamic_bytes > (allowed != allowed_smem.end() ? allowed->second : 48 << 10))
        return failed(cudaErrorInvalidValue);
    cuemu_stream *s = stream_of(stream);
    for (int i = 0; i < l->n_pointers; i++) {
        if (l->pointers[i] == NULL)
            continue;
        auto it = find(l->pointers[i]);
        if (it == memory.end())
            cuemu_fault("kernel %s: argument %d, %p, is neither device nor pinned memory", l->name, i, l->pointers[i]);
        if (it->second.kind == DEVICE && it->second.device != s->device && !devices[s->device].peers[it->second.device])
            cuemu_fault("kernel %s on device %d: argument %d is memory of device %d", l->name, s->device, i, it->second.device);
    }
    traced(s, "kernel", l->name);
    cuemu_launch copy = *l;
    int device = s->device;
    return submit(hold, s, {[copy, args, device] {
                                int code = cudaErrorLaunchFailure;
                                (void)injected((std::string("kernel:") + copy.name).c_str(), &code);
                                if (injected("kernel", &code)) {
                                    devices[device].sticky = (cudaError_t)code;
                                    return;
                                }
                                catch_faults();
                                cuemu_run_grid(&copy);
                                check_marks(copy.name);
                            },
                            false});
}

API cudaFuncSetAttribute(const void *fn, enum cudaFuncAttribute what, int value)
{
    BEGIN();
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || (size_t)value > cuemu_options.block_smem)
        return failed(cudaErrorInvalidValue);
    allowed_smem[fn] = (size_t)value > 48 << 10 ? (size_t)value : 48 << 10;
    return cudaSuccess;
}

API cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *, int block, size_t smem, unsigned)
{
    BEGIN();
    size_t by_threads = block > 0 ? 2048u / (unsigned)block : 0, by_smem = (cuemu_options.block_smem + 1024) / (smem + 1024);
    *n = (int)(by_threads < by_smem ? by_threads : by_smem); /* registers are not known */
    return cudaSuccess;
}

API cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *fn, int block, size_t smem)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n, fn, block, smem, 0);
}

/* ---- copies ---- */

static void check_range(const void *p, size_t n, const char *what)
{
    auto it = find(p);
    if (it == memory.end() || (it->second.kind != DEVICE && it->second.kind != OPENED))
        cuemu_fault("%s: %p is not device memory", what, p);
    if ((uintptr_t)p - it->first + n > it->second.bytes)
        cuemu_fault("%s: %zu bytes from byte %zu on of an allocation of %zu", what, n, (size_t)((uintptr_t)p - it->first), it->second.bytes);
}

static bool on_device(const void *p)
{
    memory_kind k = kind_of(p);
    return k == DEVICE || k == OPENED;
}

/* Pageable host memory is read before the call returns, and written before it returns; pinned memory when the copy runs. */
static cudaError_t copy_rows(std::unique_lock<std::mutex> &hold, void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                             size_t height, enum cudaMemcpyKind kind, cuemu_stream *s)
{
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (height > 1 && (to_pitch < width || from_pitch < width))
        return failed(cudaErrorInvalidPitchValue);
    bool to_device = kind == cudaMemcpyDefault ? on_device(to) : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDefault ? on_device(from) : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    size_t to_bytes = to_pitch * (height - 1) + width, from_bytes = from_pitch * (height - 1) + width;
    if (to_device)
        check_range(to, to_bytes, "copy to");
    else if (on_device(to))
        cuemu_fault("copy to host memory, but %p is device memory", to);
    if (from_device)
        check_range(from, from_bytes, "copy from");
    else if (on_device(from))
        cuemu_fault("copy from host memory, but %p is device memory", from);
    auto rows = [=](void *d, const void *f) {
        for (size_t i = 0; i < height; i++)
            memcpy((char *)d + i * to_pitch, (const char *)f + i * from_pitch, width);
    };
    bool pageable_from = !from_device && kind_of(from) == FOREIGN, pageable_to = !to_device && kind_of(to) == FOREIGN;
    if ((pageable_from || pageable_to) && s->cap != NULL) {
        s->cap->broken = true;
        return failed(cudaErrorStreamCaptureUnsupported);
    }
    if (pageable_from) {
        std::shared_ptr<char> held((char *)malloc(from_bytes), free);
        memcpy(held.get(), from, from_bytes);
        submit(hold, s, {[=] { rows(to, held.get()); }, false});
    } else {
        submit(hold, s, {[=] { rows(to, from); }, false});
    }
    if (pageable_to)
        drain(hold, s);
    return pageable_to ? device_result(s->device) : cudaSuccess;
}

API cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    BEGIN();
    return copy_rows(hold, to, n, from, n, n, 1, kind, stream_of(stream));
}

API cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind)
{
    BEGIN();
    NOT_CAPTURED();
    cudaError_t e = copy_rows(hold, to, n, from, n, n, 1, kind, &devices[this_device].null_stream);
    return e != cudaSuccess ? e : device_result(this_device);
}

API cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, enum cudaMemcpyKind kind,
                      cudaStream_t stream)
{
    BEGIN();
    return copy_rows(hold, to, to_pitch, from, from_pitch, width, height, kind, stream_of(stream));
}

API cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, enum cudaMemcpyKind kind)
{
    BEGIN();
    NOT_CAPTURED();
    return copy_rows(hold, to, to_pitch, from, from_pitch, width, height, kind, &devices[this_device].null_stream);
}

API cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t n, cudaStream_t stream)
{
    BEGIN();
    return copy_rows(hold, to, n, from, n, n, 1, cudaMemcpyDeviceToDevice, stream_of(stream));
}

API cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream)
{
    BEGIN();
    if (n == 0)
        return cudaSuccess;
    check_range(p, n, "memset");
    return submit(hold, stream_of(stream), {[=] { memset(p, value, n); }, false});
}

API cudaMemset(void *p, int value, size_t n)
{
    BEGIN();
    NOT_CAPTURED();
    if (n == 0)
        return cudaSuccess;
    check_range(p, n, "memset");
    return submit(hold, &devices[this_device].null_stream, {[=] { memset(p, value, n); }, false});
}

/* ---- devices ---- */

API cudaGetDeviceCount(int *n)
{
    std::lock_guard<std::mutex> hold(lock);
    *n = 0;
    cudaError_t e = begin(__func__);
    if (e == cudaSuccess)
        *n = n_devices;
    return e;
}

API cudaSetDevice(int d)
{
    BEGIN();
    if (d < 0 || d >= n_devices)
        return failed(cudaErrorInvalidDevice);
    this_device = d;
    return cudaSuccess;
}

API cudaGetDevice(int *d)
{
    BEGIN();
    *d = this_device;
    return cudaSuccess;
}

API cudaSetDeviceFlags(unsigned)
{
    BEGIN();
    return cudaSuccess;
}

API cudaDeviceReset(void)
{
    BEGIN();
    drain_device(hold, this_device);
    return cudaSuccess;
}

API cudaGetDeviceProperties(struct cudaDeviceProp *p, int d)
{
    BEGIN();
    if (d < 0 || d >= n_devices)
        return failed(cudaErrorInvalidDevice);
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "EMULATED GPU %d", d);
    p->uuid.bytes[0] = (char)d;
    p->major = capability / 10;
    p->minor = capability % 10;
    p->totalGlobalMem = device_bytes;
    p->multiProcessorCount = multiprocessors;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = cuemu_options.block_smem;
    p->sharedMemPerMultiprocessor = cuemu_options.block_smem + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->l2CacheSize = 40 << 20;
    p->memoryBusWidth = 5120;
    p->unifiedAddressing = p->canMapHostMemory = 1;
    p->asyncEngineCount = 2;
    p->concurrentKernels = 1;
    return cudaSuccess;
}

API cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr what, int d)
{
    BEGIN();
    if (d < 0 || d >= n_devices)
        return failed(cudaErrorInvalidDevice);
    switch (what) {
    case cudaDevAttrComputeCapabilityMajor:
        *out = capability / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *out = capability % 10;
        break;
    case cudaDevAttrMultiProcessorCount:
        *out = multiprocessors;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *out = (int)cuemu_options.block_smem;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *out = 48 << 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *out = (int)cuemu_options.block_smem + 1024;
        break;
    case cudaDevAttrWarpSize:
        *out = 32;
        break;
    case cudaDevAttrMaxThreadsPerBlock:
        *out = 1024;
        break;
    case cudaDevAttrL2CacheSize:
        *out = 40 << 20;
        break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
        *out = 0;
        break;
    case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrUnifiedAddressing:
        *out = 1;
        break;
    default:
        return failed(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

API cudaDeviceGetPCIBusId(char *out, int n, int d)
{
    BEGIN();
    if (d < 0 || d >= n_devices)
        return failed(cudaErrorInvalidDevice);
    snprintf(out, (size_t)n, "ffff:%02x:00.0", d);
    return cudaSuccess;
}

API cudaDeviceCanAccessPeer(int *out, int d, int peer)
{
    BEGIN();
    if (d < 0 || d >= n_devices || peer < 0 || peer >= n_devices)
        return failed(cudaErrorInvalidDevice);
    *out = d != peer;
    return cudaSuccess;
}

API cudaDeviceEnablePeerAccess(int peer, unsigned)
{
    BEGIN();
    if (peer < 0 || peer >= n_devices || peer == this_device)
        return failed(cudaErrorInvalidDevice);
    if (devices[this_device].peers[peer])
        return failed(cudaErrorPeerAccessAlreadyEnabled);
    devices[this_device].peers[peer] = true;
    return cudaSuccess;
}

API cudaRuntimeGetVersion(int *v)
{
    *v = n_devices == -2 ? 12060 : CUDART_VERSION;
    return cudaSuccess;
}

API cudaDriverGetVersion(int *v)
{
    std::lock_guard<std::mutex> hold(lock);
    start();
    *v = n_devices == -1 ? 0 : n_devices == -2 ? 11040 : CUDART_VERSION;
    return cudaSuccess;
}

/* ---- errors ---- */

API cudaGetLastError(void)
{
    cudaError_t e = last_error;
    std::lock_guard<std::mutex> hold(lock);
    last_error = devices[this_device].sticky;
    return e;
}

API cudaPeekAtLastError(void)
{
    return last_error;
}

#define ERRORS(X)                                                                                                                                    \
    X(cudaSuccess, "no error")                                                                                                                       \
    X(cudaErrorInvalidValue, "invalid argument")                                                                                                     \
    X(cudaErrorMemoryAllocation, "out of memory")                                                                                                    \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                                                                               \
    X(cudaErrorInvalidPitchValue, "invalid pitch argument")                                                                                          \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")                                                   \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                                                       \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                                                                              \
    X(cudaErrorDeviceUninitialized, "invalid device context")                                                                                             \
    X(cudaErrorMapBufferObjectFailed, "mapping of buffer object failed")                                                                             \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                                                                     \
    X(cudaErrorIllegalState, "the operation cannot be performed in the present state")                                                               \
    X(cudaErrorNotReady, "device not ready")                                                                                                         \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                                                           \
    X(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled")                                                                           \
    X(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped")                                           \
    X(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region")                                                 \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                                                                          \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                                                         \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")                                                  \
    X(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")                                                \
    X(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")                                                       \
    X(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                                                                          \
    X(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")                                                    \
    X(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream")                                             \
    X(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread")                                 \
    X(cudaErrorGraphExecUpdateFailure, "the graph update was not performed because it included changes which violated constraints")                  \
    X(cudaErrorUnknown, "unknown error")

extern "C" const char *CUDARTAPI cudaGetErrorName(cudaError_t e)
{
#define NAME(code, text)                                                                                                                             \
    case code:                                                                                                                                       \
        return #code;
    switch (e) {
        ERRORS(NAME)
    default:
        return "unrecognized error code";
    }
}

extern "C" const char *CUDARTAPI cudaGetErrorString(cudaError_t e)
{
#define TEXT(code, text)                                                                                                                             \
    case code:                                                                                                                                       \
        return text;
    switch (e) {
        ERRORS(TEXT)
    default:
        return "unrecognized error code";
    }
}
