/*
 * pvbench.c - hypervisor microbenchmarks from inside a Xen-PV-ABI guest kernel.
 *
 * A complete 64-bit PV kernel of its own (no Xen, XTF or Linux code): load it where a
 * dom0 (or domU) kernel would go.  Results use ubench's line format, value in ns by the
 * hypervisor's own time record, tsc= in RDTSC ticks (= executed instructions under
 * "qemu -icount shift=0").
 *
 * Command line: "idle" blocks for ever at once, "exit" shuts down at once (for VM
 * creation tests); "n=<int>" sets the iterations per repetition (default 400);
 * "yield=<int>" only measures that many SCHEDOP_yield, then blocks ("yield=0" yields for
 * ever): with several such VMs on one CPU this is the cost of a world switch.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long s64;

#define VBASE 0xffffffff80000000UL
#define PAGE 4096UL
#define M2P ((volatile u64 *)0xffff800000000000UL)
#define DOMID_SELF 0x7ff0

#define P_ 1UL
#define RW 2UL
#define US 4UL
#define AC 0x20UL
#define DI 0x40UL
#define PTE_RW (P_ | RW | US | AC | DI)
#define PTE_RO (P_ | US | AC)

struct start_info {
    char magic[32];
    u64 nr_pages, shared_info;
    u32 flags;
    u64 store_mfn;
    u32 store_evtchn;
    struct { u64 mfn; u32 evtchn; } console;
    u64 pt_base, nr_pt_frames, mfn_list, mod_start, mod_len;
    char cmd_line[1024];
};

extern u8 hypercall_page[];
extern u8 user_page[], u_syscall[], u_ud[], u_pf[], u_int80[];
extern u8 trap_ud[], trap_pf[], trap_bp[], trap_80[], event_upcall[], failsafe[], syscall_entry[];
void enter_user(u64 rip, u64 rsp, u64 count);
void iret_loop(u64 count);

#define HC(nr, a, b, c, d)                                                                         \
    ({                                                                                             \
        register u64 r10_ __asm__("r10") = (u64)(d);                                               \
        u64 rax_, rdi_ = (u64)(a), rsi_ = (u64)(b), rdx_ = (u64)(c);                               \
        __asm__ volatile("call hypercall_page + %c[n]"                                             \
                         : "=a"(rax_), "+D"(rdi_), "+S"(rsi_), "+d"(rdx_), "+r"(r10_)              \
                         : [n] "i"((nr) * 32)                                                      \
                         : "memory", "rcx", "r8", "r9", "r11");                                    \
        (s64) rax_;                                                                                \
    })
#define h_set_trap_table(t) HC(0, t, 0, 0, 0)
#define h_mmu_update(r, n) HC(1, r, n, 0, DOMID_SELF)
#define h_stack_switch(ss, sp) HC(3, ss, sp, 0, 0)
#define h_fpu_taskswitch(s) HC(5, s, 0, 0, 0)
#define h_set_debugreg(r, v) HC(8, r, v, 0, 0)
#define h_update_descriptor(ma, d) HC(10, ma, d, 0, 0)
#define h_memory_op(c, a) HC(12, c, a, 0, 0)
#define h_multicall(l, n) HC(13, l, n, 0, 0)
#define h_update_va(va, pte, fl) HC(14, va, pte, fl, 0)
#define h_set_timer(t) HC(15, t, 0, 0, 0)
#define h_xen_version(c, a) HC(17, c, a, 0, 0)
#define h_console_io(c, n, p) HC(18, c, n, p, 0)
#define h_grant(c, p, n) HC(20, c, p, n, 0)
#define h_vm_assist(c, t) HC(21, c, t, 0, 0)
#define h_vcpu_op(c, v, a) HC(24, c, v, a, 0)
#define h_set_segment_base(w, b) HC(25, w, b, 0, 0)
#define h_mmuext(o, n) HC(26, o, n, 0, DOMID_SELF)
#define h_sched_op(c, a) HC(29, c, a, 0, 0)
#define h_callback_op(c, a) HC(30, c, a, 0, 0)
#define h_evtchn(c, a) HC(32, c, a, 0, 0)

enum { UVMF_NONE, UVMF_TLB, UVMF_INVLPG };

/* pages the benchmarks play with */
#define PG __attribute__((aligned(4096)))
u8 shared_page[PAGE] PG; /* becomes shared_info */
u8 con_page[PAGE] PG;    /* becomes the console ring, when there is one */
static u8 gnt_page[PAGE] PG, gnt_target[PAGE] PG, gnt_map[PAGE] PG;
static u8 pa[PAGE] PG, pb[PAGE] PG, win[512 * PAGE] PG; /* win: 2 MiB, one full L1's worth */
static u64 l4u[512] PG, l3u[512] PG, l2u[512] PG, l1u[512] PG, l4k2[512] PG, l1x[512] PG;
static u8 user_stack[PAGE] PG, gdt_page[PAGE] PG, kstack[4 * PAGE] PG;
volatile u64 upcalls;

