//! Structures in memory that guest and hypervisor both touch. Layouts are fixed: sizes and offsets
//! are asserted below and golden bytes stand in the tests.

#![expect(
    missing_debug_implementations,
    reason = "zerocopy's derive makes hidden types without it; every structure here derives it"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::limit;

/// Declares shared structures: plain integers only, no padding, every size asserted.
macro_rules! shared {
    ($($(#[doc = $doc:literal])* $name:ident [$size:literal] {
        $($(#[doc = $fdoc:literal])* $field:ident: $Field:ty,)*
    })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
            #[repr(C)]
            pub struct $name { $($(#[doc = $fdoc])* pub $field: $Field,)* }

            const _: () = assert!(size_of::<$name>() == $size);

            impl Default for $name {
                fn default() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }
        )*

        /// Every shared structure with its size and its fields (name, type, offset), for the
        /// reference and the C header.
        pub const STRUCTURES: &[StructureInfo] = &[$(StructureInfo {
            name: stringify!($name),
            doc: concat!($($doc, "\n",)*),
            size: $size,
            fields: &[$(FieldInfo {
                name: stringify!($field),
                doc: concat!($($fdoc, "\n",)*),
                kind: stringify!($Field),
                offset: core::mem::offset_of!($name, $field),
            },)*],
        },)*];
    };
}

/// Describes one shared structure.
#[derive(Debug, Clone, Copy)]
pub struct StructureInfo {
    /// Rust name.
    pub name: &'static str,
    /// Documentation.
    pub doc: &'static str,
    /// Bytes.
    pub size: usize,
    /// Fields in order.
    pub fields: &'static [FieldInfo],
}

/// Describes one field of a shared structure.
#[derive(Debug, Clone, Copy)]
pub struct FieldInfo {
    /// Name.
    pub name: &'static str,
    /// Documentation.
    pub doc: &'static str,
    /// Rust type as written.
    pub kind: &'static str,
    /// Bytes from the start.
    pub offset: usize,
}

shared! {
    /// What the hypervisor writes on the kernel stack when it enters a handler, and what `resume`
    /// takes back. A handler starts with the stack pointer at this frame, which is 16-byte aligned,
    /// and with all registers as they were but rax, rcx and r11, whose values stand in the frame
    /// (their contents at entry are unspecified).
    TrapFrame [80] {
        /// rax of the interrupted code.
        rax: u64,
        /// rcx of the interrupted code (after `syscall`, its return address).
        rcx: u64,
        /// r11 of the interrupted code (after `syscall`, its flags).
        r11: u64,
        /// Where the code goes on.
        rip: u64,
        /// Its flags. `resume` takes the arithmetic flags, DF, TF, AC and ID and ignores the rest.
        rflags: u64,
        /// Its stack pointer.
        rsp: u64,
        /// The vector in bits 0..8, and the bits of [`frame_info`].
        info: u64,
        /// The architecture's error code, or 0.
        error_code: u64,
        /// The faulting address of a page fault, or 0.
        address: u64,
        /// Zero.
        reserved: u64,
    }

    /// One entry of a trap table.
    TrapEntry [16] {
        /// Exception vector, below 32. 2, 8 and 18 belong to the hypervisor and are refused.
        vector: u32,
        /// Zero.
        flags: u32,
        /// Handler, in the kernel half; 0 removes the entry.
        handler: u64,
    }

    /// The page that a vCPU and the hypervisor share. Only the fields that say so are written by
    /// the guest; what it writes elsewhere changes nothing but its own view.
    VcpuPage [112] {
        /// A bit per port: the event happened and was not taken yet. The hypervisor sets bits
        /// atomically, the guest clears them atomically.
        pending: [u64; 4],
        /// A bit per port: pending does not lead to an upcall. Written by the guest. To unmask a port tells
        /// nobody: the guest clears the bit by a locked instruction, then looks at `pending`, and sets
        /// `events_pending` itself if the port's bit is there.
        masked: [u64; 4],
        /// Not 0: no upcalls. Entering any handler sets it, `resume` restores it. Written by both.
        events_masked: u32,
        /// Set to 1 after any unmasked bit of `pending`; the guest clears it before it looks at
        /// `pending`. A guest that unmasks looks here, and calls `event_deliver` (or handles the
        /// events itself) when it is 1.
        events_pending: u32,
        /// Stack pointer for handlers entered from user mode, 16-byte aligned. Written by the guest.
        kernel_stack: u64,
        /// The vCPU's number.
        vcpu: u32,
        /// Zero.
        reserved: u32,
        /// Nanoseconds that the vCPU has run, as of the last time it started to run.
        run_time_ns: u64,
        /// Nanoseconds that it was ready but waited for a CPU, likewise.
        steal_time_ns: u64,
        /// Number of times that it was given a CPU.
        switches: u64,
    }

    /// How to read time without a call: read `version` until it is even, read the rest and the
    /// TSC, and start over if `version` changed.
    /// `time = time_base_ns + ((tsc - tsc_base) * multiplier >> 32)`, with a 128-bit product.
    /// A multiplier of 0 says that the VM's time is coarse: the TSC cannot be read, and the time is
    /// `time_base_ns`, a multiple of 1 ms that the hypervisor advances while a vCPU runs. Deadlines are
    /// then kept to the step: what is armed for a time between two steps comes at the second.
    TimePage [40] {
        /// Odd while the hypervisor writes.
        version: u32,
        /// Zero.
        reserved: u32,
        /// TSC at the base.
        tsc_base: u64,
        /// Nanoseconds per TSC tick as a 32.32 fixed-point number; 0 for coarse time.
        multiplier: u64,
        /// VM time at the base in nanoseconds.
        time_base_ns: u64,
        /// Wall-clock nanoseconds since 1970 at VM time 0; 0 when unknown.
        wall_base_ns: u64,
    }

    /// What a VM is told at its start, at [`crate::layout::START_INFO`] (also in rdi).
    StartInfo [1440] {
        /// [`START_MAGIC`].
        magic: u64,
        /// Wire version of the hypervisor, packed.
        version: u64,
        /// Number of this VM.
        vm: u32,
        /// Number of its vCPUs.
        vcpus: u32,
        /// Guest frames; the physmap covers them all.
        memory_frames: u64,
        /// The first frame that holds nothing yet: all from here on are the kernel's to use.
        first_free_frame: u64,
        /// Features word.
        features: u64,
        /// Name of the VM, zero-terminated.
        name: [u8; 32],
        /// Command line, zero-terminated.
        command_line: [u8; 264],
        /// Number of entries of `channels`.
        channel_count: u32,
        /// Number of entries of `modules`.
        module_count: u32,
        /// The channels.
        channels: [ChannelInfo; 8],
        /// The modules.
        modules: [ModuleInfo; 8],
        /// Zero.
        reserved: [u64; 8],
    }

    /// One end of a channel.
    ChannelInfo [80] {
        /// Name, zero-terminated.
        name: [u8; 32],
        /// Virtual address of the shared region in the kernel half.
        address: u64,
        /// First frame number of the region; it can be mapped elsewhere too.
        frame: u64,
        /// Frames of the region; 0 for a one-way channel: no region, and only side 0 sends events.
        frames: u64,
        /// The VM at the other end.
        peer: u32,
        /// 0 or 1: which side this is.
        side: u32,
        /// Zero.
        reserved: [u64; 2],
    }

    /// A file given to the VM.
    ModuleInfo [48] {
        /// Name, zero-terminated.
        name: [u8; 32],
        /// First frame number.
        frame: u64,
        /// Bytes.
        bytes: u64,
    }

    /// One entry of a memory batch.
    MemoryBatchEntry [40] {
        /// A [`crate::flags::MemoryOperation`].
        operation: u32,
        /// The space.
        space: u32,
        /// First virtual address.
        address: u64,
        /// First guest frame.
        frame: u64,
        /// Pages.
        count: u64,
        /// [`crate::flags::MapFlags`].
        flags: u64,
    }

    /// One entry of a batch of calls.
    BatchEntry [72] {
        /// Call number.
        number: u64,
        /// Arguments, in the order of the registers.
        arguments: [u64; 6],
        /// Written by the hypervisor: what rax would hold.
        result: u64,
        /// Written by the hypervisor: what rdx would hold, for calls with two results.
        second: u64,
    }

    /// What `cpuid` writes.
    CpuidResult [16] {
        /// EAX.
        eax: u32,
        /// EBX.
        ebx: u32,
        /// ECX.
        ecx: u32,
        /// EDX.
        edx: u32,
    }

    /// Head of one direction of a channel as the SDK uses it: bytes in a ring. Side 0 writes the
    /// ring in the first half of the region, side 1 the one in the second half.
    RingHeader [128] {
        /// Bytes written since the start, modulo 2^32. Written by the sender only.
        produced: u32,
        /// Not 0: the sender wants an event when room appears. Written by the sender only.
        sender_waits: u32,
        /// Zero, so that the two indices do not share a cache line.
        padding: [u32; 14],
        /// Bytes taken since the start, modulo 2^32. Written by the receiver only.
        consumed: u32,
        /// Not 0: the receiver wants an event when bytes arrive. Written by the receiver only.
        receiver_waits: u32,
        /// Zero.
        padding_end: [u32; 14],
    }

    /// One record of the audit log; see the page about it. 128 bytes, each with a meaning or zero.
    AuditRecord [128] {
        /// Counts records from 0, without a gap.
        sequence: u64,
        /// Nanoseconds since the hypervisor started.
        time_ns: u64,
        /// What happened: the number of an `AuditKind`.
        kind: u16,
        /// The policy's operation that it is about, or 0xffff.
        operation: u16,
        /// The CPU.
        cpu: u32,
        /// The VM that did it, or 0xffffffff for the hypervisor.
        subject: u32,
        /// How often the subject was restarted.
        generation: u32,
        /// The VM that it was done to, or 0xffffffff.
        object: u32,
        /// The status that the subject got, or 0.
        status: u32,
        /// What the kind says.
        operands: [u64; 2],
        /// How many events the record stands for.
        count: u64,
        /// Records of the subject lost since its last one, because its share was full.
        lost: u64,
        /// Zero.
        reserved: [u64; 3],
        /// SHA-256 of the record before.
        previous: [u8; 32],
    }
}

/// Bits of [`TrapFrame::info`] beside the vector.
pub mod frame_info {
    /// Mask of the vector.
    pub const VECTOR: u64 = 0xff;
    /// User mode was interrupted, or is to be resumed.
    pub const USER: u64 = 1 << 8;
    /// Events were masked before, or are to be masked after `resume`.
    pub const MASKED: u64 = 1 << 9;
}

/// Vectors of [`TrapFrame::info`] behind the architecture's 32.
pub mod vector {
    /// A system call from user mode.
    pub const SYSCALL: u64 = 32;
    /// The event upcall.
    pub const EVENT: u64 = 33;
}

/// The step of coarse time, in nanoseconds: those of the time page, of deadlines and of the times in
/// a [`VcpuPage`].
pub const COARSE_STEP_NS: u64 = 1_000_000;

/// First word of a [`StartInfo`].
pub const START_MAGIC: u64 = u64::from_le_bytes(*b"CLSTART1");

/// Flags that `resume` takes from a frame: CF PF AF ZF SF TF DF OF AC ID.
pub const RESUME_FLAGS: u64 =
    1 | (1 << 2) | (1 << 4) | (1 << 6) | (1 << 7) | (1 << 8) | (1 << 10) | (1 << 11) | (1 << 18) | (1 << 21);

const _: () = assert!(limit::CHANNELS == 8 && limit::MODULES == 8 && limit::PORTS == 256);
