//! The pieces of machine code. Conventions as in [`crate::bare`].

use crate::bare::snippets;

// Robin and Irvine.
snippets! {
    sgdt: "sgdt [rdi]", "movzx eax, word ptr [rdi]", "mov rdx, [rdi + 2]";
    sidt: "sidt [rdi]", "movzx eax, word ptr [rdi]", "mov rdx, [rdi + 2]";
    sldt: "sldt eax";
    smsw: "smsw rax";
    str: "str eax";
    pushf: "pushfq", "pop rax";
    /// Interrupts off and I/O privilege 3, which a kernel could have in ring 0.
    popf: "pushfq", "pop rax", "and rax, ~0x200", "or rax, 0x3000", "push rax", "popfq", "pushfq", "pop rax";
    /// The flags that ring 3 does change: DF, NT, AC, ID.
    popf_own: "pushfq", "or qword ptr [rsp], 0x244400", "popfq", "pushfq", "pop rax", "push 0x202", "popfq";
    /// All 65536 selectors: rax counts those that answer, rdx is a hash of selectors and answers.
    lar: "xor r8d, r8d", "xor r9d, r9d", "movabs r10, 0xcbf29ce484222325", "movabs r11, 0x100000001b3",
        "2:", "xor eax, eax", "lar eax, r8d", "jnz 3f", "inc r9", "shl rax, 16", "or rax, r8", "xor r10, rax",
        "imul r10, r11", "3:", "inc r8d", "cmp r8d, 0x10000", "jb 2b", "mov rax, r9", "mov rdx, r10";
    /// As `lar`.
    lsl: "xor r8d, r8d", "xor r9d, r9d", "movabs r10, 0xcbf29ce484222325", "movabs r11, 0x100000001b3",
        "2:", "xor eax, eax", "lsl eax, r8d", "jnz 3f", "inc r9", "shl rax, 16", "or rax, r8", "xor r10, rax",
        "imul r10, r11", "3:", "inc r8d", "cmp r8d, 0x10000", "jb 2b", "mov rax, r9", "mov rdx, r10";
    /// As `lar`.
    verr: "xor r8d, r8d", "xor r9d, r9d", "movabs r10, 0xcbf29ce484222325", "movabs r11, 0x100000001b3",
        "2:", "verr r8w", "jnz 3f", "inc r9", "xor r10, r8",
        "imul r10, r11", "3:", "inc r8d", "cmp r8d, 0x10000", "jb 2b", "mov rax, r9", "mov rdx, r10";
    /// As `lar`.
    verw: "xor r8d, r8d", "xor r9d, r9d", "movabs r10, 0xcbf29ce484222325", "movabs r11, 0x100000001b3",
        "2:", "verw r8w", "jnz 3f", "inc r9", "xor r10, r8",
        "imul r10, r11", "3:", "inc r8d", "cmp r8d, 0x10000", "jb 2b", "mov rax, r9", "mov rdx, r10";
    // `pop fs` and `push fs` by their bytes: the assembler would take the 16-bit ones.
    pop_fs: "push 0x23", ".byte 0x0f, 0xa1", "mov eax, fs", "push 0", ".byte 0x0f, 0xa1";
    pop_fs_ring0: "push 0x10", ".byte 0x0f, 0xa1";
    pop_ds: "push 0x23", ".byte 0x1f";
    push_fs: "mov eax, 0x23", "mov fs, eax", ".byte 0x0f, 0xa0", "pop rax", "xor ecx, ecx", "mov fs, ecx";
    push_cs: ".byte 0x0e";
    /// `call m16:64` to the next instruction, which takes the selector from the stack.
    call_far: "lea rax, [rip + 2f]", "mov [rdi], rax", "mov qword ptr [rdi + 8], 0x2b", ".byte 0x48, 0xff, 0x1f",
        "2:", "add rsp, 8", "pop rax", "and eax, 0xffff";
    call_far_ring0: "lea rax, [rip + 2f]", "mov [rdi], rax", "mov qword ptr [rdi + 8], 0x08",
        ".byte 0x48, 0xff, 0x1f", "2:", "add rsp, 16";
    call_direct: ".byte 0x9a, 0, 0, 0, 0, 0x2b, 0";
    /// Through selector 7: the first entry of the local table, with privilege 3.
    call_local: "mov qword ptr [rdi], 0", "mov qword ptr [rdi + 8], 0x07", ".byte 0x48, 0xff, 0x1f", "add rsp, 16";
    jmp_far: "lea rax, [rip + 2f]", "mov [rdi], rax", "mov qword ptr [rdi + 8], 0x2b", ".byte 0x48, 0xff, 0x2f",
        "2:", "mov eax, cs";
    jmp_far_ring0: "lea rax, [rip + 2f]", "mov [rdi], rax", "mov qword ptr [rdi + 8], 0x08",
        ".byte 0x48, 0xff, 0x2f", "2:", "mov eax, cs";
    jmp_direct: ".byte 0xea, 0, 0, 0, 0, 0x2b, 0";
    int_42: "int 0x42";
    int_80: "int 0x80";
    ret_far: "push 0x2b", "lea rax, [rip + 2f]", "push rax", ".byte 0x48, 0xcb", "2:", "mov eax, cs";
    ret_far_ring0: "push 0x08", "lea rax, [rip + 2f]", "push rax", ".byte 0x48, 0xcb", "2:", "mov eax, cs";
    mov_from_seg: "mov eax, cs", "mov edx, ss", "mov ebx, ds", "mov esi, es";
    mov_to_ds: "mov ecx, 0x23", "mov ds, ecx", "mov eax, ds", "xor ecx, ecx", "mov ds, ecx";
    mov_to_ds_ring0: "mov ecx, 0x10", "mov ds, ecx";
    mov_to_cs: ".byte 0x8e, 0xc8";
}

