//! Writes where it may not, and is killed for it.
#![cfg_attr(target_os = "none", no_std, no_main)]

use tasks_user::println;

tasks_user::program!(misbehave);

#[expect(unsafe_code, reason = "the fault that the kernel is to survive")]
fn misbehave() -> u64 {
    println!("wild: writing to address 0x1000");
    let nowhere = core::ptr::with_exposed_provenance_mut::<u64>(0x1000);
    // SAFETY: none: nothing is mapped there, and the kernel kills the process.
    unsafe { nowhere.write_volatile(1) };
    println!("wild: the write went through");
    1
}
