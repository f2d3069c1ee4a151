//! The ABI of Xen for 64-bit paravirtual guests, as far as the Xen personality serves it.
//!
//! Numbers and layouts of an ABI that others made: facts, collected from Xen's public headers and from
//! what Linux 6.1 was seen to do. [`structure`] holds what lies in memory.

pub mod structure;

/// Calls, by their number in rax.
pub mod call {
    /// Declares the numbers, and their names.
    macro_rules! calls {
        ($($(#[doc = $doc:literal])* $name:ident = $value:literal, $text:literal;)*) => {
            $($(#[doc = $doc])* pub const $name: u64 = $value;)*

            /// The name of a call, if the number is one.
            #[must_use]
            pub const fn name(number: u64) -> Option<&'static str> {
                match number {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        };
    }

    calls! {
        /// Traps that the guest handles.
        SET_TRAP_TABLE = 0, "set_trap_table";
        /// Changes of page-table entries by machine address.
        MMU_UPDATE = 1, "mmu_update";
        /// The guest's descriptor table.
        SET_GDT = 2, "set_gdt";
        /// The kernel stack for entries from user mode.
        STACK_SWITCH = 3, "stack_switch";
        /// Event, failsafe and system-call handlers, three registers.
        SET_CALLBACKS = 4, "set_callbacks";
        /// CR0.TS.
        FPU_TASKSWITCH = 5, "fpu_taskswitch";
        /// Sets a debug register.
        SET_DEBUGREG = 8, "set_debugreg";
        /// Reads a debug register.
        GET_DEBUGREG = 9, "get_debugreg";
        /// Changes one descriptor by machine address.
        UPDATE_DESCRIPTOR = 10, "update_descriptor";
        /// The VM's memory: [`super::memory`].
        MEMORY_OP = 12, "memory_op";
        /// Several calls.
        MULTICALL = 13, "multicall";
        /// Changes the entry that maps a virtual address.
        UPDATE_VA_MAPPING = 14, "update_va_mapping";
        /// One-shot timer.
        SET_TIMER_OP = 15, "set_timer_op";
        /// Facts: [`super::version`].
        XEN_VERSION = 17, "xen_version";
        /// Bytes for the hypervisor's console.
        CONSOLE_IO = 18, "console_io";
        /// Grants: [`super::grant`].
        GRANT_TABLE_OP = 20, "grant_table_op";
        /// Services that a VM asks for: [`super::assist`].
        VM_ASSIST = 21, "vm_assist";
        /// The way back from a handler.
        IRET = 23, "iret";
        /// vCPUs: [`super::vcpu`].
        VCPU_OP = 24, "vcpu_op";
        /// Bases of FS and GS.
        SET_SEGMENT_BASE = 25, "set_segment_base";
        /// Pins, roots, flushes: [`super::mmuext`].
        MMUEXT_OP = 26, "mmuext_op";
        /// Yield, block, shut down: [`super::sched`].
        SCHED_OP = 29, "sched_op";
        /// Handlers by their kind: [`super::callback`].
        CALLBACK_OP = 30, "callback_op";
        /// Events: [`super::event`].
        EVENT_CHANNEL_OP = 32, "event_channel_op";
        /// I/O privilege: [`super::physdev`].
        PHYSDEV_OP = 33, "physdev_op";
    }

    /// One above the greatest number that has a place in a count.
    pub const END: u64 = 64;
}

/// Declares the error numbers.
macro_rules! errors {
    ($($(#[doc = $doc:literal])* $name:ident = $value:literal;)*) => {
        /// Why a call was refused. A guest gets the number negated.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i64)]
        pub enum Errno { $($(#[doc = $doc])* $name = $value,)* }

        impl Errno {
            /// What rax holds for it.
            #[must_use]
            #[expect(clippy::as_conversions, reason = "the number of a variant has no other form in const code")]
            pub const fn to_register(self) -> u64 {
                (self as i64).wrapping_neg().cast_unsigned()
            }
        }
    };
}

errors! {
    /// EPERM: it may not.
    NotPermitted = 1;
    /// ENOENT: there is no such thing.
    NotFound = 2;
    /// ESRCH: no such VM.
    NoDomain = 3;
    /// E2BIG: too long.
    TooLong = 7;
    /// EAGAIN: try again.
    Again = 11;
    /// ENOMEM: no memory left.
    NoMemory = 12;
    /// EACCES: the frame is used in a way that does not allow that.
    Access = 13;
    /// EFAULT: an address that cannot be read or written.
    Fault = 14;
    /// EBUSY: in use.
    Busy = 16;
    /// EEXIST: there is one already.
    Exists = 17;
    /// ENODEV: not that register.
    NoDevice = 19;
    /// EINVAL: wrong.
    Invalid = 22;
    /// ENOSPC: all are taken.
    NoSpace = 28;
    /// ENOSYS: no such call here.
    NotImplemented = 38;
    /// ENODATA: there is none.
    NoData = 61;
    /// EOPNOTSUPP: not offered.
    NotSupported = 95;
}

/// The caller itself, where a domain is named.
pub const DOMID_SELF: u16 = 0x7ff0;

/// Where the list "machine frame to guest frame" is shown, read only.
pub const M2P_START: u64 = 0xffff_8000_0000_0000;
/// Behind the greatest that list can be.
pub const M2P_END: u64 = 0xffff_8040_0000_0000;
/// Greatest machine frame number that has a place in the list.
pub const M2P_MAX_FRAME: u64 = 0x7_ffff_ffff;
/// The list's word for a frame that is nobody's or not the reader's.
pub const M2P_INVALID: u64 = u64::MAX;

/// Selectors of the reserved part of a guest's descriptor table.
pub mod selector {
    /// Entries that are the guest's own.
    pub const GUEST_ENTRIES: u16 = 7168;
    /// Frames of them.
    pub const GUEST_FRAMES: u16 = 14;
    /// 32-bit code.
    pub const CODE_32: u16 = 0xe023;
    /// Data and stack.
    pub const DATA: u16 = 0xe02b;
    /// 64-bit code.
    pub const CODE_64: u16 = 0xe033;
}

/// The version that is stated: 4.17, for which the facts were collected.
pub const VERSION: u64 = (4 << 16) | 17;

/// Leaves of `cpuid`.
pub mod cpuid {
    /// The first.
    pub const LEAF: u32 = 0x4000_0000;
    /// The last, from the first on.
    pub const LAST: u32 = 5;
    /// What the first has in EBX, ECX, EDX.
    pub const SIGNATURE: [[u8; 4]; 3] = [*b"XenV", *b"MMXe", *b"nVMM"];
    /// Leaf 2 ECX: `mmu_update` can keep accessed and dirty bits.
    pub const PRESERVES_AD: u32 = 1;
    /// Leaf 3 EAX: the time-stamp counter is not the machine's.
    pub const TSC_EMULATED: u32 = 1;
    /// Leaf 3 EAX: the machine's counter can be relied on.
    pub const TSC_RELIABLE: u32 = 2;
    /// Leaf 3 EBX: each read is answered by the hypervisor.
    pub const TSC_ALWAYS_EMULATED: u32 = 1;
    /// Leaf 3 EBX: none is.
    pub const TSC_NEVER_EMULATED: u32 = 2;
}

/// Sub-operations of `memory_op`, and where it keeps its progress.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod memory {
    pub const OPERATION_BITS: u32 = 6;
    pub const INCREASE_RESERVATION: u64 = 0;
    pub const DECREASE_RESERVATION: u64 = 1;
    pub const CURRENT_RESERVATION: u64 = 3;
    pub const MAXIMUM_RESERVATION: u64 = 4;
    pub const POPULATE_PHYSMAP: u64 = 6;
    pub const MEMORY_MAP: u64 = 9;
    pub const MACHINE_MEMORY_MAP: u64 = 10;
    pub const EXCHANGE: u64 = 11;
    pub const MACHPHYS_MAPPING: u64 = 12;
    pub const MAXIMUM_GPFN: u64 = 14;
}

/// Commands of `mmu_update`, in the low bits of an address.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod mmu {
    pub const COMMAND_MASK: u64 = 7;
    pub const NORMAL: u64 = 0;
    pub const MACHPHYS: u64 = 1;
    pub const PRESERVE_AD: u64 = 2;
    pub const NO_TRANSLATE: u64 = 3;
}

/// Flags of `update_va_mapping`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod uvm {
    pub const KIND_MASK: u64 = 3;
    pub const FLUSH: u64 = 1;
    pub const INVLPG: u64 = 2;
    pub const LOCAL: u64 = 0;
    pub const ALL: u64 = 4;
}

/// Commands of `mmuext_op`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod mmuext {
    pub const PIN_L1: u32 = 0;
    pub const PIN_L4: u32 = 3;
    pub const UNPIN: u32 = 4;
    pub const NEW_BASEPTR: u32 = 5;
    pub const TLB_FLUSH_LOCAL: u32 = 6;
    pub const INVLPG_LOCAL: u32 = 7;
    pub const TLB_FLUSH_MULTI: u32 = 8;
    pub const INVLPG_MULTI: u32 = 9;
    pub const TLB_FLUSH_ALL: u32 = 10;
    pub const INVLPG_ALL: u32 = 11;
    pub const FLUSH_CACHE: u32 = 12;
    pub const SET_LDT: u32 = 13;
    pub const NEW_USER_BASEPTR: u32 = 15;
    pub const CLEAR_PAGE: u32 = 16;
    pub const COPY_PAGE: u32 = 17;
    pub const FLUSH_CACHE_GLOBAL: u32 = 18;
    pub const MARK_SUPER: u32 = 19;
    pub const UNMARK_SUPER: u32 = 20;
}

/// Commands of `xen_version`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod version {
    pub const VERSION: u64 = 0;
    pub const EXTRA_VERSION: u64 = 1;
    pub const COMPILE_INFO: u64 = 2;
    pub const CAPABILITIES: u64 = 3;
    pub const CHANGE_SET: u64 = 4;
    pub const PLATFORM_PARAMETERS: u64 = 5;
    pub const GET_FEATURES: u64 = 6;
    pub const PAGE_SIZE: u64 = 7;
    pub const GUEST_HANDLE: u64 = 8;
    pub const COMMAND_LINE: u64 = 9;
    pub const BUILD_ID: u64 = 10;
    /// Features: `mmu_update` can keep accessed and dirty bits; grants keep available bits.
    pub const FEATURES: u32 = (1 << 5) | (1 << 7);
}

/// Commands and types of `vm_assist`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod assist {
    pub const ENABLE: u64 = 0;
    pub const DISABLE: u64 = 1;
    pub const WRITABLE_PAGETABLES: u64 = 2;
    pub const ARCHITECTURAL_IOPL: u64 = 4;
    pub const RUNSTATE_UPDATE_FLAG: u64 = 5;
    pub const M2P_STRICT: u64 = 32;
    /// All types that exist.
    pub const KNOWN: u64 = 0x3f | (1 << M2P_STRICT);
}

/// Commands of `vcpu_op`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod vcpu {
    pub const INITIALISE: u64 = 0;
    pub const UP: u64 = 1;
    pub const DOWN: u64 = 2;
    pub const IS_UP: u64 = 3;
    pub const GET_RUNSTATE: u64 = 4;
    pub const REGISTER_RUNSTATE: u64 = 5;
    pub const SET_PERIODIC_TIMER: u64 = 6;
    pub const STOP_PERIODIC_TIMER: u64 = 7;
    pub const SET_SINGLESHOT_TIMER: u64 = 8;
    pub const STOP_SINGLESHOT_TIMER: u64 = 9;
    pub const REGISTER_VCPU_INFO: u64 = 10;
    pub const SEND_NMI: u64 = 11;
    pub const GET_PHYSID: u64 = 12;
    pub const REGISTER_TIME_AREA: u64 = 13;
}

/// Which base `set_segment_base` sets.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod segment {
    pub const FS: u64 = 0;
    pub const GS_USER: u64 = 1;
    pub const GS_KERNEL: u64 = 2;
    pub const GS_USER_SELECTOR: u64 = 3;
}

/// Commands and reasons of `sched_op`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod sched {
    pub const YIELD: u64 = 0;
    pub const BLOCK: u64 = 1;
    pub const SHUTDOWN: u64 = 2;
    pub const POLL: u64 = 3;
    pub const SHUTDOWN_CODE: u64 = 5;
    /// Most ports of one poll.
    pub const POLL_PORTS: u32 = 128;
    pub const POWEROFF: u32 = 0;
    pub const REBOOT: u32 = 1;
    pub const SUSPEND: u32 = 2;
    pub const CRASH: u32 = 3;
    pub const WATCHDOG: u32 = 4;
}

/// Commands, types and flags of `callback_op`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod callback {
    pub const REGISTER: u64 = 0;
    pub const UNREGISTER: u64 = 1;
    pub const EVENT: u16 = 0;
    pub const FAILSAFE: u16 = 1;
    pub const SYSCALL: u16 = 2;
    pub const NMI: u16 = 4;
    pub const SYSCALL32: u16 = 7;
    pub const MASK_EVENTS: u16 = 1;
}

