//! Hypercalls: whatever registers hold, a call is decoded to what they say or refused.

use std::fmt::Debug;

use protocol::Status;
use protocol::call::{self, CALLS, Call, Handler, Registers, Reply, dispatch};

use super::Choices;

/// A handler that notes what it was called with and answers any words.
struct Echo {
    registers: Registers,
    words: (u64, u64),
    called: Option<u64>,
}

impl Echo {
    fn take<C: Call + PartialEq + Debug>(&mut self, call: C) -> Result<C::Output, Status> {
        let encoded = call.encode();
        assert_eq!(C::decode(encoded).as_ref(), Ok(&call), "a call survives its registers");
        for (used, given) in encoded.into_iter().zip(self.registers) {
            assert!(used == given || used == 0, "a register was changed on its way: {given:#x} to {used:#x}");
        }
        self.called = Some(C::NUMBER);
        let reply = <C::Output as Reply>::decode(self.words.0, self.words.1);
        Ok(reply)
    }
}

macro_rules! handlers {
    ($($name:ident $Type:ident)*) => {
        impl Handler for Echo {
            type Refusal = Status;
            $(fn $name(&mut self, call: call::$Type) -> Result<<call::$Type as Call>::Output, Status> {
                self.take(call)
            })*
        }
    };
}

handlers! {
    info Info
    console_write ConsoleWrite
    console_read ConsoleRead
    log_write LogWrite
    audit_read AuditRead
    yield_cpu YieldCpu
    block Block
    exit Exit
    vcpu_start VcpuStart
    vcpu_stop VcpuStop
    vcpu_kick VcpuKick
    timer_set TimerSet
    trap_table_set TrapTableSet
    entry_points_set EntryPointsSet
    resume Resume
    event_deliver EventDeliver
    segment_base_set SegmentBaseSet
    segment_base_get SegmentBaseGet
    debug_register_set DebugRegisterSet
    debug_register_get DebugRegisterGet
    cpuid Cpuid
    io_read IoRead
    io_write IoWrite
    space_create SpaceCreate
    space_destroy SpaceDestroy
    space_switch SpaceSwitch
    map Map
    unmap Unmap
    protect Protect
    memory_batch MemoryBatch
    translate Translate
    frame_release FrameRelease
    frame_reclaim FrameReclaim
    event_alloc EventAlloc
    event_bind EventBind
    event_send EventSend
    event_close EventClose
    grant_create GrantCreate
    grant_revoke GrantRevoke
    grant_map GrantMap
    grant_unmap GrantUnmap
    grant_copy GrantCopy
    batch Batch
}

/// One call: its number and registers from the bytes.
pub fn calls(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let number = match choices.below(4) {
        0 => choices.word(),
        _ => u64::from(choices.below(64)),
    };
    let registers = [(); 6].map(|()| choices.word());
    let words = (choices.word(), choices.word());
    let mut echo = Echo { registers, words, called: None };
    let answer = dispatch(&mut echo, number, registers);
    let known = CALLS.iter().find(|info| info.number == number);
    match (answer, known) {
        (Ok((_, second)), Some(info)) => {
            assert_eq!(echo.called, Some(number));
            assert_eq!(second.is_some(), info.result_registers > 1);
        }
        (Err(status), Some(_)) => {
            assert_eq!((status, echo.called), (Status::InvalidArgument, None));
        }
        (answer, None) => assert_eq!((answer, echo.called), (Err(Status::UnknownCall), None)),
    }
}