static struct start_info *si;
static u64 *mfn_list;

static u64 v2p(const void *v) { return ((u64)v - VBASE) / PAGE; }
static u64 mfn(const void *v) { return mfn_list[v2p(v)]; }
static u64 *m2v(u64 m) { return (u64 *)(VBASE + M2P[m] * PAGE); }
static void *memset_(void *d, int c, u64 n) { u8 *p = d; while (n--) { *p++ = c; __asm__ volatile("" ::: "memory"); } return d; }
void *memset(void *d, int c, u64 n) { return memset_(d, c, n); }
void *memcpy(void *d, const void *s, u64 n)
{
    u8 *p = d; const u8 *q = s;
    while (n--) { *p++ = *q++; __asm__ volatile("" ::: "memory"); }
    return d;
}

/* ---------------------------------------------------------------- console */
static char line[512];
static int lp;
static void flush(void)
{
    if (h_console_io(0, lp, line) < 0 && si->console.mfn && !(si->flags & 1)) {
        volatile u8 *out = con_page + 1024;
        volatile u32 *cons = (u32 *)(con_page + 3072 + 8), *prod = (u32 *)(con_page + 3072 + 12);
        for (int i = 0; i < lp; i++) {
            for (long spin = 0; *prod - *cons >= 2048 && spin < 100000; spin++)
                h_sched_op(0, 0);
            out[*prod & 2047] = line[i];
            __asm__ volatile("" ::: "memory");
            *prod = *prod + 1;
        }
        u32 port = si->console.evtchn;
        h_evtchn(4, &port);
    }
    lp = 0;
}
static void pc(char c)
{
    line[lp++] = c;
    if (c == '\n' || lp == sizeof line)
        flush();
}
static void ps(const char *s) { while (*s) pc(*s++); }
static void pd(u64 v)
{
    char b[24]; int i = 0;
    do { b[i++] = '0' + v % 10; v /= 10; } while (v);
    while (i) pc(b[--i]);
}
static void px(u64 v) { for (int i = 60; i >= 0; i -= 4) pc("0123456789abcdef"[v >> i & 15]); }
static void pcent(u64 v) { pd(v / 100); pc('.'); pc('0' + v / 10 % 10); pc('0' + v % 10); } /* v in hundredths */

static void stop(int reason)
{
    u32 r = reason;
    h_sched_op(2, &r);
    for (;;) h_sched_op(1, 0);
}
void bad_trap(u64 vec, u64 *sp)
{
    ps("\nUBFAIL trap "); pd(vec);
    for (int i = 0; i < 8; i++) { pc(' '); px(sp[i]); }
    pc('\n');
    stop(3);
}
static void ck(s64 rc, const char *what)
{
    if (rc < 0) { ps("UBFAIL "); ps(what); ps(" -"); pd(-rc); pc('\n'); stop(3); }
}

