//! Explains how a VM died: what the hypervisor recorded, with symbols, source lines, the
//! instruction and the names of calls.

#[cfg(test)]
mod tests;

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
use protocol::call::CALLS;
use protocol::handle::VmId;
use protocol::record::{CallTrace, Crash, Register, WalkStep};
use protocol::status::Status;

use crate::decode::Programs;
use crate::error::codes::VM_STACK;

/// Names of the exceptions of the architecture (Intel SDM volume 3, table 6-1).
const EXCEPTIONS: [&str; 22] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved exception",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization exception",
    "control protection",
];

/// The report, line by line, without the VM's name in front.
pub fn lines(crash: &Crash<'_>, programs: &Programs) -> Vec<String> {
    let mode = if crash.kernel_mode { "kernel" } else { "user" };
    let mut lines = vec![
        format!("died: {}: {}", crash.code, headline(crash)),
        format!("  where   vCPU {}, {mode} mode", crash.vcpu),
    ];
    if let Some(vector) = crash.vector {
        lines.push(format!("  vector  {vector}, error code {:#x}", crash.error_code));
    }
    if let Some(rip) = register(crash, "rip") {
        lines.extend(address(programs, crash.vm, rip));
        lines.extend(instruction(&crash.code_bytes, rip).map(|text| format!("  code    {text}")));
    }
    if !crash.page_walk.is_empty() {
        lines.push(format!("  walk    {}", walk(&crash.page_walk)));
    }
    lines.extend(registers(&crash.registers));
    let text = if programs.speaks_xen(crash.vm) { xen_call_text } else { call_text };
    lines.extend(calls(&crash.last_calls, text));
    lines
}

/// A register's value.
fn register(crash: &Crash<'_>, name: &str) -> Option<u64> {
    let found = crash.registers.iter().find(|other| other.name == name);
    found.map(|register| register.value)
}

/// The instruction pointer with the function and line that lie there, and what was inlined.
fn address(programs: &Programs, vm: VmId, address: u64) -> Vec<String> {
    let Some(place) = programs.place(vm, address) else {
        return vec![format!("  rip     {address:#018x} (in none of the VM's programs)")];
    };
    let mut lines = vec![format!("  rip     {address:#018x} {place}")];
    // Of what was inlined, the library's own functions tell nothing.
    let callers = place.frames.iter().filter(|frame| !frame.foreign).skip(1);
    lines.extend(callers.map(|frame| format!("          in {} ({})", frame.function, frame.line)));
    lines
}

/// The first instruction of some bytes.
fn instruction(bytes: &[u8], rip: u64) -> Option<String> {
    if bytes.is_empty() {
        return Some("cannot be read at this address".to_owned());
    }
    let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        let text: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
        return Some(format!("{} (no valid instruction)", text.join(" ")));
    }
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    Some(text)
}

/// The cause in a sentence: the exception in the architecture's words, then the hypervisor's own.
fn headline(crash: &Crash<'_>) -> String {
    let Some(vector) = crash.vector else {
        return crash.reason.to_string();
    };
    let name = EXCEPTIONS.get(usize::from(vector)).copied().unwrap_or("exception");
    let cause = match crash.fault_address {
        // What cannot be written then is the kernel stack, whatever the exception was.
        Some(address) if crash.code == VM_STACK.id => {
            return format!("{name}: {} (stack address {address:#x})", crash.reason);
        }
        Some(address) => format!("{name} at {address:#x} ({})", access(crash.error_code)),
        None => name.to_owned(),
    };
    match crash.reason.strip_prefix(name) {
        Some(rest) => format!("{cause}{rest}"),
        None => format!("{cause}: {}", crash.reason),
    }
}

/// A page fault's error code in words (Intel SDM volume 3, 4.7).
fn access(error_code: u64) -> &'static str {
    let bit = |index: u32| error_code & (1 << index) != 0;
    match (bit(4), bit(1), bit(0)) {
        (true, _, false) => "execution of a page that is not mapped",
        (true, _, true) => "execution of a page that may not be executed",
        (false, true, false) => "write to a page that is not mapped",
        (false, true, true) => "write to a page that may not be written",
        (false, false, false) => "read of a page that is not mapped",
        (false, false, true) => "read of a page that is not the guest's",
    }
}

/// A page walk in one line, and where it stops.
fn walk(steps: &[WalkStep]) -> String {
    let steps: Vec<String> = steps.iter().map(step).collect();
    steps.join(" > ")
}

/// One level of a walk.
fn step(step: &WalkStep) -> String {
    /// Bits of an entry and their words (Intel SDM volume 3, table 4-20).
    const FLAGS: [(u32, &str); 6] =
        [(1, "write"), (2, "user"), (5, "accessed"), (6, "dirty"), (8, "global"), (63, "no-execute")];
    let mut text = format!("L{}[{}]", step.level, step.index);
    if step.flags & 1 == 0 {
        text.push_str(" not present");
        return text;
    }
    for (bit, name) in FLAGS {
        if step.flags & (1 << bit) != 0 {
            let _ = write!(text, " {name}");
        }
    }
    if step.flags & (1 << 7) != 0 && (2..=3).contains(&step.level) {
        text.push_str(" large");
    }
    text
}

/// The registers, four in a line.
fn registers(registers: &[Register<'_>]) -> Vec<String> {
    registers
        .chunks(4)
        .map(|group| {
            let group: Vec<String> =
                group.iter().map(|register| format!("{:>6} {:016x}", register.name, register.value)).collect();
            format!("  {}", group.join(" "))
        })
        .collect()
}

/// The last calls, newest first.
fn calls(calls: &[CallTrace], text: fn(&CallTrace) -> String) -> Vec<String> {
    if calls.is_empty() {
        return vec!["  calls   none".to_owned()];
    }
    let mut lines = vec!["  calls   the last ones, newest first:".to_owned()];
    lines.extend(calls.iter().map(|call| format!("    {}", text(call))));
    lines
}

/// One call of Xen's ABI with its result, in which small negative numbers are errors.
fn xen_call_text(call: &CallTrace) -> String {
    let name = protocol::xen::call::name(call.number).map_or_else(|| format!("call {}", call.number), str::to_owned);
    let [first, second] = call.arguments;
    match call.result.wrapping_neg() {
        errno @ 1..4096 => format!("{name}({first:#x}, {second:#x}, ...) = -{errno}"),
        _ => format!("{name}({first:#x}, {second:#x}, ...) = {:#x}", call.result),
    }
}

/// One call with its result.
fn call_text(call: &CallTrace) -> String {
    let info = CALLS.iter().find(|info| info.number == call.number);
    let arguments = match info {
        Some(info) => {
            let shown = info.arguments.iter().zip(call.arguments);
            let mut words: Vec<String> = shown.map(|((name, ..), value)| format!("{name}={value:#x}")).collect();
            if info.arguments.len() > call.arguments.len() {
                words.push("...".to_owned());
            }
            format!("{}({})", info.name, words.join(", "))
        }
        None => {
            let [first, second] = call.arguments;
            format!("call {} ({first:#x}, {second:#x})", call.number)
        }
    };
    match Status::check_register(call.result) {
        Ok(value) => format!("{arguments} = {value:#x}"),
        Err(status) => format!("{arguments} = {status}"),
    }
}
