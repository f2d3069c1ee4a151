//! What Xen's ABI has in memory. Sizes are asserted; offsets follow from C's rules, and padding is
//! written out.

#![expect(
    missing_debug_implementations,
    missing_docs,
    reason = "zerocopy's derive makes hidden types without it; fields are named as in Xen's headers"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares structures: plain integers, no padding, every size asserted.
macro_rules! structures {
    ($($(#[doc = $doc:literal])* $name:ident [$size:literal] { $($field:ident: $Field:ty,)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct $name { $(pub $field: $Field,)* }

        const _: () = assert!(size_of::<$name>() == $size);

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    )*};
}

structures! {
    /// What a guest is told at its start; rsi points to it.
    StartInfo [1168] {
        magic: [u8; 32],
        nr_pages: u64,
        shared_info: u64,
        flags: u32,
        pad0: u32,
        store_mfn: u64,
        store_evtchn: u32,
        pad1: u32,
        console_mfn: u64,
        console_evtchn: u32,
        pad2: u32,
        pt_base: u64,
        nr_pt_frames: u64,
        mfn_list: u64,
        mod_start: u64,
        mod_len: u64,
        cmd_line: [u8; 1024],
        first_p2m_pfn: u64,
        nr_p2m_frames: u64,
    }

    /// How a vCPU reads time.
    VcpuTimeInfo [32] {
        version: u32,
        pad0: u32,
        tsc_timestamp: u64,
        system_time: u64,
        tsc_to_system_mul: u32,
        tsc_shift: i8,
        flags: u8,
        pad1: [u8; 2],
    }

    /// What a vCPU shares with the hypervisor.
    VcpuInfo [64] {
        evtchn_upcall_pending: u8,
        evtchn_upcall_mask: u8,
        pad0: [u8; 6],
        evtchn_pending_sel: u64,
        cr2: u64,
        pad1: u64,
        time: VcpuTimeInfo,
    }

    /// What a VM shares with the hypervisor.
    SharedInfo [3136] {
        vcpu_info: [VcpuInfo; 32],
        evtchn_pending: [u64; 64],
        evtchn_mask: [u64; 64],
        wc_version: u32,
        wc_sec: u32,
        wc_nsec: u32,
        wc_sec_hi: u32,
        max_pfn: u64,
        pfn_to_mfn_frame_list_list: u64,
        nmi_reason: u64,
        p2m_cr3: u64,
        p2m_vaddr: u64,
        p2m_generation: u64,
    }

    /// One entry of `set_trap_table`.
    TrapInfo [16] {
        vector: u8,
        flags: u8,
        cs: u16,
        pad0: u32,
        address: u64,
    }

    /// One entry of `mmu_update`.
    MmuUpdate [16] {
        ptr: u64,
        val: u64,
    }

    /// One entry of `mmuext_op`.
    MmuextOp [24] {
        cmd: u32,
        pad0: u32,
        arg1: u64,
        arg2: u64,
    }

    /// One entry of `multicall`.
    MulticallEntry [64] {
        op: u64,
        result: u64,
        args: [u64; 6],
    }

    /// Argument of `memory_op`s about frames.
    MemoryReservation [32] {
        extent_start: u64,
        nr_extents: u64,
        extent_order: u32,
        mem_flags: u32,
        domid: u16,
        pad0: [u8; 6],
    }

    /// Argument of `memory_op` 9.
    MemoryMap [16] {
        nr_entries: u32,
        pad0: u32,
        buffer: u64,
    }

    /// Argument of `memory_op` 12.
    MachphysMapping [24] {
        v_start: u64,
        v_end: u64,
        max_mfn: u64,
    }

    /// Argument of `callback_op`.
    CallbackRegister [16] {
        kind: u16,
        flags: u16,
        pad0: u32,
        address: u64,
    }

    /// What the `iret` call finds at the stack pointer.
    IretFrame [72] {
        rax: u64,
        r11: u64,
        rcx: u64,
        flags: u64,
        rip: u64,
        cs: u64,
        rflags: u64,
        rsp: u64,
        ss: u64,
    }

    /// Registers of a vCPU that is started.
    UserRegisters [200] {
        r15: u64, r14: u64, r13: u64, r12: u64, rbp: u64, rbx: u64, r11: u64, r10: u64, r9: u64, r8: u64,
        rax: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64,
        error_code: u32,
        entry_vector: u32,
        rip: u64,
        cs: u16,
        pad0: u16,
        saved_upcall_mask: u8,
        pad1: [u8; 3],
        rflags: u64,
        rsp: u64,
        ss: u64,
        es: u64,
        ds: u64,
        fs: u64,
        gs: u64,
    }

    /// Everything of a vCPU that is started.
    VcpuGuestContext [5168] {
        fpu: [u8; 512],
        flags: u64,
        user_regs: UserRegisters,
        trap_ctxt: [TrapInfo; 256],
        ldt_base: u64,
        ldt_ents: u64,
        gdt_frames: [u64; 16],
        gdt_ents: u64,
        kernel_ss: u64,
        kernel_sp: u64,
        ctrlreg: [u64; 8],
        debugreg: [u64; 8],
        event_callback_eip: u64,
        failsafe_callback_eip: u64,
        syscall_callback_eip: u64,
        vm_assist: u64,
        fs_base: u64,
        gs_base_kernel: u64,
        gs_base_user: u64,
    }

    /// How much a vCPU ran and waited.
    RunstateInfo [48] {
        state: i32,
        pad0: u32,
        state_entry_time: u64,
        time: [u64; 4],
    }

    /// Argument of `vcpu_op` 10.
    RegisterVcpuInfo [16] {
        mfn: u64,
        offset: u32,
        pad0: u32,
    }

    /// Argument of `vcpu_op` 8.
    SetSingleshotTimer [16] {
        timeout_abs_ns: u64,
        flags: u32,
        pad0: u32,
    }

    /// Argument of `sched_op` 3.
    SchedPoll [24] {
        ports: u64,
        nr_ports: u32,
        pad0: u32,
        timeout: u64,
    }

    /// Argument of `event_channel_op` 0.
    BindInterdomain [12] {
        remote_dom: u16,
        pad0: u16,
        remote_port: u32,
        local_port: u32,
    }

    /// Argument of `event_channel_op` 1.
    BindVirq [12] {
        virq: u32,
        vcpu: u32,
        port: u32,
    }

    /// Argument of `event_channel_op` 5.
    EventStatus [24] {
        dom: u16,
        pad0: u16,
        port: u32,
        status: u32,
        vcpu: u32,
        detail: [u32; 2],
    }

    /// Argument of `event_channel_op` 6.
    AllocUnbound [8] {
        dom: u16,
        remote_dom: u16,
        port: u32,
    }

    /// Argument of `event_channel_op` 7 (vCPU and port) and 8 (port and vCPU).
    TwoNumbers [8] {
        first: u32,
        second: u32,
    }

    /// Argument of `grant_table_op` 0.
    GrantMap [32] {
        host_addr: u64,
        flags: u32,
        reference: u32,
        dom: u16,
        status: i16,
        handle: u32,
        dev_bus_addr: u64,
    }

    /// Argument of `grant_table_op` 1.
    GrantUnmap [24] {
        host_addr: u64,
        dev_bus_addr: u64,
        handle: u32,
        status: i16,
        pad0: u16,
    }

    /// Argument of `grant_table_op` 2.
    GrantSetupTable [24] {
        dom: u16,
        pad0: u16,
        nr_frames: u32,
        status: i16,
        pad1: [u8; 6],
        frame_list: u64,
    }

    /// One side of a `grant_table_op` 5: a grant or a frame.
    GrantCopySide [16] {
        place: u64,
        domid: u16,
        offset: u16,
        pad0: u32,
    }

    /// Argument of `grant_table_op` 5.
    GrantCopy [40] {
        source: GrantCopySide,
        dest: GrantCopySide,
        len: u16,
        flags: u16,
        status: i16,
        pad0: u16,
    }

    /// Argument of `grant_table_op` 6.
    GrantQuerySize [16] {
        dom: u16,
        pad0: u16,
        nr_frames: u32,
        max_nr_frames: u32,
        status: i16,
        pad1: u16,
    }

    /// Argument of `grant_table_op` 10.
    GrantGetVersion [8] {
        dom: u16,
        pad0: u16,
        version: u32,
    }

    /// One entry of a grant table, version 1.
    GrantEntry [8] {
        flags: u16,
        domid: u16,
        frame: u32,
    }

    /// The console's rings.
    ConsoleRing [3088] {
        input: [u8; 1024],
        output: [u8; 2048],
        in_cons: u32,
        in_prod: u32,
        out_cons: u32,
        out_prod: u32,
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(StartInfo, cmd_line) == 128);
    assert!(offset_of!(SharedInfo, evtchn_pending) == 2048 && offset_of!(SharedInfo, wc_version) == 3072);
    assert!(offset_of!(VcpuGuestContext, trap_ctxt) == 720 && offset_of!(VcpuGuestContext, gdt_frames) == 4832);
    assert!(offset_of!(VcpuGuestContext, ctrlreg) == 4984 && offset_of!(VcpuGuestContext, vm_assist) == 5136);
    assert!(offset_of!(UserRegisters, rip) == 128 && offset_of!(UserRegisters, ss) == 160);
    assert!(offset_of!(VcpuTimeInfo, tsc_shift) == 28 && offset_of!(VcpuInfo, time) == 32);
};
