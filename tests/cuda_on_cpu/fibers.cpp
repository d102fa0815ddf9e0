// Runs a kernel's threads one at a time, each on a stack of its own, in a chosen order.
//
// Within a block warps take turns: the lanes of one run to their next collective each, until all
// of them have returned or stand at a barrier of the block. What waits for threads that cannot
// come ends the launch with a report.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <pthread.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

struct uint3 {
    unsigned x, y, z;
};
extern "C" {
uint3 threadIdx, blockIdx, blockDim, gridDim;
}

namespace {

typedef unsigned long long u64;
typedef void (*Kernel)(const u64*);

// A switch of stacks

#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
typedef void* Context;
extern "C" void cuda_switch(Context* from, Context to) asm("cuda_switch");
asm(R"(
.text
cuda_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmpq *%rcx  # not ret, which the processor would expect to go elsewhere
)");
void prepare(Context* c, char* stack, size_t size, void (*main)()) {
    void** top = (void**)(stack + size);
    *--top = nullptr;  // what would be main's return address keeps the stack aligned
    *--top = (void*)main;
    *c = top - 6;
}
inline void change(Context* from, Context* to) { cuda_switch(from, *to); }
#elif defined(__aarch64__) && !defined(CUDA_ON_CPU_UCONTEXT)
typedef void* Context;
extern "C" void cuda_switch(Context* from, Context to) asm("cuda_switch");
asm(R"(
.text
cuda_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
void prepare(Context* c, char* stack, size_t size, void (*main)()) {
    void** frame = (void**)(stack + size - 160);
    memset(frame, 0, 160);
    frame[11] = (void*)main;  // x30, where the first switch returns to
    *c = frame;
}
inline void change(Context* from, Context* to) { cuda_switch(from, *to); }
#else
}  // namespace
#include <ucontext.h>
namespace {
typedef ucontext_t Context;
void prepare(Context* c, char* stack, size_t size, void (*main)()) {
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = size;
    c->uc_link = nullptr;
    makecontext(c, main, 0);
}
inline void change(Context* from, Context* to) { swapcontext(from, to); }
#endif

const int WARP = 32, MAX_THREADS = 1024;
const size_t STACK = 256 << 10;
const char* const KINDS[] = {
    "__syncthreads", "__syncthreads_or", "__syncthreads_and", "__syncthreads_count",
    "__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
    "__ballot_sync", "__any_sync", "__all_sync",
};
enum { SYNCTHREADS, OR, AND, COUNT, SYNCWARP, SHFL, UP, DOWN, XOR, BALLOT, ANY, ALL };

enum State { NEW, READY, WAITING, RETURNED };

struct Thread {
    State state;
    int fiber;  // its stack, -1 before it runs and after it returned
    uint3 index;
    int kind, line, lane, width;  // of the collective it stands at
    unsigned mask;
    u64 value, result;
};
struct Fiber {
    Context context;
    int thread;
};

// How a launch ends; matches Report in __init__.py.
enum Outcome { DONE, DIVERGED, FAULTED };
struct Report {
    int outcome;
    unsigned block[2];
    unsigned thread[3];
    int line;
    u64 address;
    char kind[32];
    char text[416];
};

Report* report;
sigjmp_buf home;
Thread threads[MAX_THREADS];
Fiber fibers[MAX_THREADS];
int idle[MAX_THREADS];  // stacks without a thread
int n_idle, n_fibers, n_threads;
int current;  // the thread that runs, -1 in between
pthread_t owner;  // the process's thread that launched
Context scheduler;
Kernel kernel;
const u64* arguments;
char* stacks;

// Reports

[[noreturn]] void fail(Outcome outcome, int thread, const char* kind, int line, const char* format, ...) {
    report->outcome = outcome;
    report->block[0] = blockIdx.x, report->block[1] = blockIdx.y;
    if (thread >= 0) memcpy(report->thread, &threads[thread].index, sizeof report->thread);
    report->line = line;
    snprintf(report->kind, sizeof report->kind, "%s", kind);
    va_list list;
    va_start(list, format);
    vsnprintf(report->text, sizeof report->text, format, list);
    va_end(list);
    siglongjmp(home, 1);
}

const char* name(int thread) {
    static char texts[4][48];
    static int next;
    char* out = texts[next++ % 4];
    const uint3& i = threads[thread].index;
    if (blockDim.y > 1 || blockDim.z > 1) snprintf(out, 48, "(%u, %u, %u)", i.x, i.y, i.z);
    else snprintf(out, 48, "%u", i.x);
    return out;
}

const char* where(int thread) {
    static char texts[4][112];
    static int next;
    char* out = texts[next++ % 4];
    const Thread& t = threads[thread];
    if (t.state == RETURNED) snprintf(out, 112, "has returned");
    else if (t.kind < SYNCWARP) snprintf(out, 112, "waits at %s (line %d)", KINDS[t.kind], t.line);
    else snprintf(out, 112, "waits at %s (line %d) with mask 0x%08x", KINDS[t.kind], t.line, t.mask);
    return out;
}

[[noreturn]] void fail_to_meet(int thread, int other) {
    const Thread& t = threads[thread];
    fail(DIVERGED, thread, KINDS[t.kind], t.line, "thread %s %s, but thread %s %s", name(thread),
         where(thread), name(other), where(other));
}

// Orders

enum Order { FORWARD = 0, REVERSE = 1, SHUFFLED = 2 };
int order;
u64 random_state;

unsigned draw(unsigned n) {  // splitmix64
    u64 z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (unsigned)(((z ^ z >> 31) >> 32) * n >> 32);
}

void arrange(int* out, int n) {
    for (int i = 0; i < n; i++) out[i] = order == REVERSE ? n - 1 - i : i;
    if (order != SHUFFLED) return;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)draw(i + 1), kept = out[i];
        out[i] = out[j], out[j] = kept;
    }
}

