//! The table of hypercalls.
//!
//! A guest kernel executes `syscall` with the number in rax and arguments in rdi, rsi, rdx, r10, r8
//! and r9. rax returns a value (up to `i64::MAX`) or the negative of a [`Status`]; calls with two
//! results return the second in rdx. rcx and r11 are lost, every other register is kept. A
//! `syscall` in user mode goes to the guest kernel instead.
//!
//! Every call is bounded: one that could take long does part of its work and says how much, or
//! answers [`Status::Retry`] having kept its progress. A refused call has changed nothing, unless its
//! page says otherwise.

use crate::flags::{CopyDirection, EventSource, GrantFlags, InfoTopic, IoWidth, MapFlags, SegmentBase};
use crate::handle::{Gfn, GrantRef, GuestVirt, Nanos, Port, SpaceId, VcpuId, VmId};
use crate::status::Status;

/// The six argument registers in order: rdi, rsi, rdx, r10, r8, r9.
pub type Registers = [u64; 6];

/// A value in one argument register.
pub trait Argument: Sized {
    /// The type's name in the C header.
    const C_TYPE: &'static str;
    /// The value of a register.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when the register holds no such value.
    fn decode(register: u64) -> Result<Self, Status>;
    /// The register of a value.
    fn encode(self) -> u64;
}

/// What a call returns.
pub trait Reply: Sized {
    /// How many of rax and rdx carry results.
    const REGISTERS: usize;
    /// rax and rdx. rax is at most [`crate::status::MAX_VALUE`].
    fn encode(self) -> (u64, u64);
    /// The reply of rax and rdx.
    fn decode(rax: u64, rdx: u64) -> Self;
}

/// One call as a type: its number, arguments and result.
pub trait Call: Copy {
    /// Number in rax.
    const NUMBER: u64;
    /// What it returns.
    type Output: Reply;
    /// Arguments as registers.
    fn encode(self) -> Registers;
    /// Arguments from registers.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when a register holds no value of its argument's type.
    fn decode(registers: Registers) -> Result<Self, Status>;
}

/// What a call may touch, and so what is asked before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Only the calling VM: nothing is asked.
    Own,
    /// Another VM: the policy is asked.
    Peer,
    /// A device: the VM's part of the system file is asked.
    Device,
    /// The system as a whole: the policy is asked for a role.
    System,
}

/// Describes a call, for the reference, the C header and the conformance suite.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo {
    /// Number.
    pub number: u64,
    /// Name in lower case.
    pub name: &'static str,
    /// Documentation.
    pub doc: &'static str,
    /// Arguments: name, Rust type, C type.
    pub arguments: &'static [(&'static str, &'static str, &'static str)],
    /// Rust type of the result.
    pub result: &'static str,
    /// Results in registers: 0, 1 or 2.
    pub result_registers: usize,
    /// Every status that the call can return beside [`Status::UnknownCall`].
    pub errors: &'static [Status],
    /// What it may touch.
    pub right: Right,
    /// First minor version of major 1 that has it.
    pub since_minor: u16,
    /// Whether it can stand in a batch.
    pub in_batch: bool,
    /// What is promised, clause by clause: id and text.
    pub clauses: &'static [(&'static str, &'static str)],
}

