//! The whole kernel.

use core::panic::PanicInfo;

use guest_sdk::call;
use guest_sdk::protocol::flags::InfoTopic;
use guest_sdk::protocol::note::AbiNote;
use guest_sdk::protocol::shared::{START_MAGIC, StartInfo};

#[used]
#[unsafe(link_section = ".note.cloister")]
static NOTE: AbiNote = AbiNote::CURRENT;

/// Where the hypervisor enters.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "call {kernel}", "ud2", kernel = sym kernel)
}

extern "C" fn kernel(start: &'static StartInfo) -> ! {
    let well = start.magic == START_MAGIC
        && call::info(InfoTopic::OwnVm) == Ok(u64::from(start.vm))
        && call::info(InfoTopic::MemoryFrames) == Ok(start.memory_frames)
        && call::info(InfoTopic::Version) == Ok(start.version)
        && call::info(InfoTopic::Features) == Ok(start.features);
    let text: &[u8] = if well { b"PASS bare\n" } else { b"FAIL bare: facts differ\n" };
    let _ = call::console_write(text);
    call::exit(u64::from(!well))
}

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    let _ = call::console_write(b"FAIL bare: a panic\n");
    call::exit(1)
}
