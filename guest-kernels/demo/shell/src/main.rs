//! An interactive console over the VM's own state.
#![cfg_attr(target_os = "none", no_std, no_main)]

mod command;
mod line;

use guest_sdk::console::Input;
use guest_sdk::{Nanos, StartInfo, print, println};

use command::Next;
use line::Line;

guest_sdk::entry!(shell);

fn shell(start: &'static StartInfo) -> u64 {
    let mut input = match Input::open() {
        Ok(input) => input,
        Err(status) => {
            println!("shell: no input: {status}");
            return 1;
        }
    };
    println!("shell: ready");
    print!("shell> ");
    let mut line = Line::new();
    loop {
        let mut bytes = [0; 64];
        let taken = input.read(&mut bytes, Nanos::NEVER);
        for byte in bytes.iter().take(taken) {
            let Some(text) = line.type_byte(*byte) else { continue };
            match command::run(text, start) {
                Next::Prompt => print!("shell> "),
                Next::Exit => {
                    println!("shell: done");
                    return 0;
                }
            }
        }
    }
}