/* ---------------------------------------------------------------- measuring */
static inline u64 rdtsc(void) { u32 a, d; __asm__ volatile("rdtsc" : "=a"(a), "=d"(d)::"memory"); return (u64)d << 32 | a; }
static u64 iters = 400;
static u32 ns_mul; static int ns_shift;
static u64 ns100(u64 ticks100) /* hundredths of ticks -> hundredths of ns */
{
    if (ns_shift >= 0) ticks100 <<= ns_shift; else ticks100 >>= -ns_shift;
    return (u64)((unsigned __int128)ticks100 * ns_mul >> 32);
}
#define REPS 5
static int id;
#define MARK(imm) __asm__ volatile(".byte 0x0f,0x1f,0x80\n\t.long %c0" ::"i"(imm) : "memory")
static void report(const char *name, u64 *t, u64 n, u64 per, u64 sub)
{
    u64 v[REPS];
    for (int i = 0; i < REPS; i++) {
        v[i] = t[i] * 100 / (n * per);
        v[i] = v[i] > sub ? v[i] - sub : 0;
        for (int j = i; j && v[j] < v[j - 1]; j--) { u64 x = v[j]; v[j] = v[j - 1]; v[j - 1] = x; }
    }
    ps("UB "); ps(name); pc(' '); pcent(ns100(v[REPS / 2]));
    ps(" ns min="); pcent(ns100(v[0])); ps(" max="); pcent(ns100(v[REPS - 1]));
    ps(" n="); pd(n); ps(" per="); pd(per); ps(" reps="); pd(REPS); ps(" tsc="); pcent(v[REPS / 2]);
    ps(" id="); pd(id++); pc('\n');
}
/* BENCH: n iterations of body, REPS times, one warm-up */
#define BENCH_SUB(name, count, per, sub, body)                                                     \
    do {                                                                                           \
        u64 t_[REPS], n_ = (count) ? (count) : 1;                                                  \
        for (int r_ = -1; r_ < REPS; r_++) {                                                       \
            if (r_ == 0) MARK(0x55424e58);                                                         \
            u64 c_ = rdtsc();                                                                      \
            MARK(0x55424247);                                                                      \
            for (u64 i = 0; i < n_; i++) { body; __asm__ volatile("" ::: "memory"); }              \
            MARK(0x55424544);                                                                      \
            c_ = rdtsc() - c_;                                                                     \
            if (r_ >= 0) t_[r_] = c_;                                                              \
        }                                                                                          \
        MARK(0x55424e58);                                                                          \
        report(name, t_, n_, per, sub);                                                            \
    } while (0)
#define BENCH(name, count, per, body) BENCH_SUB(name, count, per, 0, body)
#define TRY(name, expr, rest)                                                                      \
    do {                                                                                           \
        s64 rc_ = (expr);                                                                          \
        if (rc_ < 0) { ps("UBSKIP " name " -"); pd(-rc_); pc('\n'); } else { rest; }               \
    } while (0)

/* ---------------------------------------------------------------- page-table helpers */
static u64 pte_ma(const void *va) /* machine address of the L1 entry that maps va */
{
    u64 a = (u64)va, m = mfn((void *)si->pt_base);
    u64 *t = m2v(m);
    for (int l = 39; l > 12; l -= 9) {
        m = t[a >> l & 511] >> 12 & 0xffffffffffUL;
        t = m2v(m);
    }
    return m * PAGE + (a >> 12 & 511) * 8;
}
static s64 set_flags(void *va, u64 flags) { return h_update_va(va, mfn(va) * PAGE | flags, UVMF_INVLPG); }

struct mmu { u64 ptr, val; };
struct mmuext { u32 cmd; u64 a1, a2; };
struct trap { u8 vec, flags; u16 cs; u64 addr; };
static struct mmu mm[128];
static struct mmuext me;
static s64 ext(u32 cmd, u64 a1) { me.cmd = cmd; me.a1 = a1; me.a2 = 0; return h_mmuext(&me, 1); }
struct mcall { u64 op, result, args[6]; };
static struct mcall mc[32];

#define T(v, f, s) { v, f, 0xe033, (u64)s }
#define B(v) extern u8 trap_bad##v[]
B(0); B(1); B(2); B(4); B(5); B(7); B(8); B(10); B(11); B(12); B(13); B(16); B(17); B(19);
#define TB(v) { v, 0, 0xe033, (u64)trap_bad##v }

static int opt(const char *name)
{
    const char *c = si->cmd_line;
    for (; *c; c++) {
        const char *a = c, *b = name;
        while (*b && *a == *b) a++, b++;
        if (!*b) return (int)(a - si->cmd_line);
    }
    return -1;
}

static u64 num(int at)
{
    u64 v = 0;
    for (const char *c = si->cmd_line + at; *c >= '0' && *c <= '9'; c++) v = v * 10 + *c - '0';
    return v;
}