/// Commands and states of `event_channel_op`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod event {
    pub const BIND_INTERDOMAIN: u64 = 0;
    pub const BIND_VIRQ: u64 = 1;
    pub const BIND_PIRQ: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const SEND: u64 = 4;
    pub const STATUS: u64 = 5;
    pub const ALLOC_UNBOUND: u64 = 6;
    pub const BIND_IPI: u64 = 7;
    pub const BIND_VCPU: u64 = 8;
    pub const UNMASK: u64 = 9;
    pub const RESET: u64 = 10;
    /// Ports that a VM can have: 64 words of 64.
    pub const PORTS: u32 = 4096;
    pub const VIRQ_TIMER: u32 = 0;
    pub const VIRQ_DEBUG: u32 = 1;
    pub const VIRQ_XENOPROF: u32 = 7;
    pub const VIRQ_XENPMU: u32 = 13;
    pub const VIRQS: u32 = 24;
    pub const STATUS_CLOSED: u32 = 0;
    pub const STATUS_UNBOUND: u32 = 1;
    pub const STATUS_INTERDOMAIN: u32 = 2;
    pub const STATUS_PIRQ: u32 = 3;
    pub const STATUS_VIRQ: u32 = 4;
    pub const STATUS_IPI: u32 = 5;
}

/// Commands, flags and answers of `grant_table_op`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod grant {
    pub const MAP: u64 = 0;
    pub const UNMAP: u64 = 1;
    pub const SETUP_TABLE: u64 = 2;
    pub const COPY: u64 = 5;
    pub const QUERY_SIZE: u64 = 6;
    pub const SET_VERSION: u64 = 8;
    pub const GET_VERSION: u64 = 10;
    pub const PERMIT_ACCESS: u16 = 1;
    pub const KIND_MASK: u16 = 3;
    pub const READ_ONLY: u16 = 4;
    pub const READING: u16 = 8;
    pub const WRITING: u16 = 16;
    pub const MAP_DEVICE: u32 = 1;
    pub const MAP_HOST: u32 = 2;
    pub const MAP_READ_ONLY: u32 = 4;
    pub const MAP_APPLICATION: u32 = 8;
    pub const MAP_CONTAINS_PTE: u32 = 16;
    /// Where the bits begin that go to an entry's available bits.
    pub const MAP_AVAILABLE_SHIFT: u32 = 16;
    /// Entries of a frame of a table of version 1.
    pub const ENTRIES: u32 = 512;
    /// The version that is served.
    pub const VERSION: u32 = 1;
    pub const COPY_SOURCE_GRANT: u16 = 1;
    pub const COPY_TARGET_GRANT: u16 = 2;
    pub const OKAY: i16 = 0;
    pub const GENERAL_ERROR: i16 = -1;
    pub const BAD_DOMAIN: i16 = -2;
    pub const BAD_REFERENCE: i16 = -3;
    pub const BAD_HANDLE: i16 = -4;
    pub const BAD_ADDRESS: i16 = -5;
    pub const NO_SPACE: i16 = -7;
    pub const PERMISSION_DENIED: i16 = -8;
    pub const BAD_PAGE: i16 = -9;
    pub const BAD_COPY: i16 = -10;
}

