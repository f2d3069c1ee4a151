//! I/O ports of VMs that drive devices.

use hv_core::io;
use protocol::call::{IoRead, IoWrite};

use super::{Caller, Refusal};

pub(super) fn io_read(caller: &mut Caller<'_>, call: IoRead) -> Result<u64, Refusal> {
    let access = io::check(caller.vm().io_ports, call.port, call.width)?;
    Ok(hv_arch::io::read_for_guest(&access).into())
}

pub(super) fn io_write(caller: &mut Caller<'_>, call: IoWrite) -> Result<(), Refusal> {
    let access = io::check(caller.vm().io_ports, call.port, call.width)?;
    hv_arch::io::write_for_guest(&access, io::check_value(call.value, call.width)?);
    Ok(())
}
