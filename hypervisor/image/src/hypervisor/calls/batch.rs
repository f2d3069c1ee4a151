//! Many calls in one.

use core::mem::offset_of;

use hv_arch::guest::copy;
use hv_core::addr::convert::wide;
use protocol::call::{self, Batch};
use protocol::layout::limit;
use protocol::shared::BatchEntry;
use protocol::{GuestVirt, Status};

use super::processor::element;
use super::{Caller, Refusal, refused};
use crate::hypervisor::audit::Verdict;
use crate::hypervisor::death::{self, Cause};
use crate::hypervisor::machine::machine;

/// Nanoseconds after which a batch stops early, so that it keeps nobody waiting.
pub(super) const LONGEST_NS: u64 = 50_000;

pub(super) fn batch(caller: &mut Caller<'_>, batch: Batch) -> Result<u64, Refusal> {
    caller.alone()?;
    if batch.count > limit::BATCH {
        return Err(Status::TooLong.into());
    }
    let begin = machine().clock.now();
    for index in 0..batch.count {
        if index > 0 && machine().clock.now().saturating_sub(begin) > LONGEST_NS {
            return Ok(index);
        }
        if let Err(refusal) = one(caller, element::<BatchEntry>(batch.entries, index)?) {
            // What was done before is done: only a bad first entry refuses the batch.
            return if index == 0 { Err(refusal) } else { Ok(index) };
        }
    }
    Ok(batch.count)
}

/// Makes the call of one entry and writes its results there.
fn one(caller: &mut Caller<'_>, place: GuestVirt) -> Result<(), Refusal> {
    let entry: BatchEntry = copy::read_value(place)?;
    let mut inner = Caller { cpu: caller.cpu, vcpu: caller.vcpu, registers: caller.registers, in_batch: true };
    let (result, second) = match call::dispatch(&mut inner, entry.number, entry.arguments) {
        Ok((rax, rdx)) => (rax, rdx.unwrap_or(0)),
        // No call that goes on elsewhere can stand in a batch.
        Err(Refusal::Taken) => return Err(Refusal::Taken),
        Err(refusal) => {
            let (status, verdict) = refused(caller.vcpu, entry.number, refusal);
            if verdict == Verdict::Ends {
                death::die(caller.cpu, caller.vcpu, caller.registers, &Cause::AuditFull);
            }
            (status.to_register(), 0)
        }
    };
    #[cfg(feature = "recount")]
    crate::hypervisor::recount::answered(caller.vcpu.vm(), result);
    let at = place.0.wrapping_add(wide(offset_of!(BatchEntry, result)));
    copy::write_value(GuestVirt(at), &[result, second])?;
    Ok(())
}
