//! The commands.

use guest_sdk::protocol::flags::InfoTopic;
use guest_sdk::raw::vcpu::page_of;
use guest_sdk::raw::{call, heap};
use guest_sdk::{StartInfo, VcpuId, frame, print, println, time};

use core::sync::atomic::Ordering;

/// What the shell does after a command.
pub enum Next {
    /// It asks for another.
    Prompt,
    /// It ends.
    Exit,
}

const COMMANDS: [(&str, &str); 7] = [
    ("help", "this list"),
    ("ps", "what the VM's vCPUs have done"),
    ("mem", "how much memory is used"),
    ("time", "the VM's time"),
    ("echo TEXT", "prints the text"),
    ("crash", "reads an address that is not there, to see the report"),
    ("exit", "ends the VM"),
];

/// Executes one line.
pub fn run(line: &str, start: &StartInfo) -> Next {
    let line = line.trim();
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    match name {
        "" => {}
        "help" => help(),
        "ps" => ps(start),
        "mem" => mem(),
        "time" => show_time(),
        "echo" => println!("{}", rest.trim()),
        "crash" => crash(),
        "exit" => return Next::Exit,
        other => println!("no command {other}; help lists them"),
    }
    Next::Prompt
}

fn help() {
    for (name, meaning) in COMMANDS {
        println!("  {name:10} {meaning}");
    }
}

fn ps(start: &StartInfo) {
    println!("VM {} ({}), {} vCPU(s)", start.vm, start.name(), start.vcpus);
    println!("  vcpu   run ms  wait ms  switches");
    for number in 0..start.vcpus {
        let Some(page) = page_of(VcpuId(number)) else { continue };
        let millis = |nanos: u64| nanos / 1_000_000;
        println!(
            "  {number:4} {:8} {:8} {:9}",
            millis(page.run_time_ns.load(Ordering::Relaxed)),
            millis(page.steal_time_ns.load(Ordering::Relaxed)),
            page.switches.load(Ordering::Relaxed),
        );
    }
}

fn mem() {
    let (free, total) = frame::usage();
    let (used, spare) = heap::usage();
    println!("  frames: {free} free of {total}");
    println!("  heap: {used} bytes used, {spare} free");
    if let Ok(pool) = call::info(InfoTopic::PoolFrames) {
        println!("  pool: {pool} frames free");
    }
}

fn show_time() {
    let now = time::now().0;
    print!("  {}.{:06} s since the start", now / 1_000_000_000, now / 1000 % 1_000_000);
    match time::wall_clock() {
        Some(wall) => println!(", {} s since 1970", wall.0 / 1_000_000_000),
        None => println!(),
    }
}

#[expect(unsafe_code, reason = "the very point: the crash that the user asked for")]
fn crash() {
    println!("reading address 0x10");
    // SAFETY: none: nothing is mapped there. The read faults, and the hypervisor ends this VM.
    let word = unsafe { core::ptr::with_exposed_provenance::<u64>(0x10).read_volatile() };
    println!("read {word}: the page is there?");
}