/// Commands of `physdev_op`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod physdev {
    pub const SET_IOPL: u64 = 6;
    pub const SET_IOBITMAP: u64 = 7;
}

/// Types of the ELF notes by which a kernel says what it wants.
pub mod note {
    /// Who owns them.
    pub const OWNER: &[u8] = b"Xen";
    /// Where the first vCPU starts.
    pub const ENTRY: u32 = 1;
    /// The page of call stubs to fill.
    pub const HYPERCALL_PAGE: u32 = 2;
    /// Where guest frame 0 appears.
    pub const VIRT_BASE: u32 = 3;
    /// What is subtracted from the physical addresses of the ELF file.
    pub const PADDR_OFFSET: u32 = 4;
    /// Begins with [`VERSION`].
    pub const XEN_VERSION: u32 = 5;
    /// The kernel's name.
    pub const GUEST_OS: u32 = 6;
    /// Begins with [`GENERIC`].
    pub const LOADER: u32 = 8;
    /// Where the list of machine frames is to be mapped.
    pub const INIT_P2M: u32 = 15;
    /// Not 0 if the initial RAM disk may be left unmapped.
    pub const MOD_START_PFN: u32 = 16;
    /// The entry of guests that have their own page tables in hardware: not for us.
    pub const PHYS32_ENTRY: u32 = 18;
    /// The version of the interface.
    pub const VERSION: &[u8] = b"xen-3.0";
    /// The loader that needs nothing special.
    pub const GENERIC: &[u8] = b"generic";
    /// The kernel that may be silent about its loader.
    pub const LINUX: &[u8] = b"linux";
    /// The section that kernels without notes have instead: text `KEY=VALUE,...`.
    pub const LEGACY_SECTION: &[u8] = b"__xen_guest";
}

