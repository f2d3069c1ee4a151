//! Links a user program of the `tasks` demo.
fn main() {
    guest_build::user_program(0x40_0000);
}