// Fibers

void fiber_main() {
    Fiber* self = &fibers[threads[current].fiber];
    for (;;) {
        kernel(arguments);
        Thread& t = threads[current];
        t.state = RETURNED;
        idle[n_idle++] = t.fiber;
        change(&self->context, &scheduler);
    }
}

void resume(int thread) {
    Thread& t = threads[thread];
    current = thread;
    if (t.state == NEW) {
        if (n_idle == 0) {
            char* stack = stacks + (size_t)n_fibers * STACK;
            size_t page = (size_t)sysconf(_SC_PAGESIZE);
            // The lowest page stays closed: a kernel that overruns its stack faults.
            if (mprotect(stack + page, STACK - page, PROT_READ | PROT_WRITE))
                fail(FAULTED, thread, "memory", 0, "no memory for the stack of a thread");
            // Tops apart by some lines, or all would fall on the same lines of the cache.
            size_t apart = (size_t)(n_fibers % 61) * 320;
            prepare(&fibers[n_fibers].context, stack, STACK - apart, fiber_main);
            idle[n_idle++] = n_fibers++;
        }
        t.fiber = idle[--n_idle];
    }
    t.state = READY;
    threadIdx = t.index;
    change(&scheduler, &fibers[t.fiber].context);
    current = -1;
}

// Collectives

u64 shuffled(int first, int lane, const Thread& t) {
    unsigned width = (unsigned)t.width, own = (unsigned)lane, source;
    unsigned start = own & ~(width - 1), last = own | (width - 1), given = (unsigned)t.lane;
    switch (t.kind) {
    case SHFL: source = start | (given & (width - 1)); break;
    case UP: source = own >= start + given ? own - given : own; break;
    case DOWN: source = own + given <= last ? own + given : own; break;
    default: source = (own ^ given) <= last ? own ^ given : own;
    }
    // What a lane outside the mask would give is undefined: all bits set, a NaN in any format.
    return source < WARP && t.mask >> source & 1 ? threads[first + source].value : ~0ull;
}

// Lets the lanes go that wait where this one does; false while one of them is missing.
bool complete(int first, int n_lanes, int lane, int* missing) {
    Thread& t = threads[first + lane];
    unsigned votes = 0;
    for (int i = 0; i < WARP; i++) {
        if (!(t.mask >> i & 1)) continue;
        const Thread& other = threads[first + i];
        *missing = i;
        if (i >= n_lanes || other.state != WAITING || other.kind != t.kind ||
            other.line != t.line || other.mask != t.mask)
            return false;
        votes |= (unsigned)(other.value != 0) << i;
    }
    for (int i = 0; i < n_lanes; i++) {
        if (!(t.mask >> i & 1)) continue;
        Thread& other = threads[first + i];
        switch (t.kind) {
        case SYNCWARP: break;
        case BALLOT: other.result = votes; break;
        case ANY: other.result = votes != 0; break;
        case ALL: other.result = votes == t.mask; break;
        default: other.result = shuffled(first, i, other);
        }
        other.state = READY;
    }
    return true;
}