static int has_user;
static void setup_user(void)
{
    l1u[0] = mfn(user_page) * PAGE | PTE_RO;
    l1u[1] = mfn(user_stack) * PAGE | PTE_RW;
    l2u[2] = mfn(l1u) * PAGE | PTE_RW; /* 0x400000 */
    l3u[0] = mfn(l2u) * PAGE | PTE_RW;
    l4u[0] = mfn(l3u) * PAGE | PTE_RW;
    ck(set_flags(l1u, PTE_RO), "l1u ro"); ck(set_flags(l2u, PTE_RO), "l2u ro");
    ck(set_flags(l3u, PTE_RO), "l3u ro"); ck(set_flags(l4u, PTE_RO), "l4u ro");
    ck(ext(3, mfn(l4u)), "pin l4u");
    struct mmu m = { mfn((void *)si->pt_base) * PAGE, mfn(l3u) * PAGE | PTE_RW };
    ck(h_mmu_update(&m, 1), "user half in kernel L4");
    ck(ext(15, mfn(l4u)), "new user baseptr");
    has_user = 1;
}

void cmain(struct start_info *s)
{
    u64 first = rdtsc();
    si = s;
    mfn_list = (u64 *)si->mfn_list;
    static struct trap traps[] = {
        TB(0), TB(1), TB(2), T(3, 3, trap_bp), TB(4), TB(5), T(6, 0, trap_ud), TB(7), TB(8), TB(10), TB(11), TB(12), TB(13),
        T(14, 0, trap_pf), TB(16), TB(17), TB(19), T(0x80, 3, trap_80), { 0, 0, 0, 0 } };
    h_set_trap_table(traps);
    if (opt("exit") >= 0) stop(0);
    h_update_va(shared_page, si->shared_info | PTE_RW, UVMF_INVLPG);
    if (!(si->flags & 1) && si->console.mfn)
        h_update_va(con_page, si->console.mfn * PAGE | PTE_RW, UVMF_INVLPG);
    if (opt("idle") >= 0) for (;;) h_sched_op(1, 0);
    int o = opt("n=");
    if (o >= 0) iters = num(o);
    volatile u32 *tr = (u32 *)(shared_page + 32); /* vcpu_time_info */
    ns_mul = tr[6]; ns_shift = (signed char)((u8 *)tr)[28];
    ps("UBINIT reached\n");
    ps("UBINFO kernel pvbench "); ps(si->magic); pc('\n');
    ps("UBINFO mem "); pd(si->nr_pages * 4); ps(" kB\n");
    ps("UB pv_boot_to_kernel "); pcent(ns100(first * 100)); ps(" ns min=0 max=0 n=1 per=1 reps=1 tsc="); pd(first); ps(" id=-1\n");
    struct { u16 type, flags; u64 addr; } cb;
    cb.type = 0; cb.flags = 0; cb.addr = (u64)event_upcall; ck(h_callback_op(0, &cb), "cb event");
    cb.type = 1; cb.addr = (u64)failsafe; ck(h_callback_op(0, &cb), "cb failsafe");
    cb.type = 2; cb.addr = (u64)syscall_entry; ck(h_callback_op(0, &cb), "cb syscall");
    h_vcpu_op(7, 0, 0); /* no periodic timer */
    shared_page[1] = 1; /* upcalls masked */
    if ((o = opt("yield=")) >= 0) {
        u64 n = num(o);
        if (!n) for (;;) h_sched_op(0, 0);
        for (u64 i = 0; i < n / 4; i++) h_sched_op(0, 0);
        BENCH("vm_yield", n, 1, h_sched_op(0, 0));
        ps("UBDONE\n");
        for (;;) h_sched_op(1, 0);
    }
    u64 N = iters, B_ = N / 8 ? N / 8 : 1;

    /* bare instructions and the hypercall path */
    BENCH("pv_loop", N, 1, );
    BENCH("pv_rdtsc", N, 1, (void)rdtsc());
    BENCH("pv_cpuid", N, 1, u32 a = 0; u32 c = 0; __asm__ volatile("cpuid" : "+a"(a), "+c"(c)::"ebx", "edx"));
    BENCH("hc_nosys", N, 1, HC(63, 0, 0, 0, 0));
    BENCH("hc_xen_version", N, 1, h_xen_version(0, 0));
    for (int i = 0; i < 32; i++) { mc[i].op = 17; mc[i].args[0] = 0; mc[i].args[1] = 0; }
    BENCH("hc_multicall32_per_call", B_, 32, h_multicall(mc, 32));
    BENCH("hc_stack_switch", N, 1, h_stack_switch(0xe02b, kstack + sizeof kstack));
    BENCH("hc_set_segbase_fs", N, 1, h_set_segment_base(0, i * 64));
    BENCH("hc_fpu_taskswitch", N, 1, h_fpu_taskswitch(i & 1));
    h_fpu_taskswitch(0);
    BENCH("hc_set_debugreg", N, 1, h_set_debugreg(0, 0));
    BENCH("hc_update_descriptor", N, 1, h_update_descriptor(mfn(gdt_page) * PAGE + 64, 0x00cff2000000ffffUL));
    BENCH("hc_vcpu_is_up", N, 1, h_vcpu_op(3, 0, 0));
    BENCH("hc_set_timer_far", N, 1, h_set_timer(~0UL >> 2));
    h_set_timer(0);
    BENCH("hc_sched_yield", N, 1, h_sched_op(0, 0));
    iret_loop(1);
    BENCH("hc_iret_kernel", 1, N, iret_loop(N));

    /* exceptions bounced to the guest kernel, and back with iret */
    BENCH("exc_ud_kernel", N, 1, __asm__ volatile("ud2" ::: "memory"));
    BENCH("exc_bp_kernel", N, 1, __asm__ volatile("int3" ::: "memory"));
    BENCH("exc_pf_kernel", N, 1, __asm__ volatile(".byte 0x8a,0x07" ::"D"(0xffffffff40000000UL) : "rax", "memory"));

    /* privileged instructions trapped and emulated */
    BENCH("emu_cpuid_forced", N, 1, u32 a = 0; u32 c = 0; __asm__ volatile("ud2; .ascii \"xen\"; cpuid" : "+a"(a), "+c"(c)::"ebx", "edx", "memory"));
    BENCH("emu_rdmsr_efer", N, 1, u32 a; u32 d; __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(0xc0000080)));
    BENCH("emu_wrmsr_fsbase", N, 1, __asm__ volatile("wrmsr" ::"a"(0), "d"(0), "c"(0xc0000100)));
    BENCH("emu_read_cr0", N, 1, u64 v; __asm__ volatile("mov %%cr0,%0" : "=r"(v)));
    BENCH("emu_clts", N, 1, __asm__ volatile("clts"));
    u32 iopl = 1;
    if ((si->flags & 1) && HC(33, 6, &iopl, 0, 0) >= 0)
        BENCH("emu_in_port80", N, 1, u8 v; __asm__ volatile("inb $0x80,%0" : "=a"(v)));

    /* event channels */
    struct { u32 vcpu, port; } ipi = { 0, 0 };
    TRY("evtchn", h_evtchn(7, &ipi), {
        u32 port = ipi.port;
        ((volatile u64 *)(shared_page + 2560))[0] = ~(1UL << port);
        BENCH("evt_send_masked", N, 1, h_evtchn(4, &port); *(volatile u64 *)(shared_page + 2048) = 0; *(volatile u64 *)(shared_page + 8) = 0; shared_page[0] = 0);
        shared_page[1] = 0;
        u64 u0 = upcalls;
        BENCH("evt_send_upcall", N, 1, h_evtchn(4, &port));
        shared_page[1] = 1;
        ps("UBINFO upcalls "); pd(upcalls - u0); pc('\n');
        /* SCHEDOP_block with the wake-up already pending: enter and leave the scheduler path */
        BENCH("hc_block_pending", N, 1, shared_page[1] = 1; h_evtchn(4, &port); h_sched_op(1, 0); shared_page[1] = 1);
    });

    /* page tables */
    u64 ma_a = mfn(pa) * PAGE; u64 ma_b = mfn(pb) * PAGE; u64 wma = pte_ma(win);
    u64 wm0 = mfn(win) * PAGE;
    BENCH("mmu_update_1_flags", N, 1, mm[0].ptr = wma; mm[0].val = wm0 | (i & 1 ? PTE_RW : PTE_RO); h_mmu_update(mm, 1));
    BENCH("mmu_update_1_frame", N, 1, mm[0].ptr = wma; mm[0].val = (i & 1 ? ma_a : ma_b) | PTE_RW; h_mmu_update(mm, 1));
    BENCH("mmu_update_1_clear_set", N, 2, mm[0].ptr = wma; mm[0].val = 0; h_mmu_update(mm, 1); mm[0].val = wm0 | PTE_RW; h_mmu_update(mm, 1));
    BENCH("mmu_update_128_per_entry", B_, 128,
          for (int k = 0; k < 128; k++) { mm[k].ptr = wma + k * 8; mm[k].val = mfn(win + k * PAGE) * PAGE | (i & 1 ? PTE_RW : PTE_RO); }
          h_mmu_update(mm, 128));
    BENCH("update_va_flags", N, 1, h_update_va(win, wm0 | (i & 1 ? PTE_RW : PTE_RO), UVMF_NONE));
    BENCH("update_va_frame", N, 1, h_update_va(win, (i & 1 ? ma_a : ma_b) | PTE_RW, UVMF_NONE));
    BENCH("update_va_frame_invlpg", N, 1, h_update_va(win, (i & 1 ? ma_a : ma_b) | PTE_RW, UVMF_INVLPG));
    BENCH("update_va_frame_tlbflush", N, 1, h_update_va(win, (i & 1 ? ma_a : ma_b) | PTE_RW, UVMF_TLB));
    ck(h_update_va(win, wm0 | PTE_RW, UVMF_INVLPG), "restore win");
    h_vm_assist(0, 2); /* writable page tables: without it the writes below bounce as page faults, twice */
    { /* direct write to a (read-only mapped) L1: writable-page-table emulation */
        volatile u64 *pte = (volatile u64 *)((u8 *)m2v(wma / PAGE) + (wma & 4095));
        BENCH("ptwr_direct_write", N, 1, *pte = wm0 | (i & 1 ? PTE_RW : PTE_RO));
        BENCH("ptwr_then_read", N, 1, *pte = wm0 | (i & 1 ? PTE_RW : PTE_RO); (void)*pte);
    }
    h_update_va(win, wm0 | PTE_RW, UVMF_INVLPG);
    BENCH("mmuext_tlbflush_local", N, 1, ext(6, 0));
    BENCH("mmuext_invlpg_local", N, 1, ext(7, (u64)win));

    setup_user();
    BENCH("mmuext_new_user_base", N, 1, ext(15, mfn(l4u)));
    { /* kernel CR3 switch between two pinned top-level tables */
        u64 *k = (u64 *)si->pt_base;
        memset_(l4k2, 0, PAGE);
        l4k2[511] = k[511]; l4k2[0] = k[0];
        ck(set_flags(l4k2, PTE_RO), "l4k2 ro");
        ck(ext(3, mfn(l4k2)), "pin l4k2");
        u64 m1 = mfn((void *)si->pt_base); u64 m2 = mfn(l4k2);
        BENCH("mmuext_new_baseptr", N, 1, ext(5, i & 1 ? m1 : m2));
        ext(5, m1);
        ck(ext(4, m2), "unpin l4k2");
        BENCH("mmuext_pin_unpin_l4", N, 1, ext(3, m2); ext(4, m2));
    }
    { /* a page table page's life: empty L1 and full L1 */
        ck(set_flags(l1x, PTE_RO), "l1x ro");
        BENCH("mmuext_pin_unpin_l1_empty", N, 1, ext(0, mfn(l1x)); ext(4, mfn(l1x)));
        ck(set_flags(l1x, PTE_RW), "l1x rw");
        for (int k = 0; k < 512; k++) l1x[k] = mfn(win + k * PAGE) * PAGE | PTE_RW;
        ck(set_flags(l1x, PTE_RO), "l1x ro");
        BENCH("mmuext_pin_unpin_l1_full", B_, 1, ext(0, mfn(l1x)); ext(4, mfn(l1x)));
    }

    /* user mode */
    h_stack_switch(0xe02b, kstack + sizeof kstack);
    enter_user(0x400000 + (u64)(u_syscall - user_page), 0x401000 + PAGE, 1);
    BENCH("usr_enter_exit", N, 1, enter_user(0x400000 + (u64)(u_syscall - user_page), 0x401000 + PAGE, 1));
    BENCH("usr_syscall_rt", 1, N, enter_user(0x400000 + (u64)(u_syscall - user_page), 0x401000 + PAGE, N));
    BENCH("usr_int80_rt", 1, N, enter_user(0x400000 + (u64)(u_int80 - user_page), 0x401000 + PAGE, N));
    BENCH("usr_ud_rt", 1, N, enter_user(0x400000 + (u64)(u_ud - user_page), 0x401000 + PAGE, N));
    BENCH("usr_pf_rt", 1, N, enter_user(0x400000 + (u64)(u_pf - user_page), 0x401000 + PAGE, N));

    /* memory reservation: give one page back and take one */
    {
        struct { u64 start; u64 nr; u32 order, flags; u16 dom; } rs;
        static u64 fr[1];
        u64 m0 = mfn(pa);
        s64 ok = h_update_va(pa, 0, UVMF_INVLPG);
        u64 pfn = v2p(pa);
        fr[0] = m0; rs.start = (u64)fr; rs.nr = 1; rs.order = 0; rs.flags = 0; rs.dom = DOMID_SELF;
        if (ok >= 0 && h_memory_op(1, &rs) == 1) {
            fr[0] = pfn;
            if (h_memory_op(6, &rs) == 1)
                BENCH("mem_release_populate_1p", N, 1, h_memory_op(1, &rs); fr[0] = pfn; h_memory_op(6, &rs));
            m0 = fr[0];
        }
        mfn_list[pfn] = m0;
        h_update_va(pa, m0 * PAGE | PTE_RW, UVMF_INVLPG);
    }
    /* grants, to ourselves */
    {
        static u64 frames[1];
        struct { u16 dom; u32 nr; short status; u64 list; } st = { DOMID_SELF, 1, 0, (u64)frames };
        s64 rc = h_grant(2, &st, 1);
        if (rc < 0 || st.status) { ps("UBSKIP grant setup\n"); goto out; }
        h_update_va(gnt_page, frames[0] * PAGE | PTE_RW, UVMF_INVLPG);
        struct ge { u16 flags, dom; u32 frame; } *ge = (void *)gnt_page;
        u16 self = 0;
        struct { u64 dest, src; } dummy; (void)dummy;
        ge[8].dom = self; ge[8].frame = (u32)mfn(gnt_target); __asm__ volatile("" ::: "memory"); ge[8].flags = 1;
        struct { u64 host; u32 flags, ref; u16 dom; short status; u32 handle; u64 dev; } mg = { (u64)gnt_map, 2, 8, self, 0, 0, 0 };
        struct { u64 host, dev; u32 handle; short status; } ug;
        rc = h_grant(0, &mg, 1);
        if (rc < 0 || mg.status) { ps("UBSKIP grant map "); pd(-mg.status); pc('\n'); }
        else {
            ug.host = mg.host; ug.dev = 0; ug.handle = mg.handle; h_grant(1, &ug, 1);
            BENCH("gnt_map_unmap", N, 1, mg.status = 0; h_grant(0, &mg, 1); ug.host = mg.host; ug.dev = 0; ug.handle = mg.handle; h_grant(1, &ug, 1));
        }
        struct { struct { u64 u; u16 dom; u16 off; } src, dst; u16 len, flags; short status; } cp;
        memset_(&cp, 0, sizeof cp);
        cp.src.u = 8; cp.src.dom = self; cp.dst.u = mfn(pb); cp.dst.dom = DOMID_SELF; cp.len = 4096; cp.flags = 1;
        rc = h_grant(5, &cp, 1);
        if (rc < 0 || cp.status) { ps("UBSKIP grant copy "); pd(-cp.status); pc('\n'); }
        else {
            BENCH("gnt_copy_4k", N, 1, h_grant(5, &cp, 1));
            cp.len = 16;
            BENCH("gnt_copy_16b", N, 1, h_grant(5, &cp, 1));
        }
    }
out:
    ps("UBDONE\n");
    stop(0);
}
