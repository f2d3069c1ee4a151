//! Links a guest kernel.
fn main() {
    guest_build::kernel();
}
