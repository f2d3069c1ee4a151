//! Facts, console and log.

use core::sync::atomic::Ordering;

use hv_arch::guest::copy;
use hv_core::addr::convert::{index, wide};
use hv_core::policy::{Operation, Permit};
use protocol::Status;
use protocol::call::{ConsoleRead, ConsoleWrite, Info, LogWrite};
use protocol::flags::InfoTopic;
use protocol::layout::limit;
use protocol::version;

use super::{Caller, Refusal};
use crate::hypervisor::machine::machine;

#[inline(always)]
pub(super) fn info(caller: &mut Caller<'_>, call: Info) -> Result<u64, Refusal> {
    Ok(match call.topic {
        InfoTopic::Version => version::CURRENT.packed(),
        InfoTopic::Features => caller.vm().features.bits(),
        InfoTopic::OwnVm => u64::from(caller.vm().id.0),
        InfoTopic::OwnVcpu => u64::from(caller.vcpu.id.0),
        InfoTopic::VcpuCount => wide(caller.vm().vcpu_count),
        InfoTopic::MemoryFrames => caller.memory()?.list().frames(),
        InfoTopic::PoolFrames => caller.memory()?.pool_frames(),
        InfoTopic::Time => time_of(caller.own(Operation::TimeRead)?)?,
    })
}

/// The time of the VM that a permit is for.
fn time_of(permit: Permit) -> Result<u64, Status> {
    let vm = machine().vm(permit.object()).ok_or(Status::NotPermitted)?;
    Ok(vm.now().0)
}

/// Room for the longest write.
const BUFFER: usize = 1024;
const _: () = assert!(limit::CONSOLE_BYTES == 1024);

/// The part of a buffer that a call asks for.
fn part(buffer: &mut [u8; BUFFER], length: u64) -> Result<&mut [u8], Status> {
    buffer.get_mut(..index(length)).ok_or(Status::TooLong)
}

pub(super) fn console_write(caller: &mut Caller<'_>, call: ConsoleWrite) -> Result<u64, Refusal> {
    let mut buffer = [0; BUFFER];
    let bytes = part(&mut buffer, call.length)?;
    copy::read(call.buffer, bytes)?;
    if bytes.is_empty() {
        return Ok(0);
    }
    let permit = caller.own(Operation::ConsoleWrite)?;
    let taken = machine().line.lock().write(permit, bytes);
    if taken == 0 { Err(Status::Retry.into()) } else { Ok(wide(taken)) }
}

pub(super) fn console_read(caller: &mut Caller<'_>, call: ConsoleRead) -> Result<u64, Refusal> {
    let mut buffer = [0; BUFFER];
    let bytes = part(&mut buffer, call.length)?;
    let permit = caller.own(Operation::ConsoleRead)?;
    let mut line = machine().line.lock();
    let read = line.peek(&permit, bytes);
    copy::write(call.buffer, bytes.get(..read).unwrap_or(&[]))?;
    // Only what arrived is taken off the queue.
    line.consume(permit, read);
    Ok(wide(read))
}

pub(super) fn log_write(caller: &mut Caller<'_>, call: LogWrite) -> Result<(), Refusal> {
    let mut buffer = [0; BUFFER];
    let bytes = part(&mut buffer, call.length)?;
    copy::read(call.buffer, bytes)?;
    let vm = caller.vm();
    let sequence = vm.log_sequence.fetch_add(1, Ordering::Relaxed);
    let permit = caller.own(Operation::ConsoleWrite)?;
    machine().line.lock().log(Some(permit), sequence, bytes);
    Ok(())
}