/// The calls, each declared once.
macro_rules! calls {
    ($(
        $(#[doc = $doc:literal])*
        $number:literal $name:ident $Type:ident ( $($(#[doc = $adoc:literal])* $arg:ident: $Arg:ty),* ) -> $Output:ty,
        $right:ident, $batch:ident,
        errors [$($error:ident)*],
        clauses { $($clause:literal: $text:literal,)* }
    )*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub struct $Type { $($(#[doc = $adoc])* pub $arg: $Arg,)* }

            impl Call for $Type {
                const NUMBER: u64 = $number;
                type Output = $Output;

                #[inline(always)]
                fn encode(self) -> Registers {
                    let mut registers = [0; 6];
                    let mut _slots = registers.iter_mut();
                    $(if let Some(slot) = _slots.next() { *slot = Argument::encode(self.$arg); })*
                    registers
                }

                #[inline(always)]
                fn decode(registers: Registers) -> Result<Self, Status> {
                    let mut _values = registers.into_iter();
                    Ok($Type { $($arg: <$Arg as Argument>::decode(_values.next().unwrap_or(0))?,)* })
                }
            }
        )*

        /// What a hypervisor must implement: one method a call. A forgotten one does not compile.
        pub trait Handler {
            /// Why a call is refused: a status for the guest, or something that stops it.
            type Refusal: From<Status>;
            $(
                $(#[doc = $doc])*
                ///
                /// # Errors
                /// Those of the call's page.
                fn $name(&mut self, call: $Type) -> Result<$Output, Self::Refusal>;
            )*
        }

        /// Decodes a call from registers and has it handled; rax and rdx of the reply. rdx is only
        /// meant for the guest when the call has two results: see [`has_second_result`].
        ///
        /// # Errors
        /// The handler's refusal, or [`Status::UnknownCall`] / [`Status::InvalidArgument`].
        #[inline(always)]
        pub fn dispatch<H: Handler>(handler: &mut H, number: u64, registers: Registers) -> Result<(u64, Option<u64>), H::Refusal> {
            match number {
                $($number => {
                    let reply = handler.$name(<$Type as Call>::decode(registers)?)?;
                    let (rax, rdx) = Reply::encode(reply);
                    Ok((rax, if <$Output as Reply>::REGISTERS > 1 { Some(rdx) } else { None }))
                })*
                _ => Err(Status::UnknownCall.into()),
            }
        }

        /// Every call, by ascending number.
        pub const CALLS: &[CallInfo] = &[$(CallInfo {
            number: $number,
            name: stringify!($name),
            doc: concat!($($doc, "\n",)*),
            arguments: &[$((stringify!($arg), stringify!($Arg), <$Arg as Argument>::C_TYPE),)*],
            result: stringify!($Output),
            result_registers: <$Output as Reply>::REGISTERS,
            errors: &[$(Status::$error,)*],
            right: Right::$right,
            since_minor: 0,
            in_batch: matches!(stringify!($batch).as_bytes(), b"batch"),
            clauses: &[$(($clause, $text),)*],
        },)*];
    };
}

calls! {
    /// Tells one fact about the hypervisor or the caller. The cheapest call.
    0 info Info(
        /// What to tell.
        topic: InfoTopic
    ) -> u64, Own, batch,
    errors [InvalidArgument],
    clauses {
        "INFO-1": "Each topic returns the value that its description names.",
        "INFO-2": "A topic outside the list is InvalidArgument.",
    }

    /// Writes bytes to the VM's console. Complete lines appear with the VM's name in front.
    1 console_write ConsoleWrite(
        /// Bytes to write.
        buffer: GuestVirt,
        /// How many, at most 1024.
        length: u64
    ) -> u64, Own, batch,
    errors [BadAddress TooLong Retry],
    clauses {
        "CON-1": "Returns how many bytes were taken, from the start of the buffer; 0 only for length 0.",
        "CON-2": "Answers Retry when the console cannot take any byte now.",
        "CON-3": "A length over the limit is TooLong and writes nothing.",
    }

    /// Reads bytes that were typed for this VM.
    2 console_read ConsoleRead(
        /// Where to put them.
        buffer: GuestVirt,
        /// How many at most, up to 1024.
        length: u64
    ) -> u64, Own, batch,
    errors [BadAddress TooLong],
    clauses {
        "CON-4": "Returns how many bytes were put; 0 when none wait.",
        "CON-5": "Bytes are delivered once, in order; a buffer that cannot be written loses none.",
    }

    /// Hands over one defmt frame, to be decoded with the kernel's ELF file.
    3 log_write LogWrite(
        /// The frame in raw encoding.
        buffer: GuestVirt,
        /// Its bytes, at most 1024.
        length: u64
    ) -> (), Own, batch,
    errors [BadAddress TooLong],
    clauses {
        "LOG-1": "Never waits: a frame that finds no room is dropped and the gap shows in its sequence.",
    }

    /// Reads records of the audit log that were not read before. Needs the role of an auditor. What was
    /// overwritten before it was read is passed over, which the sequence shows.
    4 audit_read AuditRead(
        /// Where to put them: an array of `AuditRecord`.
        buffer: GuestVirt,
        /// How many at most, up to 32.
        count: u64
    ) -> u64, System, batch,
    errors [NotPermitted TooLong BadAddress],
    clauses {
        "AUD-1": "Returns how many records were put, oldest first; 0 when none is new.",
        "AUD-2": "A VM without the role of an auditor gets NotPermitted, whatever else it asks.",
        "AUD-3": "A record is returned once; a buffer that cannot be written loses none.",
    }

    /// Gives the CPU to another ready vCPU, if there is one.
    8 yield_cpu YieldCpu() -> (), Own, alone,
    errors [NotInBatch],
    clauses {
        "SCH-1": "Returns when the vCPU is chosen again; at once when no other is ready.",
    }

    /// Sleeps until an event is pending for this vCPU, it is kicked, or a deadline passes.
    9 block Block(
        /// When to wake at the latest; `Nanos::NEVER` for never.
        deadline: Nanos
    ) -> (), Own, alone,
    errors [NotInBatch],
    clauses {
        "SCH-2": "Returns at once when an unmasked port is pending, whether or not upcalls are masked; an event that was taken ends no later sleep.",
        "SCH-3": "A deadline in the past returns at once.",
    }

    /// Ends the VM.
    10 exit Exit(
        /// 0 for success; the runner reports anything else as a failure.
        code: u64
    ) -> (), Own, alone,
    errors [NotInBatch],
    clauses {
        "SCH-4": "Does not return. All vCPUs of the VM stop and its console lines are flushed.",
    }

    /// Starts a stopped vCPU of the VM, in kernel mode, with events masked, in the caller's current space.
    11 vcpu_start VcpuStart(
        /// Which.
        vcpu: VcpuId,
        /// First instruction, in the kernel half.
        entry: GuestVirt,
        /// Its stack pointer, in the kernel half.
        stack: GuestVirt,
        /// Its rdi.
        argument: u64
    ) -> (), Own, batch,
    errors [InvalidArgument NotFound BadAddress WrongState],
    clauses {
        "SCH-5": "The started vCPU has the caller's trap table and entry points; its other registers are zero.",
        "SCH-6": "A vCPU that is not stopped is WrongState, also one that is about to stop.",
    }

    /// Stops a vCPU of the VM. The caller may name itself; then the call does not return.
    12 vcpu_stop VcpuStop(
        /// Which.
        vcpu: VcpuId
    ) -> (), Own, alone,
    errors [InvalidArgument NotFound WrongState NotInBatch],
    clauses {
        "SCH-7": "The vCPU executes nothing more from when the call returns; it can be started afresh.",
        "SCH-8": "A vCPU that is stopped already is WrongState; one that is about to stop is waited for.",
    }

    /// Wakes a vCPU of the VM from `block`, or makes its next `block` return at once.
    13 vcpu_kick VcpuKick(
        /// Which.
        vcpu: VcpuId
    ) -> (), Own, batch,
    errors [InvalidArgument NotFound WrongState],
    clauses {
        "SCH-9": "A kick of a vCPU that does not sleep ends its next `block` at once, however much later; several are as one.",
        "SCH-10": "Kicking a stopped vCPU is WrongState; to one that is about to stop a kick does nothing.",
    }

    /// Arms the calling vCPU's one-shot timer; the port bound to it becomes pending at the deadline.
    14 timer_set TimerSet(
        /// VM time in nanoseconds; `Nanos::NEVER` disarms.
        deadline: Nanos
    ) -> (), Own, batch,
    errors [],
    clauses {
        "TIM-1": "Replaces the deadline that was armed before.",
        "TIM-2": "A deadline in the past fires at once; never before the deadline.",
    }

    /// Installs exception handlers of the calling vCPU.
    16 trap_table_set TrapTableSet(
        /// Array of `TrapEntry`.
        table: GuestVirt,
        /// Entries, at most 32.
        count: u64
    ) -> (), Own, batch,
    errors [BadAddress InvalidArgument TooLong],
    clauses {
        "TRP-1": "Entries that are not named keep their handler; handler 0 removes one.",
        "TRP-2": "Either all entries are installed or none.",
        "TRP-3": "An exception without a handler ends the VM with a report.",
    }

    /// Sets where system calls of user mode and event upcalls enter the kernel, for the calling vCPU.
    17 entry_points_set EntryPointsSet(
        /// Entry for system calls from user mode, in the kernel half; 0 for none.
        syscall: GuestVirt,
        /// Entry for events, in the kernel half; 0 for none.
        event: GuestVirt
    ) -> (), Own, batch,
    errors [BadAddress],
    clauses {
        "TRP-4": "Without an event entry, events stay pending; `block` still sees them.",
        "TRP-5": "A system call from user mode without an entry ends the VM with a report.",
    }

    /// Goes on with the code that the `TrapFrame` at rsp describes.
    18 resume Resume() -> (), Own, alone,
    errors [BadAddress NotInBatch],
    clauses {
        "TRP-6": "rax, rcx, r11, rip, rsp and the flags of `RESUME_FLAGS` come from the frame; all other registers stay.",
        "TRP-7": "If the frame unmasks events and one is pending, its upcall comes first, with this frame's state as the interrupted one.",
        "TRP-8": "A frame that cannot be read, or a rip or rsp outside the guest's ranges (outside the lower half for user mode), is BadAddress in rax, and the vCPU goes on behind the call.",
    }

    /// Delivers pending events to the event entry now, as if one had just arrived.
    19 event_deliver EventDeliver() -> (), Own, alone,
    errors [NotInBatch],
    clauses {
        "EVT-1": "With events unmasked and one pending, the event entry runs and its `resume` comes back behind this call; otherwise the call just returns.",
    }

    /// Sets a segment base.
    20 segment_base_set SegmentBaseSet(
        /// Which.
        base: SegmentBase,
        /// Canonical address.
        address: u64
    ) -> (), Own, batch,
    errors [InvalidArgument],
    clauses {
        "SEG-1": "The base is in force when the call returns (GS of the other mode: when that mode is entered).",
        "SEG-2": "A non-canonical address is InvalidArgument.",
    }

    /// Reads a segment base.
    21 segment_base_get SegmentBaseGet(
        /// Which.
        base: SegmentBase
    ) -> Pair, Own, batch,
    errors [InvalidArgument],
    clauses {
        "SEG-3": "Returns 0 in rax and the base in rdx, also when the guest changed it without a call.",
    }

    /// Sets a debug register of the calling vCPU.
    22 debug_register_set DebugRegisterSet(
        /// 0 to 3, 6 or 7.
        index: u64,
        /// Its value: a guest address for 0 to 3.
        value: u64
    ) -> (), Own, batch,
    errors [InvalidArgument NotPermitted],
    clauses {
        "DBG-1": "An address outside the guest's ranges, a reserved bit, general detect or an I/O breakpoint is InvalidArgument.",
        "DBG-2": "A hit is delivered as exception 1; none is taken inside the hypervisor.",
        "DBG-4": "A VM whose policy gives it no debug registers gets NotPermitted, whatever the arguments.",
    }

    /// Reads a debug register of the calling vCPU.
    23 debug_register_get DebugRegisterGet(
        /// 0 to 3, 6 or 7.
        index: u64
    ) -> Pair, Own, batch,
    errors [InvalidArgument NotPermitted],
    clauses {
        "DBG-3": "Returns 0 in rax and the value in rdx.",
        "DBG-5": "A VM whose policy gives it no debug registers gets NotPermitted, whatever the index.",
    }

    /// Answers the `cpuid` instruction from the VM's policy.
    24 cpuid Cpuid(
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
        /// Where to write a `CpuidResult`.
        result: GuestVirt
    ) -> (), Own, batch,
    errors [InvalidArgument BadAddress],
    clauses {
        "CPU-1": "The answer is the same on every CPU and shows only features that the guest can use.",
    }

    /// Reads an I/O port that the system file gives to the VM.
    25 io_read IoRead(
        /// The first port.
        port: u32,
        /// How many ports at once.
        width: IoWidth
    ) -> u64, Device, batch,
    errors [InvalidArgument NotPermitted],
    clauses {
        "IO-1": "Returns what the device answers in as many bits as the width has; the bits above are 0.",
        "IO-2": "An access of which any port is not the VM's, or that two of its ranges share, is NotPermitted, whether or not a device is there, and no device sees it.",
        "IO-3": "A width other than 1, 2 and 4 is InvalidArgument.",
    }

    /// Writes an I/O port that the system file gives to the VM.
    26 io_write IoWrite(
        /// The first port.
        port: u32,
        /// How many ports at once.
        width: IoWidth,
        /// What to write.
        value: u32
    ) -> (), Device, batch,
    errors [InvalidArgument NotPermitted],
    clauses {
        "IO-4": "An access that IO-2 is about is NotPermitted, whatever the value.",
        "IO-5": "A value that has more bits than the width is InvalidArgument.",
        "IO-6": "A refused write reaches no device.",
    }

    /// Creates an address space: an empty lower half under the VM's kernel half.
    32 space_create SpaceCreate() -> SpaceId, Own, batch,
    errors [QuotaExceeded],
    clauses {
        "SPC-1": "The kernel half is the same as in every other space, from the start.",
        "SPC-2": "QuotaExceeded when 64 spaces exist or the pool is empty.",
    }

    /// Destroys a space and gives its tables back to the pool.
    33 space_destroy SpaceDestroy(
        /// Which; not space 0.
        space: SpaceId
    ) -> (), Own, alone,
    errors [InvalidArgument NotFound Busy Retry NotInBatch],
    clauses {
        "SPC-3": "A space that some vCPU runs in, and space 0, are Busy.",
        "SPC-4": "Retry means that part was done: the space is empty in parts and can only be destroyed.",
    }

    /// Makes a space the current one of the calling vCPU.
    34 space_switch SpaceSwitch(
        /// Which.
        space: SpaceId
    ) -> (), Own, batch,
    errors [InvalidArgument NotFound],
    clauses {
        "SPC-5": "The lower half is the other space's when the call returns.",
    }

    /// Maps consecutive frames at consecutive pages.
    35 map Map(
        /// The space; for the kernel half any space stands for all.
        space: SpaceId,
        /// First page, aligned.
        address: GuestVirt,
        /// First frame.
        frame: Gfn,
        /// Pages of the size in use, at most 512 small pages or 1 large page.
        count: u64,
        /// How they are mapped.
        flags: MapFlags
    ) -> u64, Own, batch,
    errors [NotFound BadAddress InvalidArgument Misaligned TooLong AlreadyMapped QuotaExceeded NotPermitted],
    clauses {
        "MAP-1": "Returns how many pages were mapped, from the first on; fewer than asked when a later page is refused.",
        "MAP-2": "The status of the first page is returned when none was mapped.",
        "MAP-3": "A frame number beyond the VM's memory, or of a released frame, is InvalidArgument.",
        "MAP-4": "Count 0 maps nothing and returns 0.",
        "MAP-5": "The time page and channel frames can be mapped; the time page never for writing (NotPermitted).",
        "MAP-6": "Frames of a large page that do not lie together in machine memory are InvalidArgument.",
    }

    /// Takes consecutive pages out of a space.
    36 unmap Unmap(
        /// The space.
        space: SpaceId,
        /// First page, aligned.
        address: GuestVirt,
        /// Small pages, at most 512; a large page counts 512 and is taken whole.
        count: u64
    ) -> u64, Own, batch,
    errors [InvalidArgument NotFound BadAddress TooLong Misaligned NotMapped Busy],
    clauses {
        "MAP-7": "Returns how many small pages were covered; stops at the first that is not mapped.",
        "MAP-8": "When it returns, no CPU of the VM can reach the frames through these addresses.",
        "MAP-9": "A page that a grant put there is Busy: `grant_unmap` takes it out.",
    }

    /// Changes how consecutive mapped pages may be used.
    37 protect Protect(
        /// The space.
        space: SpaceId,
        /// First page, aligned.
        address: GuestVirt,
        /// Small pages, at most 512; a large page counts 512 and is changed whole.
        count: u64,
        /// How they are mapped from now on; `LARGE` must agree with what is there.
        flags: MapFlags
    ) -> u64, Own, batch,
    errors [NotFound BadAddress TooLong Misaligned NotMapped Busy NotPermitted InvalidArgument],
    clauses {
        "MAP-10": "Returns how many small pages were covered; stops at the first that is refused.",
        "MAP-11": "When it returns, no CPU of the VM can use a right that was taken away.",
    }

    /// Does up to 64 map, unmap and protect operations.
    38 memory_batch MemoryBatch(
        /// Array of `MemoryBatchEntry`.
        entries: GuestVirt,
        /// Entries, at most 64.
        count: u64
    ) -> u64, Own, alone,
    errors [BadAddress TooLong NotInBatch NotFound InvalidArgument Misaligned AlreadyMapped QuotaExceeded NotPermitted NotMapped Busy],
    clauses {
        "MAP-12": "Returns how many entries were done wholly; it may stop early without a refusal, and is then called again for the rest.",
        "MAP-13": "The first entry's status is returned when it was not done wholly.",
    }

    /// Looks up which frame a page shows.
    39 translate Translate(
        /// The space.
        space: SpaceId,
        /// Any address in the page.
        address: GuestVirt
    ) -> Pair, Own, batch,
    errors [InvalidArgument NotFound BadAddress NotMapped],
    clauses {
        "MAP-14": "Returns the guest frame number in rax and the page's `MapFlags` in rdx.",
        "MAP-15": "A page that a grant put there has no frame number of the caller: NotPermitted is not said, its number is the grant's with bit 62 set.",
    }

    /// Gives frames back: their contents are lost and their memory goes to the VM's pool.
    40 frame_release FrameRelease(
        /// First frame.
        frame: Gfn,
        /// Frames, at most 64.
        count: u64
    ) -> u64, Own, batch,
    errors [InvalidArgument TooLong Busy],
    clauses {
        "FRM-1": "Returns how many were released; stops at the first that is refused.",
        "FRM-2": "A frame that is mapped anywhere, granted or shared is Busy.",
    }

    /// Fills released frames again with zeroed memory from the VM's pool.
    41 frame_reclaim FrameReclaim(
        /// First frame.
        frame: Gfn,
        /// Frames, at most 64.
        count: u64
    ) -> u64, Own, batch,
    errors [InvalidArgument TooLong QuotaExceeded AlreadyMapped],
    clauses {
        "FRM-3": "Returns how many were filled; each reads as zero.",
        "FRM-4": "A frame that was not released is AlreadyMapped.",
    }

    /// Takes a free port, for events that the VM's own vCPUs send.
    48 event_alloc EventAlloc(
        /// The vCPU that takes the events.
        vcpu: VcpuId
    ) -> Port, Own, batch,
    errors [InvalidArgument NotFound QuotaExceeded],
    clauses {
        "EVT-2": "The port is free of earlier pending state.",
    }

    /// Ties a port to a source and a vCPU.
    49 event_bind EventBind(
        /// The port.
        port: Port,
        /// What makes it pending.
        source: EventSource,
        /// Which of these sources: 0 for the console, a vCPU for timers, an index for channels.
        index: u64,
        /// The vCPU that takes the events.
        vcpu: VcpuId
    ) -> (), Own, batch,
    errors [NotFound InvalidArgument Busy],
    clauses {
        "EVT-3": "A source that another port is bound to is Busy.",
        "EVT-4": "A source that happened while nothing was bound makes the port pending at once.",
        "EVT-5": "A port can be bound anew; pending state moves to the new vCPU.",
    }

    /// Makes a port pending: the own port, or for a channel the peer's end.
    50 event_send EventSend(
        /// An own port.
        port: Port
    ) -> (), Peer, batch,
    errors [InvalidArgument NotFound NotPermitted],
    clauses {
        "EVT-6": "Sends before the receiver looks count once.",
        "EVT-7": "Sending to a channel whose peer is gone or has not bound its end succeeds and tells nothing.",
    }

    /// Frees a port.
    51 event_close EventClose(
        /// The port.
        port: Port
    ) -> (), Own, batch,
    errors [InvalidArgument NotFound],
    clauses {
        "EVT-8": "Its pending bit is cleared and its source is free to be bound.",
    }

    /// Lets another VM use one frame.
    56 grant_create GrantCreate(
        /// The VM that may use it.
        peer: VmId,
        /// The frame.
        frame: Gfn,
        /// How.
        flags: GrantFlags
    ) -> GrantRef, Peer, batch,
    errors [NotPermitted InvalidArgument QuotaExceeded],
    clauses {
        "GRT-1": "The frame cannot be released while granted.",
        "GRT-2": "A VM that does not exist, the caller itself, and one that policy keeps apart are all NotPermitted.",
        "GRT-3": "Only memory of the VM itself can be granted; time page and channel frames are InvalidArgument.",
    }

    /// Ends a grant, also while the peer has it mapped: then the peer's page is taken out.
    57 grant_revoke GrantRevoke(
        /// The grant.
        grant: GrantRef
    ) -> (), Own, batch,
    errors [InvalidArgument NotFound],
    clauses {
        "GRT-4": "When it returns, the peer cannot reach the frame by any means.",
    }

    /// Maps a frame that another VM granted to the caller.
    58 grant_map GrantMap(
        /// The VM that granted it.
        owner: VmId,
        /// Its grant.
        grant: GrantRef,
        /// The space to map in.
        space: SpaceId,
        /// The page.
        address: GuestVirt,
        /// How; `LARGE` and `EXECUTE` are refused.
        flags: MapFlags
    ) -> (), Peer, batch,
    errors [NotPermitted NotFound BadAddress InvalidArgument Misaligned AlreadyMapped QuotaExceeded Busy],
    clauses {
        "GRT-5": "A grant is mapped at one place at a time; a second map is Busy.",
        "GRT-6": "Writing needs a grant for writing: else NotPermitted.",
        "GRT-7": "A grant that does not exist or is for somebody else is NotPermitted.",
    }

    /// Takes a granted frame out of the caller's space.
    59 grant_unmap GrantUnmap(
        /// The VM that granted it.
        owner: VmId,
        /// Its grant.
        grant: GrantRef
    ) -> (), Own, batch,
    errors [InvalidArgument NotPermitted],
    clauses {
        "GRT-8": "A grant that the caller has not mapped is NotPermitted.",
    }

    /// Copies between the caller's buffer and a granted frame.
    60 grant_copy GrantCopy(
        /// The VM that granted it.
        owner: VmId,
        /// Its grant.
        grant: GrantRef,
        /// First byte in the frame.
        offset: u64,
        /// The caller's buffer.
        buffer: GuestVirt,
        /// Bytes; offset and length stay within the frame.
        length: u64,
        /// Which way.
        direction: CopyDirection
    ) -> (), Peer, batch,
    errors [NotPermitted InvalidArgument BadAddress],
    clauses {
        "GRT-9": "Copying to the frame needs a grant for writing: else NotPermitted.",
        "GRT-10": "BadAddress may leave a part of the bytes copied.",
    }

    /// Makes up to 64 calls, one after the other.
    63 batch Batch(
        /// Array of `BatchEntry`.
        entries: GuestVirt,
        /// Entries, at most 64.
        count: u64
    ) -> u64, Own, alone,
    errors [BadAddress TooLong NotInBatch],
    clauses {
        "BAT-1": "Returns how many entries were called; each has its own result written. It may stop early, and is then called again for the rest.",
        "BAT-2": "A call that cannot stand in a batch gets NotInBatch as its result; the batch goes on.",
    }
}

/// Two results: rax and rdx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair(
    /// rax, at most [`crate::status::MAX_VALUE`].
    pub u64,
    /// rdx, any value.
    pub u64,
);

impl Reply for Pair {
    const REGISTERS: usize = 2;
    fn encode(self) -> (u64, u64) {
        (self.0, self.1)
    }
    fn decode(rax: u64, rdx: u64) -> Self {
        Pair(rax, rdx)
    }
}

impl Reply for () {
    const REGISTERS: usize = 0;
    fn encode(self) -> (u64, u64) {
        (0, 0)
    }
    fn decode(_rax: u64, _rdx: u64) -> Self {}
}

impl Reply for u64 {
    const REGISTERS: usize = 1;
    fn encode(self) -> (u64, u64) {
        (self, 0)
    }
    fn decode(rax: u64, _rdx: u64) -> Self {
        rax
    }
}

/// Numbers that fit a register whole or are refused, and handles over them.
macro_rules! arguments {
    (word: $($name:ident $c:literal,)* ; half: $($half:ident $hc:literal,)* ; flags: $($flags:ident,)* ; choice: $($choice:ident,)*) => {
        $(impl Argument for $name {
            const C_TYPE: &'static str = $c;
            #[inline(always)]
            fn decode(register: u64) -> Result<Self, Status> { Ok($name(register)) }
            #[inline(always)]
            fn encode(self) -> u64 { self.0 }
        })*
        $(impl Argument for $half {
            const C_TYPE: &'static str = $hc;
            #[inline(always)]
            fn decode(register: u64) -> Result<Self, Status> { u32::decode(register).map($half) }
            #[inline(always)]
            fn encode(self) -> u64 { u64::from(self.0) }
        })*
        $(impl Argument for $flags {
            const C_TYPE: &'static str = "uint64_t";
            #[inline(always)]
            fn decode(register: u64) -> Result<Self, Status> { $flags::from_bits(register).ok_or(Status::InvalidArgument) }
            #[inline(always)]
            fn encode(self) -> u64 { self.bits() }
        })*
        $(impl Argument for $choice {
            const C_TYPE: &'static str = "uint64_t";
            #[inline(always)]
            fn decode(register: u64) -> Result<Self, Status> { $choice::from_number(register).ok_or(Status::InvalidArgument) }
            #[inline(always)]
            fn encode(self) -> u64 { self.number() }
        })*
    };
}

arguments! {
    word: Gfn "uint64_t", GuestVirt "uint64_t", Nanos "uint64_t",;
    half: VmId "uint32_t", VcpuId "uint32_t", Port "uint32_t", SpaceId "uint32_t", GrantRef "uint32_t",;
    flags: MapFlags, GrantFlags,;
    choice: InfoTopic, EventSource, SegmentBase, IoWidth, CopyDirection,
}

impl Argument for u64 {
    const C_TYPE: &'static str = "uint64_t";
    fn decode(register: u64) -> Result<Self, Status> {
        Ok(register)
    }
    fn encode(self) -> u64 {
        self
    }
}

impl Argument for u32 {
    const C_TYPE: &'static str = "uint32_t";
    fn decode(register: u64) -> Result<Self, Status> {
        u32::try_from(register).map_err(|_| Status::InvalidArgument)
    }
    fn encode(self) -> u64 {
        u64::from(self)
    }
}

/// Replies that are one handle.
macro_rules! handle_replies {
    ($($name:ident)*) => {$(
        impl Reply for $name {
            const REGISTERS: usize = 1;
            fn encode(self) -> (u64, u64) { (u64::from(self.0), 0) }
            fn decode(rax: u64, _rdx: u64) -> Self {
                // The hypervisor returned a handle that it got from a 32-bit number.
                $name(u32::try_from(rax).unwrap_or(u32::MAX))
            }
        }
    )*};
}

handle_replies! { Port SpaceId GrantRef }

#[cfg(test)]
mod tests;