// What long mode and later processors added.
snippets! {
    cpuid_vendor: "xor eax, eax", "xor ecx, ecx", "cpuid", "mov esi, ecx";
    cpuid_features: "mov eax, 1", "xor ecx, ecx", "cpuid", "mov esi, ecx";
    rdtsc: "lfence", "rdtsc", "shl rdx, 32", "or rax, rdx", "mov rbx, rax", "lfence", "rdtsc", "shl rdx, 32",
        "or rax, rdx", "sub rax, rbx";
    rdtscp: "rdtscp", "mov esi, ecx", "shl rdx, 32", "or rax, rdx", "mov rbx, rax", "rdtscp", "shl rdx, 32",
        "or rax, rdx", "sub rax, rbx";
    rdpid: ".byte 0xf3, 0x0f, 0xc7, 0xf8";
    rdpmc: "xor ecx, ecx", "rdpmc";
    rdpru: "xor ecx, ecx", ".byte 0x0f, 0x01, 0xfd";
    /// With a deadline that has passed.
    umwait: "xor eax, eax", "xor edx, edx", "xor ecx, ecx", ".byte 0xf2, 0x0f, 0xae, 0xf1";
    tpause: "xor eax, eax", "xor edx, edx", "xor ecx, ecx", ".byte 0x66, 0x0f, 0xae, 0xf1";
    mwaitx: "xor eax, eax", "xor ecx, ecx", "xor ebx, ebx", ".byte 0x0f, 0x01, 0xfb";
    xgetbv_0: "xor ecx, ecx", "xgetbv", "shl rdx, 32", "or rax, rdx";
    xgetbv_1: "mov ecx, 1", "xgetbv", "shl rdx, 32", "or rax, rdx";
    rdpkru: "xor ecx, ecx", ".byte 0x0f, 0x01, 0xee";
    wrpkru: "xor ecx, ecx", "xor eax, eax", "xor edx, edx", ".byte 0x0f, 0x01, 0xef";
    fs_base: "mov eax, 0x123450", "wrfsbase rax", "rdfsbase rbx", "xor eax, eax", "wrfsbase rax", "mov rax, rbx";
    gs_base: "rdgsbase rcx", "mov eax, 0x123450", "wrgsbase rax", "rdgsbase rax", "wrgsbase rcx";
    syscall: "mov eax, 0x7fff", "syscall";
    /// With DF, NT, AC and ID set at entry.
    syscall_flags: "pushfq", "or qword ptr [rsp], 0x244400", "popfq", "mov eax, 0x7fff", "syscall";
    sysenter: "xor eax, eax", "sysenter";
    iret: "mov rcx, rsp", "mov eax, ss", "push rax", "push rcx", "push 0x3002", "mov eax, cs", "push rax",
        "lea rax, [rip + 2f]", "push rax", "iretq", "2:", "pushfq", "pop rax";
    iret_ring0: "mov rcx, rsp", "push 0x10", "push rcx", "push 0x2", "push 0x08", "lea rax, [rip + 2f]", "push rax",
        "iretq", "2:", "nop";
    int3: "int3";
    icebp: ".byte 0xf1";
    into: ".byte 0xce";
    single_step: "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop";
    mov_ss_int3: "mov eax, ss", "mov ss, eax", "int3";
    alignment: "pushfq", "or qword ptr [rsp], 0x40000", "popfq", "mov rbx, [rdi + 1]", "pushfq", "pop rax";
    null_fs: "mov eax, 0x123450", "wrfsbase rax", "xor ecx, ecx", "mov fs, ecx", "rdfsbase rax", "wrfsbase rcx";
    null_gs: "rdgsbase rbx", "xor ecx, ecx", "mov gs, ecx", "rdgsbase rax", "wrgsbase rbx", "cmp rax, rbx", "setz dl",
        "movzx edx, dl", "xor ebx, ebx";
    clflush: "clflush [rdi]";
    clflushopt: ".byte 0x66, 0x0f, 0xae, 0x3f";
    clwb: ".byte 0x66, 0x0f, 0xae, 0x37";
    prefetch: "prefetcht0 [rdi]";
    clzero: "mov rax, rdi", ".byte 0x0f, 0x01, 0xfc";
    movnti: "xor eax, eax", "movnti [rdi], rax", "sfence";
    /// rdx is 1 when a number came.
    rdrand: "mov ecx, 100", "2:", "rdrand rax", "jc 3f", "dec ecx", "jnz 2b", "3:", "setc dl", "movzx edx, dl";
    rdseed: "mov ecx, 100", "2:", "rdseed rax", "jc 3f", "dec ecx", "jnz 2b", "3:", "setc dl", "movzx edx, dl";
    /// Begins a transaction and ends it; `xend` is an invalid opcode outside of one.
    xbegin: ".byte 0xc7, 0xf8, 0, 0, 0, 0", ".byte 0x0f, 0x01, 0xd5";
    enclu: "xor eax, eax", ".byte 0x0f, 0x01, 0xd7";
    senduipi: "xor eax, eax", ".byte 0xf3, 0x0f, 0xc7, 0xf0";
    ptwrite: ".byte 0xf3, 0x0f, 0xae, 0xe0";
    rdssp: "mov eax, 0x5a5a", ".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8";
    /// An address with one bit of what linear-address masking would ignore changed.
    masked_address: "mov rax, rdi", "btc rax, 62", "mov rax, [rax]";
    /// An address that only 57-bit linear addresses have.
    far_address: "mov eax, 1", "shl rax, 50", "mov rax, [rax]";
    null_ds: "xor eax, eax", "mov ds, eax", "mov qword ptr [rdi], 0x77", "mov rax, ds:[rdi]";
    /// The first word of the start info, in the kernel half.
    kernel_half: "movabs rax, 0xffff880000000000", "mov rax, [rax]", "mov edx, cs";
    /// The first word of the hypervisor's range.
    hypervisor_half: "movabs rax, 0xffff800000000000", "mov rax, [rax]";
}