/// Commands of `console_io`.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod console {
    pub const WRITE: u64 = 0;
    pub const READ: u64 = 1;
}

/// Bits of a page-table entry that only this ABI gives a meaning.
pub mod entry {
    /// A page of the guest's kernel: its U bit was clear when the guest wrote it.
    pub const GUEST_KERNEL: u64 = 1 << 52;
}

/// Flags of a trap's entry.
pub mod trap {
    /// Which modes may raise it by an instruction: those of this level and above.
    pub const LEVEL: u8 = 3;
    /// Events are masked when its handler begins.
    pub const MASK_EVENTS: u8 = 4;
    /// The trap that a non-maskable interrupt is.
    pub const NMI: u8 = 2;
}

/// Flags of a vCPU that is started.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod context {
    pub const FPU_VALID: u64 = 1;
    pub const IN_KERNEL: u64 = 1 << 2;
    pub const FAILSAFE_MASKS_EVENTS: u64 = 1 << 3;
    pub const SYSCALL_MASKS_EVENTS: u64 = 1 << 4;
    /// Most entries of a local descriptor table.
    pub const LDT_ENTRIES: u64 = 8192;
}

/// Flag of an `iret`: the frame is of a system call, so rcx and r11 need not be restored.
pub const IN_SYSCALL: u64 = 1 << 8;

/// Flags of a start info.
#[expect(missing_docs, reason = "each is named as in Xen's headers; the personality's page explains them")]
pub mod start_flag {
    pub const MODULE_IS_FRAME: u32 = 8;
    pub const LINEAR_P2M: u32 = 16;
}

/// First bytes of a start info.
pub const START_MAGIC: &[u8; 14] = b"xen-3.0-x86_64";

/// The event port of a VM's console from its start.
pub const CONSOLE_PORT: u32 = 2;

/// Most bytes of a command line, without the zero behind it.
pub const COMMAND_LINE: usize = 1023;
