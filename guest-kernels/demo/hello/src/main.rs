//! The smallest guest: greets and ends.
#![cfg_attr(target_os = "none", no_std, no_main)]

use guest_sdk::{StartInfo, defmt, println, time};

guest_sdk::entry!(main_of_kernel);

fn main_of_kernel(start: &'static StartInfo) {
    defmt::info!("hello from VM {=u32}", start.vm);
    println!(
        "Hello from {}: {} KiB of memory, {} vCPU(s), {} us after the start.",
        start.name(),
        start.memory_frames * 4,
        start.vcpus,
        time::now().0 / 1000,
    );
    if !start.command_line().is_empty() {
        println!("command line: {}", start.command_line());
    }
    println!("hello: done");
}
