//! Reading the audit log.

use core::mem::size_of;

use hv_arch::guest::copy;
use hv_core::addr::convert::wide;
use hv_core::policy::Operation;
use protocol::GuestVirt;
use protocol::Status;
use protocol::audit::READ_AT_ONCE;
use protocol::call::AuditRead;
use protocol::shared::AuditRecord;

use super::{Caller, Refusal};
use crate::hypervisor::machine::machine;

pub(super) fn audit_read(caller: &mut Caller<'_>, call: AuditRead) -> Result<u64, Refusal> {
    let vm = caller.vm().id;
    let _permit = machine().image.monitor().decide(vm, Operation::AuditRead, vm)?;
    if call.count > READ_AT_ONCE {
        return Err(Status::TooLong.into());
    }
    let mut line = machine().line.lock();
    line.audit.settle_due(machine().clock.now(), hv_arch::local::id());
    let mut done = 0;
    while done < call.count
        && let Some(record) = line.audit.read(done)
    {
        let place = GuestVirt(call.buffer.0.wrapping_add(done.wrapping_mul(wide(size_of::<AuditRecord>()))));
        copy::write_value(place, record)?;
        done = done.saturating_add(1);
    }
    line.audit.consume(done);
    Ok(done)
}
