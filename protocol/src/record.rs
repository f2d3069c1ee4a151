//! What the hypervisor tells tools over its serial line, between the lines for people.
//!
//! A record is postcard in base64 within an ANSI "application program command"
//! (`ESC _ C ... ESC \`, ECMA-48 8.3.2), which terminals do not show: the line stays readable
//! without a tool. Fields are `Cow`, so that the hypervisor writes them without allocating.

use alloc::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::handle::{VcpuId, VmId};

/// Bytes before the base64 text of a record.
pub const PREFIX: &[u8] = b"\x1b_C";
/// Bytes after it.
pub const SUFFIX: &[u8] = b"\x1b\\";

/// Begins the hypervisor's line that says which VM, in brackets, has the console's input from now on.
pub const INPUT_LINE: &str = "the console's input goes to ";

/// Exit values written to QEMU's `isa-debug-exit` device; QEMU ends with `(value << 1) | 1`.
pub mod exit {
    /// Every VM ended well.
    pub const ALL_WELL: u32 = 0x10;
    /// At least one VM died or ended with a code other than 0.
    pub const VM_FAILED: u32 = 0x11;
    /// The hypervisor found a broken invariant of its own.
    pub const PANIC: u32 = 0x12;
    /// This machine cannot run the hypervisor, or the system image is damaged.
    pub const UNFIT: u32 = 0x13;
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// One defmt frame.
    Log(Log<'a>),
    /// The first guest instruction is about to run.
    Started(Started),
    /// A VM died.
    Crash(Crash<'a>),
    /// A VM ended by its own call.
    Ended(Ended),
    /// The bytes of an [`AuditRecord`](crate::shared::AuditRecord).
    Audit(Cow<'a, [u8]>),
}

/// A defmt frame of the hypervisor or of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log<'a> {
    /// The VM, or nothing for the hypervisor.
    pub source: Option<VmId>,
    /// Nanoseconds since the hypervisor started.
    pub time_ns: u64,
    /// Counts the frames of this source; a gap means lost frames.
    pub sequence: u32,
    /// The frame, in defmt's raw encoding.
    pub frame: Cow<'a, [u8]>,
}

/// Start-up is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// CPUs in use.
    pub cpus: u32,
    /// Nanoseconds from the hypervisor's first instruction that could read a clock.
    pub time_ns: u64,
}

/// A VM's own end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The VM.
    pub vm: VmId,
    /// Its exit code; 0 is well.
    pub code: u64,
    /// CPU time that it used.
    pub cpu_time_ns: u64,
}

/// Why and where a VM died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash<'a> {
    /// The VM.
    pub vm: VmId,
    /// The vCPU that was running.
    pub vcpu: VcpuId,
    /// Stable code, such as `HV-VM-003`.
    pub code: Cow<'a, str>,
    /// What happened, in a sentence.
    pub reason: Cow<'a, str>,
    /// Whether kernel or user mode ran.
    pub kernel_mode: bool,
    /// Exception vector, if an exception was the cause.
    pub vector: Option<u8>,
    /// Its error code.
    pub error_code: u64,
    /// The faulting address, for a page fault.
    pub fault_address: Option<u64>,
    /// Registers by name.
    pub registers: Cow<'a, [Register<'a>]>,
    /// Bytes at the instruction pointer, as far as they can be read.
    pub code_bytes: Cow<'a, [u8]>,
    /// Page walk of the faulting address (or of the instruction pointer): level 4 first.
    pub page_walk: Cow<'a, [WalkStep]>,
    /// The last calls of the vCPU, newest first.
    pub last_calls: Cow<'a, [CallTrace]>,
}

/// One register with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register<'a> {
    /// Name in lower case.
    pub name: Cow<'a, str>,
    /// Value.
    pub value: u64,
}

/// One level of a page walk, without any machine frame number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkStep {
    /// 4 for the top level.
    pub level: u8,
    /// Index in the table.
    pub index: u16,
    /// Flag bits of the entry: bits 0..12 and 63, frame number removed.
    pub flags: u64,
}

/// One remembered hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallTrace {
    /// Call number as the guest gave it.
    pub number: u64,
    /// First two arguments.
    pub arguments: [u64; 2],
    /// What rax held afterwards.
    pub result: u64,
}
