//! Facts, console, services and I/O privilege.

use core::sync::atomic::Ordering;

use hv_arch::guest::copy;
use hv_core::addr::convert::index;
use hv_core::policy::Operation;
use protocol::GuestVirt;
use protocol::xen::{Errno, M2P_START, VERSION, assist, console, physdev, version};

use super::{Arguments, Caller, Refusal, Reply, read, write};
use crate::hypervisor::machine::machine;

/// A text in an array, zeros behind it.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let most = N.saturating_sub(1);
    bytes.iter_mut().take(most).zip(text.bytes()).for_each(|(slot, byte)| *slot = byte);
    bytes
}

#[inline(never)]
pub(super) fn xen_version(caller: &mut Caller<'_>, command: u64, argument: u64) -> Reply {
    match command {
        version::VERSION => return Ok(VERSION),
        version::EXTRA_VERSION => write(argument, &text::<16>("-cloister"))?,
        version::COMPILE_INFO => {
            write(argument, &text::<64>("rustc"))?;
            write(argument.wrapping_add(64), &text::<16>("cloister"))?;
            write(argument.wrapping_add(80), &text::<32>("local"))?;
            write(argument.wrapping_add(112), &text::<32>(""))?;
        }
        version::CAPABILITIES => write(argument, &text::<1024>("xen-3.0-x86_64 "))?,
        version::CHANGE_SET => write(argument, &text::<64>(env!("CARGO_PKG_VERSION")))?,
        version::PLATFORM_PARAMETERS => write(argument, &M2P_START)?,
        version::GET_FEATURES => {
            let word: u32 = read(argument)?;
            if word != 0 {
                return Err(Errno::Invalid.into());
            }
            write(argument.wrapping_add(4), &version::FEATURES)?;
        }
        version::PAGE_SIZE => return Ok(protocol::layout::PAGE_SIZE),
        version::GUEST_HANDLE => {
            // The only name that a VM has for itself is its number.
            let own = caller.vm().id.0;
            write(argument, &[0, 0, 0, own])?;
        }
        version::COMMAND_LINE => write(argument, &text::<1024>(""))?,
        version::BUILD_ID => return Err(Errno::NoData.into()),
        _ => return caller.unknown(protocol::xen::call::XEN_VERSION),
    }
    Ok(0)
}

/// Bytes that one call writes.
const CHUNK: usize = 256;

#[inline(never)]
pub(super) fn console_io(caller: &mut Caller<'_>, arguments: &mut Arguments) -> Reply {
    let [command, count, buffer, ..] = *arguments;
    // The count is an `int`.
    let count = count & 0x7fff_ffff;
    if command == console::READ {
        return Ok(0);
    }
    if command != console::WRITE {
        return caller.unknown(protocol::xen::call::CONSOLE_IO);
    }
    let mut bytes = [0; CHUNK];
    let part = bytes.get_mut(..index(count).min(CHUNK)).unwrap_or(&mut []);
    copy::read(GuestVirt(buffer), part)?;
    let vm = caller.vm().id;
    let permit = machine().image.monitor().decide(vm, Operation::ConsoleWrite, vm).map_err(|_| Errno::NotPermitted)?;
    let taken = hv_core::addr::convert::wide(machine().line.lock().write(permit, part));
    if taken < count {
        // The line is slow: the rest follows, with events in between.
        arguments[1] = count.wrapping_sub(taken);
        arguments[2] = buffer.wrapping_add(taken);
        if taken == 0 {
            caller.cpu.partition().scheduler.lock().yield_now(caller.cpu.id);
            caller.cpu.ask(crate::hypervisor::cpu::work::RESCHEDULE);
        }
        return Err(Refusal::Restart);
    }
    Ok(0)
}

#[inline(never)]
pub(super) fn vm_assist(caller: &mut Caller<'_>, command: u64, which: u64) -> Reply {
    if which >= 64 || assist::KNOWN >> which & 1 == 0 {
        return Err(Errno::Invalid.into());
    }
    let bit = 1_u64.wrapping_shl(u32::try_from(which).unwrap_or(0));
    match command {
        assist::ENABLE => caller.domain.assists.fetch_or(bit, Ordering::Relaxed),
        assist::DISABLE => caller.domain.assists.fetch_and(!bit, Ordering::Relaxed),
        _ => return caller.unknown(protocol::xen::call::VM_ASSIST),
    };
    let is_architectural = caller.domain.has_assist(assist::ARCHITECTURAL_IOPL);
    for xen in caller.vm().vcpus().iter().filter_map(|vcpu| vcpu.xen.as_ref()) {
        xen.state.lock().own.privilege.is_architectural = is_architectural;
    }
    Ok(0)
}

#[inline(never)]
pub(super) fn physdev_op(caller: &mut Caller<'_>, command: u64, argument: u64) -> Reply {
    match command {
        physdev::SET_IOPL => {
            let wanted: u32 = read(argument)?;
            let level = u8::try_from(wanted).ok().filter(|level| *level <= 3).ok_or(Errno::Invalid)?;
            caller.state().own.privilege.level = level;
            Ok(0)
        }
        // No port does anything, so which of them user mode may use makes no difference.
        physdev::SET_IOBITMAP => Ok(0),
        _ => caller.unknown(protocol::xen::call::PHYSDEV_OP),
    }
}