// Runs a warp until each lane has returned or stands at a barrier of the block.
void run_warp(int first, int n_lanes) {
    int lanes[WARP];
    for (;;) {
        arrange(lanes, n_lanes);
        for (int i = 0; i < n_lanes; i++)
            if (threads[first + lanes[i]].state <= READY) resume(first + lanes[i]);
        bool moved = false;
        int stuck = -1, missing = 0, which;
        for (int i = 0; i < n_lanes; i++) {
            const Thread& t = threads[first + i];
            if (t.state != WAITING || t.kind < SYNCWARP) continue;
            if (complete(first, n_lanes, i, &which)) moved = true;
            else if (stuck < 0) stuck = i, missing = which;
        }
        if (moved) continue;
        if (stuck < 0) return;
        const Thread& t = threads[first + stuck];
        if (missing < n_lanes) fail_to_meet(first + stuck, first + missing);
        fail(DIVERGED, first + stuck, KINDS[t.kind], t.line,
             "thread %s %s, but the block has no lane %d in this warp", name(first + stuck),
             where(first + stuck), missing);
    }
}

// Opens the barrier that all threads stand at; false once all have returned.
bool open_barrier() {
    int at = -1;
    for (int i = 0; i < n_threads && at < 0; i++)
        if (threads[i].state == WAITING) at = i;
    if (at < 0) return false;
    int n_true = 0;
    for (int i = 0; i < n_threads; i++) {
        const Thread& t = threads[i];
        if (t.state != WAITING || t.kind != threads[at].kind || t.line != threads[at].line)
            fail_to_meet(at, i);
        n_true += t.value != 0;
    }
    for (int i = 0; i < n_threads; i++) {
        Thread& t = threads[i];
        t.result = t.kind == OR ? n_true > 0 : t.kind == AND ? n_true == n_threads : n_true;
        t.state = READY;
    }
    return true;
}

void run_block() {
    int warps[MAX_THREADS / WARP], n_warps = (n_threads + WARP - 1) / WARP;
    for (int i = 0; i < n_threads; i++) {
        threads[i].state = NEW;
        threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y,
                            i / (blockDim.x * blockDim.y)};
    }
    do {
        arrange(warps, n_warps);
        for (int i = 0; i < n_warps; i++) {
            int first = warps[i] * WARP;
            run_warp(first, n_threads - first < WARP ? n_threads - first : WARP);
        }
    } while (open_barrier());
}

// Faults end the launch, not the process.

void on_signal(int number, siginfo_t* info, void*) {
    if (!pthread_equal(pthread_self(), owner)) {
        if (number == SIGVTALRM) pthread_kill(owner, number);
        else signal(number, SIG_DFL);  // not a kernel's: happens again, and ends the process
        return;
    }
    char* address = (char*)info->si_addr;
    const char* thread = current < 0 ? "?" : name(current);
    const char* kind = number == SIGFPE ? "arithmetic" : "memory";
    switch (number) {
    case SIGVTALRM:
        fail(FAULTED, current, "time", 0, "thread %s does not end: does it wait for another?", thread);
    case SIGFPE:
        fail(FAULTED, current, kind, 0, "thread %s divides an integer by zero", thread);
    case SIGSEGV:
    case SIGBUS:
        if (stacks <= address && address < stacks + STACK * MAX_THREADS)
            fail(FAULTED, current, kind, 0, "thread %s has more than %zu KiB of local variables",
                 thread, STACK >> 10);
        report->address = (u64)address;
        fail(FAULTED, current, kind, 0, "thread %s uses memory that is not there: %p", thread,
             (void*)address);
    default:
        fail(FAULTED, current, "instruction", 0, "thread %s came to no instruction", thread);
    }
}

const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGVTALRM};
const int N_SIGNALS = sizeof SIGNALS / sizeof *SIGNALS;

// What g++ calls where a check that it put in fails; the layouts are those of GCC and Clang.

struct Place {
    const char* file;
    unsigned line, column;
};

[[noreturn]] void fail_check(const Place& place, const char* kind, u64 address, const char* what) {
    report->address = address;
    int line = strcmp(place.file, "module.cu") == 0 ? (int)place.line : 0;
    fail(FAULTED, current, kind, line, "thread %s %s (line %d)", name(current), what, line);
}

}  // namespace

