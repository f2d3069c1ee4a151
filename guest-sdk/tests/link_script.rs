//! The link script cannot take its base from the protocol by itself.

#[test]
fn the_script_links_kernels_where_the_protocol_says() {
    let script = include_str!("../guest.ld");
    let base = format!(". = {:#x};", protocol::layout::KERNEL_IMAGE.0);
    assert!(script.contains(&base), "{base}");
    assert!(script.contains(protocol::note::SECTION));
}