// Privileged: they do trap.
snippets! {
    swapgs: "swapgs";
    sysret: "mov ecx, 0x1000", "mov r11d, 0x202", "sysretq";
    lgdt: "lgdt [rdi]";
    lidt: "lidt [rdi]";
    lldt: "xor eax, eax", "lldt ax";
    ltr: "mov eax, 0x30", "ltr ax";
    lmsw: "mov eax, 1", "lmsw ax";
    clts: "clts";
    mov_from_cr0: "mov rax, cr0";
    mov_from_cr2: "mov rax, cr2";
    mov_from_cr3: "mov rax, cr3";
    mov_from_cr4: "mov rax, cr4";
    mov_from_cr8: "mov rax, cr8";
    mov_to_cr0: "mov eax, 0x80010033", "mov cr0, rax";
    mov_to_cr3: "xor eax, eax", "mov cr3, rax";
    mov_to_cr4: "mov eax, 0x620", "mov cr4, rax";
    mov_to_cr8: "xor eax, eax", "mov cr8, rax";
    mov_from_dr: "mov rax, dr7";
    mov_to_dr: "mov eax, 0x400", "mov dr7, rax";
    rdmsr: "mov ecx, 0xc0000080", "rdmsr";
    wrmsr: "mov ecx, 0xc0000100", "xor eax, eax", "xor edx, edx", "wrmsr";
    invlpg: "invlpg [rdi]";
    invpcid: "xor eax, eax", ".byte 0x66, 0x0f, 0x38, 0x82, 0x07";
    invd: "invd";
    wbinvd: "wbinvd";
    hlt: "hlt";
    cli: "cli";
    sti: "sti";
    port_in: "mov edx, 0x3f8", "in al, dx";
    port_out: "mov edx, 0x3f8", "xor eax, eax", "out dx, al";
    port_ins: "mov edx, 0x3f8", "mov ecx, 1", "insb";
    port_outs: "mov edx, 0x3f8", "mov rsi, rdi", "outsb";
    xsetbv: "xor ecx, ecx", "mov eax, 7", "xor edx, edx", "xsetbv";
    monitor: "mov rax, rdi", "xor ecx, ecx", "xor edx, edx", ".byte 0x0f, 0x01, 0xc8";
    mwait: "xor eax, eax", "xor ecx, ecx", ".byte 0x0f, 0x01, 0xc9";
    stac: ".byte 0x0f, 0x01, 0xcb";
    rsm: ".byte 0x0f, 0xaa";
    vmcall: "xor eax, eax", ".byte 0x0f, 0x01, 0xc1";
}

// For the report itself.
snippets! {
    /// rax is the APIC id, rdx how many CPUs the package has.
    cpu: "mov eax, 1", "xor ecx, ecx", "cpuid", "mov eax, ebx", "shr eax, 24", "shr ebx, 16", "movzx edx, bl";
    /// What a busy neighbour leaves in the registers.
    disturb: "mov eax, 0x23", "mov fs, eax", "mov es, eax", "rdtsc", "movq xmm0, rax", "movq xmm7, rdx",
        "pushfq", "or qword ptr [rsp], 0x244000", "popfq", "fninit", "fldpi";
}