extern "C" u64 cuda_collective(int kind, int line, unsigned mask, u64 value, int lane, int width) {
    Thread& t = threads[current];
    t.kind = kind, t.line = line, t.mask = mask, t.value = value, t.lane = lane, t.width = width;
    if (kind >= SYNCWARP && !(mask >> (current % WARP) & 1))
        fail(DIVERGED, current, KINDS[kind], line,
             "thread %s is at %s (line %d) with mask 0x%08x, which leaves its own lane %d out",
             name(current), KINDS[kind], line, mask, current % WARP);
    if (kind >= SHFL && kind <= XOR && (width < 1 || width > WARP || width & (width - 1)))
        fail(DIVERGED, current, KINDS[kind], line, "%s (line %d) has width %d, no power of two up to 32",
             KINDS[kind], line, width);
    t.state = WAITING;
    change(&fibers[t.fiber].context, &scheduler);
    return t.result;
}

extern "C" void __ubsan_handle_type_mismatch_v1_abort(const Place* place, u64 address) {
    const unsigned char* after = (const unsigned char*)(place + 1) + sizeof(void*);
    char what[96];
    snprintf(what, sizeof what, "uses the address 0x%llx, no multiple of %d bytes", address,
             1 << *after);
    fail_check(*place, "memory", address, what);
}

extern "C" void __ubsan_handle_out_of_bounds_abort(const Place* place, u64 index) {
    char what[96];
    snprintf(what, sizeof what, "uses the index %lld, outside of its array", (long long)index);
    fail_check(*place, "memory", 0, what);
}

extern "C" void __ubsan_handle_shift_out_of_bounds_abort(const Place* place, u64, u64 count) {
    char what[96];
    snprintf(what, sizeof what, "shifts by %lld bits", (long long)count);
    fail_check(*place, "arithmetic", 0, what);
}

extern "C" void __ubsan_handle_divrem_overflow_abort(const Place* place, u64, u64) {
    fail_check(*place, "arithmetic", 0, "divides an integer by zero");
}

// Pages between two closed ones; the address of the first open one.
extern "C" char* cuda_map(size_t size_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void* p = mmap(nullptr, size_bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    if (mprotect((char*)p + page, size_bytes, PROT_READ | PROT_WRITE)) return nullptr;
    return (char*)p + page;
}

extern "C" void cuda_unmap(char* p, size_t size_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(p - page, size_bytes + 2 * page);
}

extern "C" int cuda_launch(Kernel run, const u64* a, const unsigned* grid, const unsigned* block,
                           char* shared, char* shared_end, int how, u64 seed, double limit_s,
                           Report* out) {
    kernel = run, arguments = a, report = out, order = how, random_state = seed;
    gridDim = {grid[0], grid[1], 1}, blockDim = {block[0], block[1], 1};
    n_threads = (int)(block[0] * block[1]);
    n_fibers = n_idle = 0, current = -1, owner = pthread_self();
    memset(out, 0, sizeof *out);
    if (!stacks) {
        void* p = mmap(nullptr, STACK * MAX_THREADS, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) abort();
        stacks = (char*)p;
    }
    static char spare[64 << 10];
    stack_t own = {}, kept_stack;
    own.ss_sp = spare, own.ss_size = sizeof spare;
    sigaltstack(&own, &kept_stack);
    struct sigaction action = {}, kept[N_SIGNALS];
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < N_SIGNALS; i++) sigaction(SIGNALS[i], &action, &kept[i]);
    // Processor time, so that a busy machine ends no launch.
    itimerval limit = {}, none = {};
    limit.it_value.tv_sec = (long)limit_s;
    limit.it_value.tv_usec = (long)((limit_s - (double)(long)limit_s) * 1e6);
    setitimer(ITIMER_VIRTUAL, &limit, nullptr);

    int n_blocks = (int)(grid[0] * grid[1]);
    int* blocks = (int*)malloc(sizeof(int) * (size_t)(n_blocks ? n_blocks : 1));
    if (sigsetjmp(home, 1) == 0) {
        arrange(blocks, n_blocks);
        for (int i = 0; i < n_blocks; i++) {
            blockIdx = {blocks[i] % grid[0], blocks[i] / grid[0], 0};
            memset(shared, 0xff, (size_t)(shared_end - shared));
            run_block();
        }
    }
    current = -1;
    setitimer(ITIMER_VIRTUAL, &none, nullptr);
    free(blocks);
    for (int i = 0; i < N_SIGNALS; i++) sigaction(SIGNALS[i], &kept[i], nullptr);
    sigaltstack(&kept_stack, nullptr);
    return out->outcome;
}
